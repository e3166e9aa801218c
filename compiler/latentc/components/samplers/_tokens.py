"""How samplers of tokens draw them from logits.

Symbols: V vocabulary.
"""

from __future__ import annotations

from pydantic import Field

from latentc.components.kit.tokens import draw, filtered
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, Var


class TokenSampler(Sampler):
    """Draws tokens by inverse CDF, one uniform number per token."""

    temperature: float = Field(
        1.0, ge=0, description="temperature of the logits; 0 takes the most likely token (greedy)"
    )
    top_k: int = Field(0, ge=0, le=16_777_216, description="draw only from the k most likely tokens; 0: all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the most likely tokens that together reach this probability"
    )

    def pick(self, b: Builder, logits: Var, u: Var | None) -> Var:
        """i64[...]: the tokens that u f32[...] falls on in the distributions of logits f32[..., V], filtered.

        Without u the likeliest.
        """
        if u is None:
            return b.argmax(logits, axis=logits.type.rank - 1, out="token")  # type: ignore[no-any-return]
        if self.temperature != 1.0:
            logits = b.op("mul", logits, 1 / self.temperature, out="logits")
        return draw(b, filtered(b, logits, self.top_k, self.top_p), u)


__all__ = ["TokenSampler"]
