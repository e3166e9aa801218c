"""The time inside norms, the rest as tokens."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import BlockCondition, CachedMixer, FeedForward, Mixer, Norm, Told
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class TimeNorm(BlockCondition):
    """Pre-norm residual blocks whose norms depend on the time (DiMR, Liu et al. 2024, arXiv:2406.09416)."""

    kind: Literal["time_norm"]
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the outputs of mixer and feed-forward, in training")
    context: bool = Field(
        False,
        description="tokens attend to conditions with several tokens, such as captions, through keys and values from "
        "a separate layer; otherwise these are joined to the tokens",
    )
    TAKES: ClassVar[Told] = "time"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "time_norm"}

    @property
    def takes_tokens(self) -> bool:
        return self.context

    @property
    def takes_any_width(self) -> bool:
        return self.context

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(mixer, feed_forward, norm, init, self.dropout)


@cache
def _block(mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str, dropout: float) -> BlockBody:
    def dropped(b: Builder, x: Var) -> Var:
        return b.dropout(x, p=dropout) if dropout else x

    @module_class("TimeNormBlock" if mixer.normalised else "ConvNeXtBlock")
    def block(b: Builder, x: Var, t: Var, *context: Var, dim: int, **static: Any) -> Var:
        """A pre-norm block whose norms depend on the time t [B, 1]."""
        feeding, grid = {k: static[k] for k in feed_forward.static(dim)}, static.get("grid")
        h = norm.apply(b, "norm1", x, t, grid) if mixer.normalised else x
        if context:
            assert isinstance(mixer, CachedMixer)
            h = mixer.look(b, "attn", h, context, init, dim=dim, **mixer.own(dim, static))
        else:
            h = mixer.apply(b, "attn", h, (), init, dim=dim, **mixer.own(dim, static))
        x = x + dropped(b, h)
        h = norm.apply(b, "norm2", x, t, grid)
        return x + dropped(b, feed_forward.apply(b, "mlp", h, init, dim=dim, **feeding))

    return block
