"""Self-attention guidance: away from the prediction at a state whose data is blurred where the network attends.

Symbols: B batch, T tokens of an attention map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.systems.sag.attention import ATTENTION, with_attention
from latentc.systems.sag.blur import BlurredGuidance


class SelfAttentionGuidance(BlurredGuidance):
    """Adds (scale - 1) (p - q), with q computed after blurring attended parts of the data (Hong et al. 2023,
    arXiv:2210.00939). A token is attended if the attention it receives sums to more than `threshold`. It needs
    neither a condition nor condition dropout. The paper's s is scale - 1.
    """

    SETTING: ClassVar[str] = "self_attention_guidance"
    INPUT: ClassVar[str] = "attention_scale"
    METHOD: ClassVar[str | None] = ATTENTION

    kind: Literal["self_attention"]
    block: str | None = Field(None, description="block whose attention is used (`blocks.5`); null: the middle one")
    threshold: float = Field(
        1.0, ge=0, description="attention above which a token counts as attended, relative to uniform attention (1)"
    )
    softness: float = Field(
        0.01,
        ge=0,
        description="width of the mask's ramp from 0 to 1 around `threshold`; 0: a step as in the paper, where "
        "rounding decides borderline cases, so engines may differ",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "self_attention", "scale": 1.5, "kernel": 3}

    def prepared(self, mb: ModuleBuilder, network: Network) -> Network:
        return with_attention(mb, network, self.block)

    def blur(self, b: Builder, data: Var, others: Sequence[Var]) -> Var:
        (attention,) = others
        batch, _, height, width = data.shape
        factor = patch_of(int(attention.shape[1]), int(height), int(width))
        rows, columns = int(height) // factor, int(width) // factor
        extra = int(attention.shape[1]) - rows * columns  # tokens of the time and of conditions come first
        if extra:
            attention = b.slice(attention, axis=1, start=extra, stop=extra + rows * columns, out="attention")
        if self.softness:
            mask = b.mul(attention - (self.threshold - self.softness / 2), 1.0 / self.softness, out="mask")
            mask = b.clamp(mask, low=0.0, high=1.0, out="mask")
        else:
            mask = b.cast(b.greater(attention, self.threshold), to="f32", out="mask")
        mask = b.reshape(mask, shape=(batch, 1, rows, columns), out="mask")
        mask = b.upsample_nearest(mask, factor=factor, out="mask") if factor > 1 else mask
        return b.mul(mask, super().blur(b, data, others), out="change")


def patch_of(tokens: int, height: int, width: int) -> int:
    """The side in pixels of what one of `tokens` sees: the least power of 2 that leaves no more patches than tokens.

    ValueError: the tokens are no grid of patches of the image.
    """
    factor = 1
    while (height // factor) * (width // factor) > tokens and factor < min(height, width):
        factor *= 2
    if height % factor or width % factor or (height // factor) * (width // factor) > tokens:
        raise ValueError(f"attention over {tokens} tokens is not a map over an image of {height} by {width}")
    return factor
