"""One modulation for all blocks, and tokens of a condition by cross-attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.cross_attention import cross_attention
from latentc.components.blocks.mixing import Mix, chunk_mix, masked_mix
from latentc.components.blocks.stochastic_depth import dropped
from latentc.components.parts import CachedCondition, CachedMixer, FeedForward, Mixer, Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class AdalnSingle(CachedCondition):
    """One linear map of the condition provides scale, shift and gate of the branches in all blocks, plus a learned
    table per block; condition tokens enter by cross-attention in between (PixArt-alpha, Chen et al. 2023,
    arXiv:2310.00426).
    """

    kind: Literal["adaln_single"]
    cross_heads: int | None = Field(
        None, gt=0, le=1_024, description="heads of the cross-attention; null: as many as the mixer's"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_single"}

    @property
    def takes_tokens(self) -> bool:
        return True

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(self, mixer, feed_forward, norm, init)

    def masked_block(self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _masked_block(mixer, feed_forward, norm, init)

    def extend_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _extend_block(mixer, feed_forward, norm, init, masked)

    def begin_block(
        self, mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool = False
    ) -> BlockBody:
        return _begin_block(mixer, feed_forward, norm, init, masked)

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        return dense(b, "adaLN", b.silu(c), 6 * width, True, "normal", out="modulation")

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        table = b.param("scale_shift_table", f32(2, width), "normal", std=0.02)
        modulation = b.op("add", table, b.reshape(c, shape=(c.shape[0], 1, width)), out="modulation")
        shift, scale = b.split(modulation, axis=1, sizes=(1, 1), out="shift scale")
        return shift, scale


def _body(
    b: Builder,
    x: Var,
    modulation: Var,
    mix: Mix,
    cross: Callable[[Var], Var] | None,
    feed_forward: FeedForward,
    norm: Norm,
    init: str,
    dim: int,
    static: Mapping[str, Any],
) -> Var:
    feeding = {k: static[k] for k in feed_forward.static(dim)}
    table = b.param("scale_shift_table", f32(6, dim), "normal", std=0.02)
    modulation = table + b.reshape(modulation, shape=(modulation.shape[0], 6, dim))
    names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
    shift, scale, gate, shift2, scale2, gate2 = b.split(modulation, axis=1, sizes=(1,) * 6, out=names)
    (h,) = mix(norm.apply(b, "norm1", x) * (scale + 1.0) + shift)
    x = x + dropped(b, gate * h, static)
    if cross is not None:
        x = x + dropped(b, cross(x), static)
    h = norm.apply(b, "norm2", x) * (scale2 + 1.0) + shift2
    return x + dropped(b, gate2 * feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding), static)


@cache
def _block(config: AdalnSingle, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("PixArtBlock")
    def block(b: Builder, x: Var, modulation: Var, *others: Var, context: int, dim: int, **static: Any) -> Var:
        """A transformer block: `modulation` [B, 6 D] scales, shifts and gates the branches beside cross-attention."""
        told, rotary = others[:context], others[context:]

        def mix(h: Var) -> tuple[Var, ...]:
            return (mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixer.own(dim, static)),)

        def cross(x: Var) -> Var:
            heads = config.cross_heads or static.get("heads", 1)
            return b.sub("cross_attn", cross_attention, x, *told, dim=dim, heads=heads)  # type: ignore[no-any-return]

        return _body(b, x, modulation, mix, cross if told else None, feed_forward, norm, init, dim, static)

    return block


@cache
def _masked_block(mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("MaskedSharedModulationBlock")
    def block(b: Builder, x: Var, modulation: Var, mask: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A transformer block whose tokens see those where `mask` is true; `modulation` [B, 6 D] is of all blocks."""
        mix = masked_mix(b, mixer, mask, rotary, init, dim, static)
        return _body(b, x, modulation, mix, None, feed_forward, norm, init, dim, static)

    return block


@cache
def _extend_block(mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool) -> BlockBody:
    @module_class("MaskedSharedModulationBlock", "extend")
    def extend(
        b: Builder, x: Var, modulation: Var, keys: Var, values: Var, *others: Var, dim: int, **static: Any
    ) -> tuple[Var, ...]:
        """The block for the next tokens, against the keys and values of those before; returns them grown, too."""
        mix, grown = chunk_mix(b, mixer, (keys, values), others, masked, init, dim, static)
        return _body(b, x, modulation, mix, None, feed_forward, norm, init, dim, static), *grown

    return extend


@cache
def _begin_block(mixer: CachedMixer, feed_forward: FeedForward, norm: Norm, init: str, masked: bool) -> BlockBody:
    @module_class("MaskedSharedModulationBlock", "begin")
    def begin(b: Builder, x: Var, modulation: Var, *others: Var, dim: int, **static: Any) -> tuple[Var, ...]:
        """The block for the first tokens; returns their keys and values, too."""
        mix, grown = chunk_mix(b, mixer, (), others, masked, init, dim, static)
        return _body(b, x, modulation, mix, None, feed_forward, norm, init, dim, static), *grown

    return begin
