"""How far quantised results are from float32 results: PSNR of continuous outputs, perplexity and agreement of logits.

Symbols: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentc.measure.execute import Array
from latentc.measure.metrics import BEST
from latentc.spec.sections import Budget


@dataclass(frozen=True)
class Quality:
    """Figures of a quantised model; those of outputs it does not have are None.

    `psnr` in dB: of final samples, or of network outputs if the program also draws tokens, which may differ. Of
    networks that score tokens: `perplexity`, its expected relative increase on tokens drawn from the float32 model, and
    `agreement`, the share of positions with the same likeliest token.
    """

    psnr: float | None = None
    perplexity: float | None = None
    agreement: float | None = None

    def within(self, budget: Budget) -> bool:
        """Whether every figure keeps the budget; NaN does not."""
        psnr = self.psnr is None or self.psnr >= budget.psnr
        perplexity = self.perplexity is None or self.perplexity <= budget.perplexity
        return psnr and perplexity and (self.psnr, self.perplexity) != (None, None)

    def text(self) -> str:
        parts = [] if self.psnr is None else [f"PSNR {self.psnr:.1f} dB"]
        if self.perplexity is not None:
            same = f"{self.agreement or 0.0:.1%} of likeliest tokens the same"
            parts.append(f"perplexity {self.perplexity:+.2%}, {same}")
        return ", ".join(parts)


def allowed(budget: Budget, quality: Quality) -> str:
    """The part of the budget that applies to these figures, as text."""
    parts = [] if quality.psnr is None else [f"at least {budget.psnr:g} dB"]
    parts += [] if quality.perplexity is None else [f"at most {budget.perplexity:+.2%}"]
    return ", ".join(parts)


def sqnr(result: Array, exact: Array) -> float:
    """10 log10(Σ exact² / Σ (result - exact)²) in dB, within ±`BEST`."""
    wide = exact.astype(np.float64)
    signal, noise = float(np.sum(wide**2)), float(np.sum((result.astype(np.float64) - wide) ** 2))
    if not math.isfinite(noise) or signal == 0.0:
        return -BEST if noise else BEST
    return BEST if noise == 0.0 else float(np.clip(10 * math.log10(signal / noise), -BEST, BEST))


def quality_of_logits(results: Sequence[Array], exact: Sequence[Array]) -> Quality:
    """Perplexity and agreement of logits [..., V] against exact ones.

    A model q has exp(KL(p || q)) times the perplexity of the exact model p on tokens drawn from p, in expectation.
    """
    divergence, same, count = 0.0, 0, 0
    for ours, theirs in zip(results, exact, strict=True):
        log_q, log_p = _log_softmax(ours), _log_softmax(theirs)
        divergence += float(np.sum(np.exp(log_p) * (log_p - log_q)))
        same += int(np.sum(ours.argmax(-1) == theirs.argmax(-1)))
        count += ours[..., 0].size
    rise = math.expm1(min(divergence / count, 20.0)) if math.isfinite(divergence) else math.inf
    return Quality(perplexity=rise if math.isfinite(rise) else 1e9, agreement=same / count)


def _log_softmax(logits: Array) -> Array:
    wide = logits.astype(np.float64)
    wide = wide - wide.max(-1, keepdims=True)
    found: Array = wide - np.log(np.exp(wide).sum(-1, keepdims=True))
    return found


__all__ = ["Quality", "allowed", "quality_of_logits", "sqnr"]
