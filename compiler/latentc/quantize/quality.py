"""How far quantised results are from float32 results: PSNR of continuous outputs, perplexity and agreement of logits.

Symbols: V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentc.ir.ops.reduce import log_softmax
from latentc.measure.execute import Array
from latentc.measure.metrics import agreement
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
        """True if every figure keeps the budget; NaN does not."""
        psnr = self.psnr is None or self.psnr >= budget.psnr
        perplexity = self.perplexity is None or self.perplexity <= budget.perplexity
        return psnr and perplexity and (self.psnr, self.perplexity) != (None, None)

    def text(self) -> str:
        parts = [] if self.psnr is None else [f"PSNR {self.psnr:.1f} dB"]
        if self.perplexity is not None:
            same = f"{self.agreement or 0.0:.1%} of most likely tokens the same"
            parts.append(f"perplexity {self.perplexity:+.2%}, {same}")
        return ", ".join(parts)

    def limits(self, budget: Budget) -> str:
        """The part of the budget that applies to these figures, as text."""
        parts = [] if self.psnr is None else [f"at least {budget.psnr:g} dB"]
        parts += [] if self.perplexity is None else [f"at most {budget.perplexity:+.2%}"]
        return ", ".join(parts)


def quality_of_logits(results: Sequence[Array], exact: Sequence[Array]) -> Quality:
    """Perplexity and agreement of logits [..., V] against exact ones.

    A model q has exp(KL(p || q)) times the perplexity of the exact model p on tokens drawn from p, in expectation.
    """
    ours, theirs = (np.concatenate([x.reshape(-1, x.shape[-1]) for x in calls]) for calls in (results, exact))
    log_q, log_p = (log_softmax(logits.astype(np.float64), -1) for logits in (ours, theirs))
    divergence = float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=-1)))
    rise = math.expm1(min(divergence, 20.0)) if math.isfinite(divergence) else 1e9
    return Quality(perplexity=rise, agreement=agreement(ours, theirs))
