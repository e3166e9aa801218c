"""The time inside norms, the rest as tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, Told
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class TimeNorm(BlockCondition):
    """Pre-norm residual blocks whose norms depend on the time (DiMR, Liu et al. 2024, arXiv:2406.09416)."""

    kind: Literal["time_norm"]
    TAKES: ClassVar[Told] = "time"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "time_norm"}

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(mixer, feed_forward, norm, init)


@cache
def _block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("TimeNormBlock" if mixer.normalised else "ConvNeXtBlock")
    def block(b: Builder, x: Var, t: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm block whose norms depend on the time t [B, 1]."""
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        h = norm.apply(b, "norm1", x, t) if mixer.normalised else x
        x = x + mixer.apply(b, "attn", h, rotary, init, dim=dim, **mixer.own(dim, static))
        return x + feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x, t), init, dim=dim, **feeding)

    return block
