"""One modulation for all blocks, and tokens of a condition by cross-attention."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.cross_attention import cross_attention
from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class AdalnSingle(BlockCondition):
    """One linear map of the condition scales, shifts and gates the branches of all blocks, to which each block adds a
    learned table; tokens of conditions enter by cross-attention between them (PixArt-alpha, Chen et al. 2023,
    arXiv:2310.00426)."""

    kind: Literal["adaln_single"]
    cross_heads: int | None = Field(
        None, gt=0, le=1_024, description="heads of the cross-attention; null: as many as the mixer has"
    )
    TAKES_TOKENS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_single"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(self, mixer, feed_forward, norm, init)

    def shared(self, b: Builder, c: Var, width: Any) -> Var:
        return dense(b, "adaLN", b.silu(c), 6 * width, True, "normal", out="modulation")

    def final_modulation(self, b: Builder, c: Var, width: Any) -> tuple[Var, Var]:
        table = b.param("scale_shift_table", f32(2, width), "normal", std=0.02)
        modulation = b.op("add", table, b.reshape(c, shape=(c.shape[0], 1, width)), out="modulation")
        shift, scale = b.split(modulation, axis=1, sizes=(1, 1), out="shift scale")
        return shift, scale


@cache
def _block(config: AdalnSingle, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("PixArtBlock")
    def block(b: Builder, x: Var, modulation: Var, *others: Var, context: int, dim: int, **static: Any) -> Var:
        """A transformer block: `modulation` [B, 6 D] scales, shifts and gates the branches beside cross-attention."""
        mixing = mixer.own(dim, static)
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        told, rotary = others[:context], others[context:]
        table = b.param("scale_shift_table", f32(6, dim), "normal", std=0.02)
        modulation = table + b.reshape(modulation, shape=(modulation.shape[0], 6, dim))
        names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
        shift, scale, gate, shift2, scale2, gate2 = b.split(modulation, axis=1, sizes=(1,) * 6, out=names)
        h = norm.apply(b, "norm1", x) * (scale + 1.0) + shift
        x = x + gate * mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing)
        if told:
            heads = config.cross_heads or static.get("heads", 1)
            x = x + b.sub("cross_attn", cross_attention, x, *told, dim=dim, heads=heads)
        h = norm.apply(b, "norm2", x) * (scale2 + 1.0) + shift2
        return x + gate2 * feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding)

    return block
