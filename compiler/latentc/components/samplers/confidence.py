"""Masked tokens, the most confident first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network
from latentc.components.kit.tokens import draw, filtered, rank
from latentc.components.parts import Problem
from latentc.components.sampler import Recall
from latentc.components.samplers._confident_sets import chosen_set, drawn_set, nth_row
from latentc.components.samplers._masked import ListedSampler, Request, Run, Step, fraction_of, known_counts
from latentc.components.samplers._per_step import numbers_of, problems_of
from latentc.components.samplers._reuse import Reuse
from latentc.ir.builder import Builder, Var
from latentc_runtime.sources import RandomSource

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

_KNOWN = 1e30  # confidence of known tokens


class ConfidentReuse(Reuse):
    """Steps that reuse keys and values of the tokens that they leave as they are (ReCAP, arXiv:2505.19089).

    A step over all tokens begins a set of tokens, chooses them by the confidence of a first guess and draws some of
    them anew, the most confident first. The steps behind it evaluate the tokens of the set and of the condition alone,
    which see what that step computed of the others. A step before the sets draws all that it chooses anew.
    """

    temperature: float = Field(
        1.0,
        gt=0,
        description="temperature of the logits from which tokens are redrawn at progress 1; from 1 by the square "
        "root of the progress",
    )
    catch_up: bool = Field(
        True,
        description="steps whose schedule rounds to no token draw one, and later steps make up for it; false: only "
        "the last step does (ReCAP's code)",
    )


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
    reuse: ConfidentReuse | None = Field(
        None, description="steps that reuse results of the previous one; null: none (ReCAP)"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of(("temperature",), self.temperature, self.steps, "step")
        yield from problems_of(("randomness",), self.randomness, self.steps, "step")
        if isinstance(self.temperature, tuple) and self.final_temperature is not None:
            yield Problem(("final_temperature",), "`temperature` already gives one for each step", "leave it out")
        if self.reuse is None:
            return
        lists = [n for n in ("temperature", "randomness") if isinstance(getattr(self, n), tuple)]
        for name in [*lists, *(["judged"] if self.judged == "predicted" else [])]:
            yield Problem(
                (name,),
                "with `reuse`, steps of one set share the values of the first",
                "leave out `reuse`, or give a single value",
            )
        if self.redraw:
            message = "with `reuse`, a step evaluates only the tokens of its set, but `redraw` redraws known tokens"
            yield Problem(("redraw",), message, "leave out one of them")
        network = spec.networks.get("main")
        if network is not None and not network.RECALLS:
            message = f"a {network.kind} cannot reuse keys and values"  # type: ignore[attr-defined]
            yield Problem(("reuse",), message, "use a `bert`, or leave `reuse` out")

    def recalls(self, tokens: int) -> Recall | None:
        most = 0 if self.reuse is None else self.reuse.most(self._left(tokens), tokens)
        return Recall(most, False) if most else None

    def runs(self, length: int) -> list[Run]:
        if self.reuse is None:
            return super().runs(length)
        sets = self.reuse.sets(self._left(length), length)
        found = (list(run) for _, run in groupby(sets, lambda ends: ends[1] - ends[0]))
        return [Run(run[0][0], run[-1][1], run[0][1] - run[0][0], self._draw_set) for run in found]

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
        """Whether the choice of tokens is random in some steps."""
        return self.random_steps > 0 or bool(np.any(np.asarray(self.randomness) > 0))

    def _left(self, length: int) -> list[int]:
        """Hidden tokens before the first step, and after each."""
        return [length, *(length - int(known) for known in self.counts(length))]

    def progress_of_steps(self) -> np.ndarray:
        """f64[N]: progress of each step, which counts, temperature and randomness follow."""
        if self.progress == "end":
            return np.arange(1, self.steps + 1) / self.steps
        return np.linspace(0.0, 1.0, self.steps) if self.steps > 1 else np.ones(1)

    def guided_progress(self) -> np.ndarray:
        lags = self.progress == "end" and self.guidance_progress == "start"
        return np.arange(self.steps) / self.steps if lags else self.progress_of_steps()

    def counts(self, length: int) -> np.ndarray:
        late = self.reuse is not None and not self.reuse.catch_up
        end = self.progress == "end"
        return known_counts(self.schedule, self.progress_of_steps(), length, end, self.double, late)

    def sharpness_of_steps(self) -> np.ndarray:
        if isinstance(self.temperature, tuple):
            return 1 / np.asarray(self.temperature)
        first = self.temperature
        last = first if self.final_temperature is None else self.final_temperature
        return 1 / (first + (last - first) * self.progress_of_steps())

    def random(self, network: Network) -> dict[str, tuple[RandomSource, tuple[int, ...]]]:
        length = int(network.methods["forward"].input("state").type.shape[1])  # type: ignore[arg-type]
        found: dict[str, tuple[RandomSource, tuple[int, ...]]] = {}
        if self.noisy:
            found["gumbel"] = (RandomSource("gumbel", "confidence", self.steps), (length,))
        if self.reuse is not None:
            found["again"] = (RandomSource("uniform", "set", self.steps), (length,))
        return found

    def columns(self, length: int) -> dict[str, np.ndarray]:
        progress, found = self.progress_of_steps(), dict[str, np.ndarray]()
        if self.reuse is not None:
            found["known"] = np.concatenate([[0], self.counts(length)[:-1]])
            cooled = np.linspace(0.0, 1.0, self.steps) ** 0.5
            found["cooling"] = 1 / (1 + (self.reuse.temperature - 1) * cooled)
            # The noise falls from set to set.
            sets = self.reuse.sets(self._left(length), length)
            for i, (first, stop) in enumerate(sets, 1):
                progress[first:stop] = i / len(sets)
        if self.noisy:
            listed = isinstance(self.randomness, tuple)
            found["noise"] = numbers_of(self.randomness, self.steps) * (1 if listed else 1 - progress)
        if self.random_steps:
            at_random = np.arange(self.steps) < self.random_steps
            found["noise"] = np.where(at_random, 1.0, found["noise"])
            found["certainty"] = np.where(at_random, 0.0, 1.0)
        return found

    def columns_of_given(self, length: int) -> dict[str, np.ndarray]:
        if self.progress == "start" or self.reuse is not None:
            return {}
        real = np.float64 if self.double else np.float32
        fractions = fraction_of(self.schedule, self.progress_of_steps().astype(real), length)
        fractions[-1] = 0.0  # the last step draws all remaining tokens
        return {"fraction": fractions.astype(np.float32)}

    def prepared(self, b: Builder, inputs: Mapping[str, Var], length: int) -> list[Var]:
        return []

    def choose(self, b: Builder, step: Step) -> Var:
        hidden = b.equal(step.tokens, step.mask, out="hidden")
        judged = step.logits if self.judged == "drawn" else step.predicted
        confidence = self._confidence(b, judged, step.drawn, step.row)
        confidence = b.where(hidden, confidence, b.scalar(_KNOWN, confidence), out="confidence")
        count = self._known(b, step, hidden)
        first = b.less(rank(b, b.neg(confidence)), count, out="first")
        free = hidden if not self.redraw else step.free(b)
        return first if free is None else b.logical_and(free, first, out="chosen")  # type: ignore[no-any-return]

    def _known(self, b: Builder, step: Step, hidden: Var) -> Var:
        """i64[] or i64[B, 1]: tokens known after a step, of which `hidden` bool[B, T] are not yet."""
        length = int(step.tokens.shape[1])
        open_ = step.free(b)
        if open_ is None or "fraction" not in step.row:
            return _of_free(b, step.row["count"], step.kept, length)
        free = b.sum(b.cast(open_, to="f32"), axes=(1,), keepdims=True, out="free")
        left = b.sum(b.cast(hidden, to="f32"), axes=(1,), keepdims=True, out="left")
        stay = b.minimum(b.floor(free * step.row["fraction"]), left - 1.0, out="stay")
        # At least one remains for each later step, until the last draws all.
        least = b.cast(b.greater(step.row["fraction"], 0.0), to="f32", out="least")
        stay = b.maximum(stay, least, out="stay")
        return b.cast(b.op("sub", float(length), stay), to="i64", out="count")  # type: ignore[no-any-return]

    def _draw_set(self, b: Builder, request: Request, steps: int, tokens: Var, row: Mapping[str, Var]) -> Var:
        """tokens i64[B, T] after a set; rows of tables [steps, …] by name."""
        first = {key: nth_row(b, table, 0) for key, table in row.items()}
        method = "forward" if steps == 1 else "remember"
        all_, *caches = request.evaluated(b, method, first.get("weight"), state=tokens)
        sharp = request.drawable(b, all_)
        sharp = b.mul(sharp, first["sharpness"], out="logits") if "sharpness" in first else sharp
        drawn = draw(b, filtered(b, sharp, self.top_k, 1.0), first["u"], out="guess")
        confidence = self._confidence(b, sharp, drawn, first)
        hidden = b.equal(tokens, request.mask, out="hidden")
        confidence = b.where(hidden, confidence, b.scalar(-_KNOWN, confidence), out="confidence")
        length = int(tokens.shape[1])
        most = length if steps == 1 else int(request.network.methods["recall"].input("state").type.shape[1])  # type: ignore[arg-type]
        place = chosen_set(b, confidence, most)
        known = _of_free(b, first["known"], request.kept, length)
        counts = [_of_free(b, nth_row(b, row["count"], k), request.kept, length) for k in range(steps)]
        made = [b.op("sub", count, known, out="made") for count in counts]
        return drawn_set(b, request, tokens, all_, tuple(caches), place, made, row, self.top_k)

    def _confidence(self, b: Builder, logits: Var, drawn: Var, row: Mapping[str, Var]) -> Var:
        """f32[B, T]: the log probability of what was drawn, with noise."""
        index = b.reshape(drawn, shape=(*drawn.shape, 1))
        confidence = b.take_along(b.log_softmax(logits, axis=2), index, axis=2)
        confidence = b.reshape(confidence, shape=drawn.shape, out="confidence")
        if "certainty" in row:
            confidence = b.mul(confidence, row["certainty"], out="confidence")
        return b.add(confidence, row["gumbel"] * row["noise"], out="confidence") if self.noisy else confidence  # type: ignore[no-any-return]


def _of_free(b: Builder, count: Var, kept: Var | None, length: int) -> Var:
    """A number of known tokens; if some were given i64[B, 1], these and the same fraction of the others, rounded up."""
    if kept is None:
        return count
    fixed = b.sum(b.cast(kept, to="i64"), axes=(1,), keepdims=True, out="fixed")
    wanted = (length - fixed) * count + (length - 1)
    return b.add(fixed, b.div(wanted, length), out="count")  # type: ignore[no-any-return]
