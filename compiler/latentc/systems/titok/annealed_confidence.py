"""Masked tokens, drawn with falling Gumbel noise that the last step does without: MUSE's and TiTok's sampler."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.kit.tokens import draw, rank
from latentc.components.samplers._masked import MaskedSampler, Values, known_counts
from latentc.components.samplers.confidence import KNOWN, among_free
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource

Positive = Annotated[float, Field(gt=0, le=1_000)]


class AnnealedConfidence(MaskedSampler):
    """Draws tokens and judges their logits with Gumbel noise of `randomness` (1 - p) at progress p (TiTok, Yu et al.
    2024, arXiv:2406.07550), so that the last step keeps the likeliest tokens.

    Progress of step i of N is (i + 1) / N, that of the guidance i / N. The logits are first divided by a temperature
    that goes from the first of `temperatures` at progress 0 to the second at 1.
    """

    kind: Literal["annealed_confidence"]
    steps: int = Field(8, gt=0, le=100_000, description="evaluations of the network")
    randomness: float = Field(4.5, gt=0, le=1_000, description="factor of the Gumbel noise at progress 0")
    temperatures: tuple[Positive, Positive] = Field(
        (1.0, 1.0), description="temperature of the logits at progress 0 and 1 (the authors' samples: 1.3 and 0.5)"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "annealed_confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def _progress(self) -> np.ndarray:
        return np.arange(1, self.steps + 1) / self.steps

    def _cold(self) -> np.ndarray:
        """f64[N]: one over the temperature of the logits."""
        first, last = self.temperatures
        return 1 / (first + (last - first) * self._progress())

    def _noise(self) -> np.ndarray:
        """f64[N]: the factor of the Gumbel noise."""
        return self.randomness * (1 - self._progress())

    def guided_progress(self) -> np.ndarray:
        return np.arange(self.steps) / self.steps

    def counts(self, length: int) -> np.ndarray:
        return known_counts(self.schedule, self._progress(), length, hidden=True, double=True)

    def sharpness_of_steps(self) -> np.ndarray:
        noise = self._noise()
        noise[-1] = 1.0  # the last step takes the likeliest
        return self._cold() / noise

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        greedy = (np.arange(self.steps) == self.steps - 1).astype(np.float32)
        return {"cold": self._cold(), "noise": self._noise(), "greedy": greedy}

    def draws(self, length: int) -> dict[str, RandomSource]:
        return {"gumbel": RandomSource("gumbel", "confidence", self.steps)}

    def drawn(self, b: Builder, logits: Var, at: Values) -> Var:
        likeliest = b.argmax(logits, axis=2, out="likeliest")
        return b.where(b.greater(at["greedy"], 0.5), likeliest, draw(b, logits, at["u"], out="drawn"), out="drawn")

    def choose(self, b: Builder, mask: int, tokens: Var, drawn: Var, logits: Var, predicted: Var, at: Values) -> Var:
        hidden = b.equal(tokens, mask, out="hidden")
        index = b.reshape(drawn, shape=(*drawn.shape, 1))
        judged = b.reshape(b.take_along(predicted, index, axis=2), shape=drawn.shape, out="judged")
        confidence = b.add(judged * at["cold"], at["gumbel"] * at["noise"], out="confidence")
        confidence = b.where(hidden, confidence, b.scalar(KNOWN, confidence), out="confidence")
        count = among_free(b, at["count"], at, int(hidden.shape[1]))
        first = b.less(rank(b, b.neg(confidence)), count, out="first")
        return b.logical_and(hidden, first, out="chosen")
