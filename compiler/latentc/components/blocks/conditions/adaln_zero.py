"""The condition as scale, shift and gate of every block."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class AdalnZero(BlockCondition):
    """Norms scaled and shifted, branches gated, by a linear map of the condition that starts at zero (DiT)."""

    kind: Literal["adaln_zero"]
    feed_forward_eps: float | None = Field(
        None, gt=0, description="eps of the norm before the feed-forward layer; null: that of `norm`"
    )
    feed_forward_norm: Annotated[Component | None, OneOf("blocks/norms")] = Field(
        None, description="the norm before the feed-forward layer (PixelFlow); null: as `norm`"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "adaln_zero"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        eps = self.feed_forward_eps
        second = self.feed_forward_norm if isinstance(self.feed_forward_norm, Norm) else norm
        second = second if eps is None else second.model_copy(update={"eps": eps})
        return _block(mixer, feed_forward, norm, second, init)


@cache
def _block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, norm2: Norm, init: str) -> BlockBody:
    @module_class("DiTBlock")
    def block(b: Builder, x: Var, c: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A transformer block conditioned by adaLN-Zero: c [B, D] scales, shifts and gates both branches."""
        mixing = {k: static[k] for k in mixer.static(dim)}
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        modulation = dense(b, "adaLN", b.silu(c), 6 * dim, True, "zeros", out="modulation")
        modulation = b.reshape(modulation, shape=(c.shape[0], 1, 6 * dim), out="modulation")
        names = "shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp"
        shift, scale, gate, shift2, scale2, gate2 = b.split(modulation, axis=2, sizes=(dim,) * 6, out=names)
        h = norm.apply(b, "norm1", x) * (scale + 1.0) + shift
        x = x + gate * mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixing)
        h = norm2.apply(b, "norm2", x) * (scale2 + 1.0) + shift2
        return x + gate2 * feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding)

    return block
