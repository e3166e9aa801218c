"""Recurrent interface networks: a few latents read many tokens, compute, and write; they are carried between steps.

No patch_transformer: its blocks work on two sequences, and its output has a part that the next evaluation is given.
Symbols: B batch, C channels, T tokens (patches), P patch side, E width of tokens, L latents, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.stochastic_depth import DropPath
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, image, problems_of_square
from latentc.components.parts import Problem, Spec, dense
from latentc.components.samplers.base import GuidedSampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.rin.rin_blocks import Drops, feed_forward, layer_norm, rin_block, self_block
from latentc.systems.rin.standardized import standardized_embedder


class Rin(Backbone):
    """RIN (Jabri et al. 2022, arXiv:2212.11972), as in coherence-aware diffusion (arXiv:2405.20324).

    Takes x f32[B, C, H, W], t f32[B], its conditions as tokens, and the latents of the previous evaluation; returns
    f32[B, C_out, H, W] and the latents f32[B, L, D].
    """

    kind: Literal["rin"]
    data_width: int = Field(gt=0, le=65_536, description="channels of a token (E)")
    width: int = Field(gt=0, le=65_536, multiple_of=8, description="channels of a latent (D)")
    latents: int = Field(
        gt=0, le=65_536, description="number of latents (L); with `concatenate` including those of time and conditions"
    )
    blocks: int = Field(gt=0, le=256, description="number of read-process-write blocks")
    layers: int = Field(gt=0, le=256, description="self-attention layers on the latents in each block")
    patch: int = Field(gt=0, le=1_024, description="side of a patch (P)")
    heads: int = Field(16, gt=0, le=1_024, description="heads of the read and write attentions")
    compute_heads: int = Field(16, gt=0, le=1_024, description="heads of the latent self-attention")
    latent_ratio: int = Field(
        4, gt=0, le=64, description="hidden width of the feed-forward on latents, as a multiple of D"
    )
    data_ratio: int = Field(
        4, gt=0, le=64, description="hidden width of the feed-forward on tokens, as a multiple of E"
    )
    bias: bool = Field(True, description="biases of the blocks' linear layers")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second linear layer of the latent layers, in training"
    )
    drop_path: DropPath = Field(
        0.0, description="stochastic depth in training: probability that a sample skips a branch of the latent layers"
    )
    concatenate: bool = Field(
        True, description="time and conditions are additional latents; false: the time is added to the latents"
    )
    attend: bool = Field(False, description="the latents attend to time and conditions at the start of each block")
    registers: int = Field(0, ge=0, le=65_536, description="learned tokens in front of those of a sequence (text)")
    sequence_layers: int = Field(
        0, ge=0, le=256, description="self-attention layers on the conditions, with 16 heads and layer scales"
    )
    time_scale: float = Field(1000.0, gt=0, le=1e6, description="factor of the time before the sinusoids")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "rin",
        "data_width": 16,
        "width": 16,
        "latents": 6,
        "blocks": 1,
        "layers": 1,
        "patch": 2,
        "heads": 2,
        "compute_heads": 2,
        "drop_path": 0.1,
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    TIME: ClassVar[bool] = True
    MEMORY: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("size",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        inner = min(self.width, self.data_width)
        for key, heads, width in (("heads", self.heads, inner), ("compute_heads", self.compute_heads, self.width)):
            if width % heads:
                yield Problem((key,), f"{heads} heads do not divide a width of {width}")
        if self.sequence_layers and self.width % SEQUENCE_HEADS:
            message = (
                f"the layers over conditions have {SEQUENCE_HEADS} heads, which do not divide the width of {self.width}"
            )
            yield Problem(("width",), message, f"use a multiple of {SEQUENCE_HEADS}")
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        terms = [term for _, term in spec.sampler.terms()] if isinstance(spec.sampler, GuidedSampler) else []
        if not all(t.MEMORY for t in terms) or len({names for t in terms for names in t.left_out(spec) if names}) > 1:
            message = "latents are carried for two branches only: with all conditions, and with some left out"
            yield Problem((), message, "keep only terms in `sampler.guidance` that leave out the same conditions")
        if self.entries(spec) and not self.concatenate and not self.attend:
            message = "with `concatenate: false`, no latent sees the conditions unless they attend to them"
            yield Problem(("concatenate",), message, "set `attend: true`, or leave `concatenate` out")
        if self.concatenate and self.learned(spec) < 1:
            others = self.latents - self.learned(spec)
            message = f"the time and the conditions take {others} latents, which leaves none of the {self.latents}"
            yield Problem(("latents",), message, f"use more than {others}")

    def learned(self, spec: Spec) -> int:
        """Latents that are weights."""
        if not self.concatenate:
            return self.latents
        cond = sum(e.token_shape(spec).length for e in self.entries(spec))
        return self.latents - 1 - cond - (self.registers if cond else 0)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, size, _ = spec.data.shape
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "data_width": self.data_width,
            "width": self.width,
            "latents": self.learned(spec),
            "blocks": self.blocks,
            "layers": self.layers,
            "heads": self.heads,
            "compute_heads": self.compute_heads,
            "inner": min(self.width, self.data_width),
            "latent_hidden": self.latent_ratio * self.width,
            "data_hidden": self.data_ratio * self.data_width,
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        time = spec.time.model_copy(update={"frequencies": self.width // 4})
        entries = self.entries(spec)
        ports = (
            Port("x", f32(B, channels, size, size), "state"),
            Port("t", f32(B), "time"),
            *ports_of(entries),
            Port("previous", f32(B, self.latents, self.width), "memory"),
        )
        body = _network(self, time, entries)
        forward = add_method(mb, name, "forward", body, ports, static, ("output", "memory"))
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"fourier": int(spec.time.DRAWN)})


SEQUENCE_HEADS = 16


@cache
def _network(config: Rin, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Rin", x="B channels size size", previous="B L width")
    def forward(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> tuple[Var, Var]:
        """Predicts from noisy x at time t, given the conditions; also returns the latents for the next evaluation."""
        *conditions, previous = others
        batch, size, patch, width = x.shape[0], static["size"], static["patch"], static["width"]
        grid, data_width = size // patch, static["data_width"]
        count = Named(int(grid * grid), "T")
        x = embedded_patches(b, "x_embedder", x, data_width, patch, "xavier", count)
        positions = b.param("pos_embed", f32(count, data_width), "normal", std=0.02)
        x = layer_norm(b, "x_norm", x, "x") + positions
        embedder = standardized_embedder(time, config.time_scale)
        moment = b.sub("t_embedder", embedder, t, dim=width, **time.static())
        moment = b.reshape(moment, shape=(batch, 1, width), out="moment")
        tokens, mask = _conditions(b, config, entries, conditions, width, static)
        learned = b.param("latents", f32(static["latents"], width), "normal", std=0.02)
        z = b.broadcast_to(learned, x, shape=(batch, *learned.shape), out="z")
        cond = b.concat(moment, *tokens, axis=1, out="c") if tokens else moment
        z = b.concat(z, cond, axis=1, out="z") if config.concatenate else b.add(z, moment, out="z")
        z = z + b.sub("previous", _previous, previous, dim=width, hidden=static["latent_hidden"])
        attended = (cond, *mask) if config.attend else ()
        block = rin_block(config.bias, config.attend, bool(mask), Drops(config.dropout, config.drop_path))
        names = ("data_width", "width", "inner", "layers", "heads", "compute_heads", "latent_hidden", "data_hidden")
        sizes = {name: static[name] for name in names}
        for name in items("blocks", static["blocks"]):
            x, z = b.sub(name, block, x, z, *attended, out="x z", **sizes)
        features = patch * patch * static["out_channels"]
        x = dense(b, "final", layer_norm(b, "final_norm", x), features, True, "xavier", out="x")
        return image(b, x, static["out_channels"], grid, patch, size, out="x"), z

    return forward


def _conditions(
    b: Builder, config: Rin, entries: tuple[Entry, ...], operands: Any, width: int, static: dict[str, Any]
) -> tuple[list[Var], tuple[Var, ...]]:
    """The conditions as tokens f32[B, S, D], if there are any, and a mask bool[B, 1, 1, 1 + S] if any may be hidden.

    The first token of the mask is the time's. Scores come first, then the registers, then sequences.
    """
    first: list[Var] = []
    rest: list[Var] = []
    masks: list[Var | None] = []
    for entry, own in with_operands(entries, operands):
        embedded, mask = entry.tokens(b, entry.prefix, own, width, static)
        if mask is None and config.sequence_layers:
            place = b.param(f"{entry.ports[0].name}_position", f32(width), "normal", std=0.02)
            embedded = b.add(embedded, place, out=entry.name)
        (first if mask is None else rest).append(embedded)
        masks += [mask] if mask is not None else []
    if not first and not rest:
        return [], ()
    batch = (first or rest)[0].shape[0]
    if config.registers:
        registers = b.param("registers", f32(config.registers, width), "normal", std=0.02)
        first.append(b.broadcast_to(registers, (first or rest)[0], shape=(batch, *registers.shape), out="registers"))
    tokens = [*first, *rest]
    tokens = [b.concat(*tokens, axis=1, out="tokens")] if len(tokens) > 1 else tokens
    seen = tuple(_mask(b, tokens[0], [*masks], int(tokens[0].shape[1]), extra) for extra in (0, 1)) if masks else ()
    for name in items("sequence", config.sequence_layers):
        block = self_block(True, True, bool(seen))
        sizes: dict[str, Any] = {"dim": width, "heads": SEQUENCE_HEADS, "hidden": 4 * width}
        tokens = [b.sub(name, block, tokens[0], *seen[:1], **sizes)]
    return tokens, seen[1:]


def _mask(b: Builder, like: Var, masks: list[Any], count: int, extra: int) -> Var:
    """bool[B, 1, 1, extra + count]: `masks`, after tokens that are always seen."""
    known = sum(int(mask.shape[1]) for mask in masks)
    ones = b.full(like, shape=(extra + count - known,), value=1.0, dtype="f32", out="always")
    always = b.greater(ones, 0.5, out="always")
    seen = b.concat(always, *masks, axis=1, out="seen") if extra + count > known else masks[0]
    return b.reshape(seen, shape=(seen.shape[0], 1, 1, extra + count), out="seen")


@module_class("Previous")
def _previous(b: Builder, z: Var, *, dim: int, hidden: int) -> Var:
    """The contribution of the previous evaluation's latents: nothing at first, as the norm's weights start at zero."""
    z = z + feed_forward(b, layer_norm(b, "norm", z, "h"), hidden)
    return layer_norm(b, "out_norm", z, init="zeros")
