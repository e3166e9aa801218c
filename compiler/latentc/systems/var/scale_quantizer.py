"""The quantiser of a multi-scale tokenizer by itself: what a model over its scales reads and makes between them.

A file of its own because the tokenizer is a spec of its own, and a model needs its codebook and its smoothing
convolutions in training and between the scales of a sample, not only to decode.

Symbols: B batch, K scales, n the side of a scale's map, L tokens of all scales, Z channels and h side of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone, add_method, asks
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B
from latentc.systems.var.multi_scale_codebook import MultiScaleCodebook


class ScaleQuantizer(Backbone):
    """Codebook and smoothing convolutions of a multi-scale tokenizer (VAR, Tian et al. 2024, arXiv:2404.02905).

    `scale_inputs`: tokens i64[B, L] -> the latents before each scale but the first, at its resolution, f32[B, L - n n,
    Z]. `add_0`: tokens i64[B, n n] of the first scale -> the latents f32[B, Z, h, h], and the input of the next scale
    f32[B, n n, Z]; `add_1`, …: latents, tokens -> the same. `mix_0`, …, for all scales: the same for mixtures f32[B, n
    n, V] of all codes; the last returns only latents. Its weights are those of the tokenizer.
    """

    kind: Literal["scale_quantizer"]
    codebook: Annotated[
        MultiScaleCodebook,
        OneOfThese("blocks/bottlenecks", classes=(MultiScaleCodebook,), default="multi_scale_codebook"),
    ] = Field(description="codebook of the tokenizer")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"quantize_scales", "mix_scales"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "scale_quantizer", "codebook": MultiScaleCodebook.EXAMPLE}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens, codebook = spec.data.tokens, self.codebook
        if tokens is None:
            yield Problem((), f"a scale_quantizer takes tokens, but the data has {spec.data.words}")
            return
        length = sum(codebook.lengths)
        if tokens.length != length:
            message = f"these scales have {length} tokens, but samples have {tokens.length}"
            yield Problem(("codebook", "scales"), message, f"set `data.tokens.grid: [{length}]`")
        if tokens.vocabulary != codebook.size:
            message = f"the codebook has {codebook.size} codes, but the data has {tokens.vocabulary} different tokens"
            yield Problem(("codebook", "size"), message, "give `data.tokens.vocabulary` the same value")
        if len(codebook.scales) < 2:
            yield Problem(("codebook", "scales"), "a single scale has no next scale to predict", "give two or more")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        codebook = self.codebook
        static = {"codes": codebook.size, "latent": codebook.channels}
        side, lengths = codebook.scales[-1], codebook.lengths
        latents = Port("latents", f32(B, codebook.channels, side, side), "state")
        tokens = Port("tokens", i64(B, sum(lengths)), "token", codebook.size)
        methods = {"scale_inputs": add_method(mb, name, "scale_inputs", _inputs(codebook), (tokens,), static)}
        outputs: tuple[Role, ...] = ("state", "output")
        for k, length in enumerate(lengths[:-1]):
            ports = (*((latents,) if k else ()), Port("tokens", i64(B, length), "token", codebook.size))
            methods[f"add_{k}"] = add_method(mb, name, f"add_{k}", _add(codebook, k), ports, static, outputs)
        last = len(lengths) - 1
        mixes = asks(spec, name, "mix_scales")
        for k, length in enumerate(lengths if mixes else ()):
            ports = (*((latents,) if k else ()), Port("shares", f32(B, length, codebook.size), "features"))
            returns = outputs if k < last else outputs[:1]
            methods[f"mix_{k}"] = add_method(mb, name, f"mix_{k}", _add(codebook, k, True), ports, static, returns)
        # The last scale's convolution may belong to the tokenizer alone.
        names = codebook.of_scales(static).names(last + 1 if mixes else last)
        return Network(name, methods, self.PROVIDES, sizes=names)


@cache
def _inputs(codebook: MultiScaleCodebook) -> BlockBody:
    @module_class("ScaleQuantizer", "scale_inputs", tokens="B L")
    def scale_inputs(b: Builder, tokens: Var, **static: Any) -> Var:
        """The latents before each scale but the first, at its resolution, from the tokens of all scales."""
        scales, latents = codebook.of_scales(static), None
        inputs = []
        for k, part in enumerate(scales.split(b, tokens)[:-1]):
            added = scales.added(b, part, k)
            latents = added if latents is None else b.add(latents, added, out="latents")
            inputs.append(scales.next_input(b, latents, k + 1))
        return b.concat(*inputs, axis=1, out="inputs") if len(inputs) > 1 else inputs[0]

    return scale_inputs


@cache
def _add(codebook: MultiScaleCodebook, k: int, mixed: bool = False) -> BlockBody:
    """`mixed`: what is added are mixtures of codes, not single ones."""

    def grown(b: Builder, latents: Var | None, codes: Var, static: dict[str, Any]) -> Any:
        scales = codebook.of_scales(static)
        added = scales.added(b, codes, k)
        latents = added if latents is None else b.add(latents, added, out="latents")
        return latents if k == len(codebook.scales) - 1 else (latents, scales.next_input(b, latents, k + 1))

    way = "mix" if mixed else "add"
    if k == 0:

        @module_class("ScaleQuantizer", f"{way}_0")
        def first(b: Builder, chosen: Var, **static: Any) -> Any:
            """The latents that the codes of the first scale stand for, and the input of the second."""
            return grown(b, None, chosen, static)

        return first

    @module_class("ScaleQuantizer", f"{way}_{k}", latents="B latent H W")
    def add(b: Builder, latents: Var, chosen: Var, **static: Any) -> Any:
        """The latents with what the codes of a scale add to them, and the input of the next scale, if there is one."""
        return grown(b, latents, chosen, static)

    return add
