"""The condition inside attention: it shifts queries, keys and values.

Symbols: B batch, D width, E size of the condition.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.layers import conv, group_norm
from latentc.components.parts import BlockCondition, FeedForward, Mixer, Norm, Refusal, a_divisor
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class QkvBias(BlockCondition):
    """Adds a linear map of the condition to queries, keys and values (DiffiT, Hatamizadeh et al. 2024).

    This is their time-dependent self-attention (arXiv:2312.02139, equations 3 to 8); the block is pre-norm and
    residual.
    """

    kind: Literal["qkv_bias"]
    convolution_groups: int | None = Field(
        None,
        gt=0,
        le=1_024,
        description="precedes the block by a 3 x 3 convolution of SiLU of a GroupNorm with this many groups, with a "
        "shortcut around both (the paper's residual cell of image-space models, equations 9 and 10); null: neither",
    )
    THROUGH_MIXER: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "qkv_bias"}

    @property
    def spatial(self) -> bool:
        return self.convolution_groups is not None

    def block(self, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
        return _block(self.convolution_groups, mixer, feed_forward, norm, init)


@cache
def _block(groups: int | None, mixer: Mixer, feed_forward: FeedForward, norm: Norm, init: str) -> BlockBody:
    @module_class("DiffiTBlock")
    def block(b: Builder, x: Var, c: Var, *rotary: Var, dim: int, **static: Any) -> Var:
        """A pre-norm transformer block whose queries, keys and values depend on the condition c [B, E]."""
        feeding = {k: static[k] for k in feed_forward.static(dim)}
        shortcut = x
        if groups is not None:
            if dim % groups:
                message = f"{groups} groups do not divide {int(dim)} channels"
                raise Refusal(message, a_divisor(int(dim)), ("block", "condition", "convolution_groups"))
            h = group_norm(b, "norm0", as_map(b, x, static["grid"]), groups, 1e-5, out="h")
            x = as_tokens(b, conv(b, "conv", b.silu(h, out="h"), dim, 3, init, out="h"), shortcut.shape[1])
        h = norm.apply(b, "norm1", x) if mixer.normalised else x
        x = x + mixer.apply(b, "attn", h, rotary, init, c=c, dim=dim, **mixer.own(dim, static))
        x = x + feed_forward.apply(b, "mlp", norm.apply(b, "norm2", x), init, dim=dim, **feeding)
        return x if groups is None else shortcut + x

    return block
