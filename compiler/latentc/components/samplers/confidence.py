"""Masked tokens, the most confident first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.kit.tokens import rank
from latentc.components.parts import Problem, Spec
from latentc.components.samplers._masked import (
    ListedSampler,
    Values,
    fraction_of,
    free_of,
    known_counts,
    numbers_of,
    problems_of,
)
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource

KNOWN = 1e30  # confidence of known tokens


class Confidence(ListedSampler):
    """Keeps the tokens with the highest log-probability plus Gumbel noise (MaskGIT, arXiv:2202.04200)."""

    kind: Literal["confidence"]
    steps: int = Field(12, gt=0, le=100_000, description="evaluations of the network")
    progress: Literal["start", "end"] = Field(
        "start",
        description="progress of step i of N: i / (N - 1), rounding known tokens down (Halton-MaskGIT's code); or (i "
        "+ 1) / N, rounding hidden tokens down (MaskGIT, MAGE and MaskBit)",
    )
    double: bool = Field(
        False, description="evaluate the schedule in float64 before rounding, as MAGE's code; false: in float32"
    )
    guidance_progress: Literal["start", "end"] = Field(
        "start", description="with `progress: end`, guidance grows with i / N (MaskBit), or with (i + 1) / N (RCG)"
    )
    final_temperature: float | None = Field(
        None,
        gt=0,
        description="temperature at progress 1, interpolated linearly from `temperature` at 0; null: constant",
    )
    judged: Literal["drawn", "predicted"] = Field(
        "drawn",
        description="logits used for confidence: those that tokens are drawn from, divided by `temperature`, or the "
        "network's own (AutoNAT)",
    )
    random_steps: int = Field(
        0,
        ge=0,
        le=100_000,
        description="first steps that keep random tokens, regardless of confidence (Halton-MaskGIT's `randomize`: 2 "
        "for `warm_up`, all steps for `random`, both with `randomness: 0`)",
    )
    redraw: bool = Field(False, description="redraw known tokens in every step, as Halton-MaskGIT's code")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of(("temperature",), self.temperature, self.steps, "step")
        yield from problems_of(("randomness",), self.randomness, self.steps, "step")
        if isinstance(self.temperature, tuple) and self.final_temperature is not None:
            yield Problem(("final_temperature",), "`temperature` already gives one for each step", "leave it out")

    def listed(self, length: int) -> Confidence:
        """The same sampler of `length` tokens, with a number for each step in place of every schedule."""
        progress, noise = self.progress_of_steps(), numbers_of(self.randomness, self.steps)
        noise = noise if isinstance(self.randomness, tuple) else noise * (1 - progress)
        changed: dict[str, Any] = {
            "schedule": tuple(map(float, fraction_of(self.schedule, progress, length)[:-1])),
            "randomness": tuple(map(float, noise)),
            "temperature": tuple(map(float, 1 / self.sharpness_of_steps())),
            "final_temperature": None,
        }
        if self.guidance is not None:
            weights = tuple(map(float, self.guidance.weights(list(self.guided_progress()))))
            changed["guidance"] = self.guidance.model_copy(update={"schedule": weights, "interval": (0.0, 1.0)})
        return self.model_copy(update=changed)

    @property
    def noisy(self) -> bool:
        """True if the choice of tokens is random in some steps."""
        return self.random_steps > 0 or bool(np.any(np.asarray(self.randomness) > 0))

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
        if isinstance(self.temperature, tuple):
            return 1 / np.asarray(self.temperature)
        first = self.temperature
        last = first if self.final_temperature is None else self.final_temperature
        return 1 / (first + (last - first) * self.progress_of_steps())

    def draws(self, length: int) -> dict[str, RandomSource]:
        return {"gumbel": RandomSource("gumbel", "confidence", self.steps)} if self.noisy else {}

    def noise_progress(self, length: int) -> np.ndarray:
        """f64[N]: progress that the noise of the confidence follows."""
        return self.progress_of_steps()

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        progress, found = self.noise_progress(length), dict[str, np.ndarray]()
        if self.noisy:
            listed = isinstance(self.randomness, tuple)
            found["noise"] = numbers_of(self.randomness, self.steps) * (1 if listed else 1 - progress)
        if self.random_steps:
            at_random = np.arange(self.steps) < self.random_steps
            found["noise"] = np.where(at_random, 1.0, found["noise"])
            found["certainty"] = np.where(at_random, 0.0, 1.0)
        if keeps and self.progress == "end":
            real = np.float64 if self.double else np.float32
            fractions = fraction_of(self.schedule, self.progress_of_steps().astype(real), length)
            fractions[-1] = 0.0  # the last step draws all remaining tokens
            found["fraction"] = fractions.astype(np.float32)
        return found

    def choose(self, b: Builder, mask: int, tokens: Var, drawn: Var, logits: Var, predicted: Var, at: Values) -> Var:
        hidden = b.equal(tokens, mask, out="hidden")
        judged = logits if self.judged == "drawn" else predicted
        confidence = self.confidence(b, judged, drawn, at)
        confidence = b.where(hidden, confidence, b.scalar(KNOWN, confidence), out="confidence")
        count = self.known(b, hidden, at)
        first = b.less(rank(b, b.neg(confidence)), count, out="first")
        free = hidden if not self.redraw else free_of(b, at)
        return first if free is None else b.logical_and(free, first, out="chosen")

    def known(self, b: Builder, hidden: Var, at: Values) -> Var:
        """i64[] or i64[B, 1]: tokens known after a step before which `hidden` bool[B, T] are not."""
        length = int(hidden.shape[1])
        open_ = free_of(b, at)
        if open_ is None or "fraction" not in at:
            return among_free(b, at["count"], at, length)
        free = b.sum(b.cast(open_, to="f32"), axes=(1,), keepdims=True, out="free")
        left = b.sum(b.cast(hidden, to="f32"), axes=(1,), keepdims=True, out="left")
        stay = b.minimum(b.floor(free * at["fraction"]), left - 1.0, out="stay")
        # At least one remains for each later step, until the last draws all.
        least = b.cast(b.greater(at["fraction"], 0.0), to="f32", out="least")
        stay = b.maximum(stay, least, out="stay")
        return b.cast(b.op("sub", float(length), stay), to="i64", out="count")

    def confidence(self, b: Builder, logits: Var, drawn: Var, at: Values) -> Var:
        """f32[B, T]: the log-probability of the tokens drawn, with noise."""
        index = b.reshape(drawn, shape=(*drawn.shape, 1))
        confidence = b.take_along(b.log_softmax(logits, axis=2), index, axis=2)
        confidence = b.reshape(confidence, shape=drawn.shape, out="confidence")
        if "certainty" in at:
            confidence = b.mul(confidence, at["certainty"], out="confidence")
        return b.add(confidence, at["gumbel"] * at["noise"], out="confidence") if self.noisy else confidence


def among_free(b: Builder, count: Var, at: Values, length: int) -> Var:
    """A number of known tokens; if some were given i64[B, 1], these and the same fraction of the others, rounded up."""
    if "kept" not in at:
        return count
    fixed = b.sum(b.cast(at["kept"], to="i64"), axes=(1,), keepdims=True, out="fixed")
    wanted = (length - fixed) * count + (length - 1)
    return b.add(fixed, b.div(wanted, length), out="count")
