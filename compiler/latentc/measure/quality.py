"""How far quantised results are from unquantised ones: final samples in dB, of token models the perplexity.

Symbols: B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from latentc.measure.execute import Array, Feed
from latentc.spec.sections import Budget

BEST = 200.0
"""dB that stand for no difference at all."""


@dataclass(frozen=True)
class Quality:
    """What was found: `psnr` in dB of final samples, or of tokens the relative increase of `perplexity` and the
    `agreement`, the share of positions with the same likeliest token."""

    psnr: float | None = None
    perplexity: float | None = None
    agreement: float | None = None

    def within(self, budget: Budget) -> bool:
        """Whether the budget holds. A quality that is no number is worse than any."""
        if self.psnr is not None:
            return self.psnr >= budget.psnr
        return self.perplexity is not None and self.perplexity <= budget.perplexity

    def text(self) -> str:
        if self.psnr is not None:
            return f"PSNR {self.psnr:.1f} dB"
        return f"perplexity {self.perplexity or 0.0:+.2%}, {self.agreement or 0.0:.1%} of likeliest tokens the same"


def allowed(budget: Budget, quality: Quality) -> str:
    """The part of the budget that this quality is held against, as text."""
    return f"at least {budget.psnr:g} dB" if quality.psnr is not None else f"at most {budget.perplexity:+.2%}"


def psnr(samples: Array, reference: Array, span: float | None = None) -> float:
    """10 log10(span² / mean squared error) in dB; `span`: of the values, by default what the reference spans.

    -`BEST` where a value is no finite number, `BEST` where nothing differs.
    """
    exact = reference.astype(np.float64)
    error = float(np.mean((samples.astype(np.float64) - exact) ** 2))
    if not math.isfinite(error):
        return -BEST
    span = float(np.ptp(exact)) if span is None else span
    if error == 0.0:
        return BEST
    return float(np.clip(20 * math.log10(span) - 10 * math.log10(error), -BEST, BEST)) if span > 0 else -BEST


def sqnr(result: Array, exact: Array) -> float:
    """10 log10(Σ exact² / Σ (result - exact)²) in dB, within ±`BEST`."""
    wide = exact.astype(np.float64)
    signal, noise = float(np.sum(wide**2)), float(np.sum((result.astype(np.float64) - wide) ** 2))
    if not math.isfinite(noise) or signal == 0.0:
        return -BEST if noise else BEST
    return BEST if noise == 0.0 else float(np.clip(10 * math.log10(signal / noise), -BEST, BEST))


def of_tokens(
    exact: Callable[[Feed], Array], candidate: Callable[[Feed], Array], feeds: Sequence[Feed], tokens: Sequence[Array]
) -> Quality:
    """The quality of a token model's logits f32[B, T, V] on sequences i64[B, T]."""
    losses: list[tuple[float, float]] = []
    same = count = 0
    for feed, ids in zip(feeds, tokens, strict=True):
        ours, theirs = candidate(feed), exact(feed)
        losses.append((_loss(ours, ids), _loss(theirs, ids)))
        same += int(np.sum(ours.argmax(-1) == theirs.argmax(-1)))
        count += ids.size
    got, wanted = (math.fsum(column) / count for column in zip(*losses, strict=True))
    rise = math.expm1(got - wanted) if math.isfinite(got) else math.inf
    return Quality(perplexity=rise if math.isfinite(rise) else 1e9, agreement=same / count)


def _loss(logits: Array, ids: Array) -> float:
    """The sum of -log p of the ids i64[B, T] under logits [B, T, V]."""
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    log_sum = np.log(np.exp(wide - top).sum(-1)) + top[..., 0]
    return float(np.sum(log_sum - np.take_along_axis(wide, ids[..., None], -1)[..., 0]))


__all__ = ["BEST", "Quality", "allowed", "of_tokens", "psnr", "sqnr"]
