"""The quantiser of a multi-granularity tokenizer by itself: canvases for NVG.

As `scale_quantizer`, but its codes are of clusters, and what models read are the latents so far themselves.

Symbols: B batch, K stages, L = 2^K positions, T = 3 L - 1 tokens, Z channels and h side of the latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B
from latentc.systems.nvg.granularity_codebook import GranularityCodebook


class GranuleQuantizer(Backbone):
    """Codebook and smoothing convolutions of a multi-granularity tokenizer (NVG, Wang et al. 2025, arXiv:2508.12811).

    `canvases`: tokens i64[B, T] -> the latents before each stage and after the last, f32[B, K + 2, L, Z]. `add_0`, …:
    the canvas f32[B, L, Z], codes i64[B, 2^k] and labels i64[B, L] of stage k -> the next canvas.
    """

    kind: Literal["granule_quantizer"]
    codebook: Annotated[
        GranularityCodebook,
        OneOfThese("blocks/bottlenecks", classes=(GranularityCodebook,), default="granularity_codebook"),
    ] = Field(description="codebook of the tokenizer")
    scale: float = Field(
        1.0,
        gt=0,
        le=1e6,
        description="scale of the tokenizer's latents, for small ones, so that a linear layer can tell codes apart",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"quantize_granules"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "granule_quantizer",
        "codebook": GranularityCodebook.EXAMPLE,
        "scale": 2.0,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens, codebook = spec.data.tokens, self.codebook
        if tokens is None:
            yield Problem((), f"a granule_quantizer takes tokens, but the data has {spec.data.words}")
            return
        if tokens.length != codebook.length:
            message = f"the stages of the codebook have {codebook.length} tokens, but samples have {tokens.length}"
            yield Problem(("codebook", "side"), message, f"set `data.tokens.grid: [{codebook.length}]`")
        if tokens.vocabulary != codebook.size:
            message = f"the codebook has {codebook.size} codes, but the data has {tokens.vocabulary} different tokens"
            yield Problem(("codebook", "size"), message, "give `data.tokens.vocabulary` the same value")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        codebook = self.codebook
        static = {"codes": codebook.size, "latent": codebook.channels}
        positions, count = codebook.side**2, codebook.stages
        tokens = Port("tokens", i64(B, codebook.length), "token", codebook.size)
        canvas = Port("canvas", f32(B, positions, codebook.channels), "state")
        labels = Port("labels", i64(B, positions), "position", positions)
        methods = {"canvases": add_method(mb, name, "canvases", _canvases(codebook, self.scale), (tokens,), static)}
        for k, length in enumerate(codebook.lengths):
            ports = (canvas, Port("tokens", i64(B, length), "token", codebook.size), labels)
            methods[f"add_{k}"] = add_method(mb, name, f"add_{k}", _add(codebook, k, self.scale), ports, static)
        return Network(name, methods, self.PROVIDES, sizes={"stages": count})


def _sequence(b: Builder, h: Var, latent: Any, positions: int, scale: float) -> Var:
    """f32[B, Z, h, h] -> scaled, f32[B, L, Z]."""
    x = b.transpose(b.reshape(h, shape=(h.shape[0], latent, positions)), perm=(0, 2, 1), out="added")
    return x if scale == 1.0 else b.mul(x, scale, out="added")


@cache
def _canvases(codebook: GranularityCodebook, scale: float) -> BlockBody:
    @module_class("GranuleQuantizer", "canvases", tokens="B T")
    def canvases(b: Builder, tokens: Var, *, codes: int, latent: int) -> Var:
        """The latents before each stage and after the last."""
        positions, count = codebook.side**2, sum(codebook.lengths)
        contents, labels = b.split(tokens, axis=1, sizes=(count, positions), out="contents labels")
        granules = codebook.granules({"codes": codes, "latent": latent}, labels)
        made: list[Var] = []
        for k, part in enumerate(granules.split(b, contents)):
            added = _sequence(b, granules.added(b, part, k), latent, positions, scale)
            made.append(b.add(made[-1], added, out="canvas") if made else added)
        every = [b.fill_like(made[0], 0.0), *made]
        shape = (tokens.shape[0], 1, positions, latent)
        return b.concat(*(b.reshape(one, shape=shape) for one in every), axis=1, out="canvases")

    return canvases


@cache
def _add(codebook: GranularityCodebook, k: int, scale: float) -> BlockBody:
    @module_class("GranuleQuantizer", f"add_{k}", canvas="B L latent")
    def add(b: Builder, canvas: Var, tokens: Var, labels: Var, *, codes: int, latent: int) -> Var:
        """The canvas with what the codes of a stage add to it."""
        granules = codebook.granules({"codes": codes, "latent": latent})
        added = granules.assigned(b, tokens, labels, k)
        return b.add(canvas, _sequence(b, added, latent, codebook.side**2, scale), out="canvas")

    return add
