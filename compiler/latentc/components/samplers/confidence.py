"""Masked tokens, the most confident first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network
from latentc.components.kit.tokens import rank
from latentc.components.samplers._masked import MaskedSampler, Step, known_counts
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource

_KNOWN = 1e30  # the confidence of a token that is known already


class Confidence(MaskedSampler):
    """Keeps the tokens with the highest log probability plus Gumbel noise (MaskGIT, arXiv:2202.04200)."""

    kind: Literal["confidence"]
    steps: int = Field(12, gt=0, le=100_000, description="evaluations of the network")
    progress: Literal["start", "end"] = Field(
        "start",
        description="progress of step i of N: i / (N - 1), and known tokens are rounded down (Halton-MaskGIT's code); "
        "or (i + 1) / N, and hidden tokens are rounded down (MaskGIT, MAGE and MaskBit)",
    )
    double: bool = Field(
        False, description="evaluates the schedule in float64 before it is rounded, as MAGE's code; else in float32"
    )
    guidance_progress: Literal["start", "end"] = Field(
        "start", description="with `progress: end`, guidance grows with i / N (MaskBit), or with (i + 1) / N (RCG)"
    )
    temperature: float = Field(1.0, gt=0, description="divides the logits")
    final_temperature: float | None = Field(
        None, gt=0, description="temperature at progress 1, linear from `temperature` at 0; null: the same throughout"
    )
    randomness: float = Field(4.5, ge=0, description="factor of the Gumbel noise at progress 0; it falls linearly to 0")
    redraw: bool = Field(False, description="known tokens are drawn anew in every step, as by Halton-MaskGIT's code")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def progress_of_steps(self) -> np.ndarray:
        """f64[N]: progress of each step, which counts, temperature and randomness follow."""
        if self.progress == "end":
            return np.arange(1, self.steps + 1) / self.steps
        return np.linspace(0.0, 1.0, self.steps) if self.steps > 1 else np.ones(1)

    def guided_progress(self) -> np.ndarray:
        lags = self.progress == "end" and self.guidance_progress == "start"
        return np.arange(self.steps) / self.steps if lags else self.progress_of_steps()

    def counts(self, length: int) -> np.ndarray:
        return known_counts(self.schedule, self.progress_of_steps(), length, self.progress == "end", self.double)

    def sharpness_of_steps(self) -> np.ndarray:
        first = self.temperature
        last = first if self.final_temperature is None else self.final_temperature
        return 1 / (first + (last - first) * self.progress_of_steps())

    def random(self, network: Network) -> dict[str, tuple[RandomSource, tuple[int, ...]]]:
        if not self.randomness:
            return {}
        length = int(network.methods["forward"].input("state").type.shape[1])  # type: ignore[arg-type]
        return {"gumbel": (RandomSource("gumbel", "confidence", self.steps), (length,))}

    def columns(self) -> dict[str, np.ndarray]:
        return {"noise": self.randomness * (1 - self.progress_of_steps())} if self.randomness else {}

    def prepared(self, b: Builder, inputs: Mapping[str, Var], length: int) -> list[Var]:
        return []

    def choose(self, b: Builder, step: Step) -> Var:
        length = int(step.tokens.shape[1])
        index = b.reshape(step.drawn, shape=(*step.drawn.shape, 1))
        confidence = b.take_along(b.log_softmax(step.logits, axis=2), index, axis=2)
        confidence = b.reshape(confidence, shape=step.drawn.shape, out="confidence")
        if self.randomness:
            confidence = b.add(confidence, step.row["gumbel"] * step.row["noise"], out="confidence")
        hidden = b.equal(step.tokens, step.mask, out="hidden")
        confidence = b.where(hidden, confidence, b.scalar(_KNOWN, confidence), out="confidence")
        count = step.row["count"]
        if step.kept is not None:
            # `count` of all tokens is the same fraction, rounded up, of those that were not given.
            fixed = b.sum(b.cast(step.kept, to="i64"), axes=(1,), keepdims=True, out="fixed")
            wanted = (length - fixed) * count + (length - 1)
            count = b.add(fixed, b.div(wanted, length), out="count")
        first = b.less(rank(b, b.neg(confidence)), count, out="first")
        free = hidden if not self.redraw else step.free(b)
        return first if free is None else b.logical_and(free, first, out="chosen")  # type: ignore[no-any-return]
