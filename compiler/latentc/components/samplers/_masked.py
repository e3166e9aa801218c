"""The base of samplers of masked tokens: the loop over the steps, guidance, and the programs `sample` and `inpaint`.

Settings may be a number per step, as a search finds them (AutoNAT, arXiv:2406.05478). Symbols: B batch, T tokens of a
sample (digits of tokens if these are split), V values drawn among, N steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.guidance.guidance import (
    Array,
    ScheduledGuidance,
    asked_scale,
    scale_at,
    token_guidance_problems,
)
from latentc.components.kit import Conditions, Operands, guided_call
from latentc.components.kit.tokens import Schedule, draw, filtered, hidden_fraction, joined_digits, split_digits
from latentc.components.networks.bert import Bert
from latentc.components.parts import Fraction, Problem, Spec, under
from latentc.components.sampler import Sampler
from latentc.ir.builder import Builder, ModuleBuilder, Var, as_tuple
from latentc.ir.types import B, Named, f32, i64
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

MOST_STEPS = 100_000
MaskSchedule = Literal[Schedule, "log", "exp"]
Fractions = Annotated[tuple[Fraction, ...], Field(max_length=MOST_STEPS)]
Positive = Annotated[float, Field(gt=0)]
PerStep = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(max_length=MOST_STEPS)]
PositivePerStep = Annotated[tuple[Positive, ...], Field(max_length=MOST_STEPS)]
Values = Mapping[str, Var]


class SteppedGuidance(ScheduledGuidance):
    """Guidance whose part of (scale - 1) may be given for each step."""

    schedule: Literal["constant", "linear", "cosine"] | PerStep = Field(  # type: ignore[assignment]
        "constant",
        description="how scale - 1 grows with the progress p: constant, as q, or as (1 - cos(pi q)) / 2 with q = "
        "p^power (power-cosine of MDT and DiffiT); or a list of factors, one per step",
    )

    def grown(self, progress: Sequence[float]) -> Array:
        if isinstance(self.schedule, str):
            return super().grown(progress)
        return np.asarray(self.schedule, np.float64)


class MaskedSampler(Sampler):
    """Starts from masks alone, and predicts all tokens and keeps some of them in each step."""

    steps: int = Field(gt=0, le=MOST_STEPS, description="evaluations of the network")
    schedule: MaskSchedule | Fractions = Field(
        "arccos",
        description="schedule of the number of hidden tokens over the steps: arccos, cosine, cubic, linear, "
        "power_2.5, root, square, log or exp, the last two depending on the number of tokens; or a list of hidden "
        "fractions after each step but the last",
    )
    top_k: int = Field(0, ge=0, le=16_777_216, description="draw only from the k most likely tokens; 0: all")
    guidance: SteppedGuidance | None = Field(None, description="classifier-free guidance of the logits; null: none")
    inpaint: bool = Field(True, description="add a program `inpaint`, which keeps given tokens and draws the others")

    @abstractmethod
    def guided_progress(self) -> np.ndarray:
        """f64[N]: the progress that guidance follows at each step, from 0 to 1."""

    @abstractmethod
    def counts(self, length: int) -> np.ndarray:
        """i64[N]: tokens that are known after each step."""

    @abstractmethod
    def sharpness_of_steps(self) -> np.ndarray:
        """f64[N]: the factor of the logits in each step."""

    @abstractmethod
    def choose(self, b: Builder, mask: int, tokens: Var, drawn: Var, logits: Var, predicted: Var, at: Values) -> Var:
        """bool[B, T]: the tokens that take the values drawn.

        tokens and drawn i64[B, T], logits f32[B, T, V] that they were drawn from, and as predicted. `at` has the step's
        row of each table, `fixed` and, as `kept` bool[B, T], the tokens given by a request, if it gives any.
        """

    def drawn(self, b: Builder, logits: Var, at: Values) -> Var:
        """i64[B, T]: values drawn from logits f32[B, T, V] in a step."""
        return draw(b, logits, at["u"], out="drawn")

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        """Further tables of numbers, one per step, for `choose`; `keeps`: of the program that keeps given tokens."""
        return {}

    def draws(self, length: int) -> dict[str, RandomSource]:
        """Further random inputs by name: with rows a number per step and token, otherwise one per sample."""
        return {}

    def fixed(self, b: Builder, drawn: Values, length: int) -> dict[str, Var]:
        """Values that `choose` takes in every step; `drawn` are the random inputs without rows."""
        return {}

    NEEDS = "masked_tokens"

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        splits = main.splits if isinstance(main, Bert) else 1
        if spec.data.tokens is not None and self.steps > (most := spec.data.tokens.length * splits):
            message = f"{self.steps} steps for {most} tokens: some steps would reveal none"
            yield Problem(("steps",), message, f"use {most} steps or fewer")
        yield from problems_of(("schedule",), self.schedule, self.steps - 1, "step but the last")
        if self.guidance is not None:
            yield from problems_of(("guidance", "schedule"), self.guidance.schedule, self.steps, "step")
        yield from under("guidance", problems=token_guidance_problems(self.guidance, spec))

    def with_steps(self, steps: int) -> MaskedSampler:
        """Lists of numbers per step are interpolated."""
        changed: dict[str, Any] = {"steps": steps}
        if not isinstance(self.schedule, str):  # fractions from 1 before the first step to 0 after the last
            changed["schedule"] = at_steps((1.0, *self.schedule, 0.0), steps + 1)[1:-1]
        if self.guidance is not None and not isinstance(self.guidance.schedule, str):
            weights = at_steps(self.guidance.schedule, steps)
            changed["guidance"] = self.guidance.model_copy(update={"schedule": weights})
        return self.model_copy(update=changed)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        return self._program(mb, networks, spec, "sample")

    def programs(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Program, ...]:
        return tuple(self._program(mb, networks, spec, name) for name in ("sample", "inpaint")[: 1 + self.inpaint])

    def _program(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, name: str) -> Program:
        """Adds entry `NAME.STEPS`: the conditions, scale f32[B] with guidance, u f32[N, B, T] … -> tokens i64[B, T].

        `inpaint` takes `given` i64[B, T] and `keep` f32[B, T] too: tokens above 0.5 stay as given.
        """
        network, conditions, entry = networks["main"], Conditions(spec, networks), f"{name}.{self.steps}"
        length, mask = int(network.methods["forward"].input("state").type.shape[1]), mask_of(network)  # type: ignore[arg-type]
        assert spec.data.tokens is not None
        count = spec.data.tokens.length
        digits = length // count  # of a token, each masked and drawn separately
        b = mb.function(entry)
        operands = conditions.operands(b, conditions.inputs(b))
        sources: dict[str, Source] = conditions.sources()
        own: tuple[Condition, ...] = ()
        given: Var | None = None
        kept: dict[str, Var] = {}
        if name == "inpaint":
            given, keep = b.input("given", i64(B, Named(count, "T"))), b.input("keep", f32(B, Named(count, "T")))
            own = inpainting_conditions((count,), count, spec.data.tokens.vocabulary)
            sources |= {c.name: ConditionSource(c.name) for c in own}
            if digits > 1:
                given = split_digits(b, given, mask, digits)
                keep = b.reshape(keep, shape=(B, count, 1))
                keep = b.reshape(b.broadcast_to(keep, keep, shape=(B, count, digits)), shape=(B, Named(length, "T")))
            kept["kept"] = b.greater(keep, 0.5, out="kept")
        scale, settings = asked_scale(b, self.guidance, sources)
        by_rows = self.recalls(length) is None  # a sampler that reuses results takes several rows at once

        def random(key: str, source: RandomSource) -> Var:
            """A random input; one that is not taken by rows is not drawn row by row either."""
            dtype = i64 if source.distribution in ("integers", "permutation") else f32
            sources[key] = source if by_rows else replace(source, rows=None)
            if source.rows is None:
                return b.input(key, dtype(B))
            if by_rows:
                return b.input(key, dtype(source.rows, B, length))
            return b.transpose(b.input(key, dtype(B, source.rows, length)), perm=(1, 0, 2), out=key)

        rows: dict[str, Var] = {"u": random("u", RandomSource("uniform", "token", self.steps))}
        like = given or next(iter(operands.values()), None)
        if like is None:  # a program without conditions takes its batch from the noise
            like = b.reshape(b.slice(rows["u"], axis=0, start=0, stop=1), shape=(B, length), out="u_0")
        start = b.full(like, shape=(length,), value=mask, dtype="i64", out="tokens")
        start = start if given is None else b.where(kept["kept"], given, start, out="tokens")
        drawn: dict[str, Var] = {}
        for key, source in self.draws(length).items():
            (drawn if source.rows is None else rows)[key] = random(key, source)
        fixed = {**({} if scale is None else {"scale": scale}), **kept, **self.fixed(b, drawn, length)}
        weights = self.guidance.weights(list(self.guided_progress())) if self.guidance else np.ones(self.steps)
        columns = {"count": self.counts(length), "sharpness": self.sharpness_of_steps(), "weight": weights}
        columns = {key: column for key, column in columns.items() if key == "count" or np.any(column != 1.0)}
        columns |= self.columns(length, bool(kept))
        tables = {key: b.constant(column, out=key) for key, column in columns.items()} | rows
        tokens = self.run(b, Run(entry, network, conditions, operands, fixed, tables), start)
        values = network.methods["forward"].output("logits").values
        if values is None or values <= mask:
            # No sample has the mask, but a bundle's first run stops after a step, and a first stage has no row for it.
            tokens = b.minimum(tokens, mask - 1, out="tokens")
        b.output(joined_digits(b, tokens, mask, digits))
        what = f"Draws {count} tokens" if name == "sample" else "Keeps some of the given tokens and draws the others"
        mb.entries[entry] = b.finish(doc=f"{what} in {self.steps} steps.")
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, self.steps, self.steps, sources, settings, name, outputs, own)

    def run(self, b: Builder, run: Run, tokens: Var) -> Var:
        """tokens i64[B, T] after all steps."""
        return run.looped(b, "step", self.steps, self.step, tokens)

    def step(self, b: Builder, run: Run, tokens: Var) -> Var:
        """tokens i64[B, T] after a step, which draws all and keeps those that `choose` returns."""
        at = {**run.fixed, **run.tables}
        predicted = drawable(b, run.network, run.evaluated(b, "forward", at, state=tokens)[0])
        logits = b.mul(predicted, at["sharpness"], out="logits") if "sharpness" in at else predicted
        logits = filtered(b, logits, self.top_k, 1.0)
        drawn = self.drawn(b, logits, at)
        chosen = self.choose(b, mask_of(run.network), tokens, drawn, logits, predicted, at)
        return b.where(chosen, drawn, tokens, out="tokens")


@dataclass(frozen=True)
class Run:
    """The steps of program `entry`, in which `network` predicts tokens.

    `operands` of the conditions and further values `fixed` are the same in every step; `tables` have a row for each,
    and in a step they are its rows.
    """

    entry: str
    network: Network
    conditions: Conditions
    operands: Operands
    fixed: Values
    tables: Values

    def looped(self, b: Builder, name: str, count: int, step: Callable[[Builder, Run, Var], Var], tokens: Var) -> Var:
        """tokens i64[B, T] after `count` steps, loop `ENTRY.NAME`; `step(b, run, tokens)` returns those after one."""

        def body(b: Builder, i: Var, invariants: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]) -> Any:
            given = dict(zip(self.operands, invariants, strict=False))
            further = dict(zip(self.fixed, invariants[len(given) :], strict=True))
            tables = dict(zip(self.tables, row, strict=True))
            return (step(b, replace(self, operands=given, fixed=further, tables=tables), state[0]),), ()

        same = [*self.operands.values(), *self.fixed.values()]
        rows, names = list(self.tables.values()), ["tokens", *self.tables]
        name = f"{self.entry}.{name}"
        (tokens,) = b.loop(name, count, body, invariants=same, carried=[tokens], tables=rows, names=names)
        return tokens

    def evaluated(self, b: Builder, method: str, at: Values, **by_role: Any) -> tuple[Var, ...]:
        """All logits f32[B, T, V or more] of a method, then its caches, which hold both branches under guidance.

        `at` has the guidance's `scale` f32[B], if there is guidance, and its part in this step, `weight` f32[], if not
        1.
        """
        caches = ("cache" for port in self.network.methods[method].outputs if port.role == "cache")
        out = " ".join(["logits", *caches])
        scale = scale_at(b, at["scale"], at["weight"]) if "weight" in at and "scale" in at else at.get("scale")
        null = {} if scale is None else self.conditions.null(b, self.operands)
        return as_tuple(guided_call(b, self.network, method, self.operands, null, scale, out=out, **by_role))


def drawable(b: Builder, network: Network, logits: Var) -> Var:
    """Logits of the values that are drawn, which are the first."""
    values = network.methods["forward"].output("logits").values
    if values is None or values == int(logits.shape[2]):
        return logits
    return b.slice(logits, axis=2, start=0, stop=values, out="logits")


def mask_of(network: Network) -> int:
    """The token that stands for hidden ones."""
    return int(network.methods["forward"].input("state").null)  # type: ignore[arg-type]


def free_of(b: Builder, at: Values) -> Var | None:
    """bool[B, T]: the tokens that the request did not give; None: all."""
    return b.equal(b.cast(at["kept"], to="i64"), 0, out="free") if "kept" in at else None


class ListedSampler(MaskedSampler):
    """A masked sampler whose `schedule`, settings below and `guidance` may be lists of a number per step, which
    `latentc tune` searches.
    """

    temperature: Positive | PositivePerStep = Field(1.0, description="temperature of the logits, or one per step")
    randomness: Annotated[float, Field(ge=0)] | PerStep = Field(
        4.5, description="factor of the Gumbel noise at progress 0, falling linearly to 0; or one factor per step"
    )

    def with_steps(self, steps: int) -> ListedSampler:
        """Lists of numbers per step are interpolated."""
        lists = {name: getattr(self, name) for name in ("temperature", "randomness")}
        changed = {name: at_steps(values, steps) for name, values in lists.items() if isinstance(values, tuple)}
        return super().with_steps(steps).model_copy(update=changed)  # type: ignore[return-value]

    @abstractmethod
    def listed(self, length: int) -> ListedSampler:
        """The sampler of `length` tokens with a number for each step in place of every schedule."""


def inpainting_conditions(shape: tuple[int, ...], length: int, vocabulary: int | None = None) -> tuple[Condition, ...]:
    """Conditions of an inpainting request: `given`, tokens or numbers, and `keep` [length], above 0.5 if it stays."""
    if vocabulary is None:
        given = Condition("given", "array", shape, "f32")
    else:
        given = Condition("given", "tokens", shape, "i64", vocabulary=vocabulary)
    return given, Condition("keep", "array", (length,), "f32")


def fraction_of(schedule: MaskSchedule | Sequence[float], progress: np.ndarray, length: int) -> np.ndarray:
    """Fraction of `length` tokens that are hidden at each progress, in its dtype."""
    if not isinstance(schedule, str):
        return np.asarray([*schedule, 0.0], progress.dtype)
    if schedule != "log" and schedule != "exp":
        return hidden_fraction(schedule, progress)
    with np.errstate(divide="ignore"):
        bits = np.log2(progress.dtype.type(max(length, 2)))
        fraction = -np.log2(progress) / bits if schedule == "log" else 1 - np.exp2(-bits * (1 - progress))
    return np.clip(fraction, progress.dtype.type(1e-6), progress.dtype.type(1))  # as in MaskGIT's code


def known_counts(
    schedule: MaskSchedule | Sequence[float],
    progress: np.ndarray,
    length: int,
    hidden: bool = False,
    double: bool = False,
) -> np.ndarray:
    """i64[N]: tokens known after each step, at least one more per step; in float32, as published code truncates it.

    `hidden`: the number of hidden tokens is rounded down, not that of the known ones, and all are known in the end.
    `double`: in float64.
    """
    real = np.float64 if double else np.float32
    fraction = fraction_of(schedule, progress.astype(real), length)
    if not hidden:
        counts = ((1 - fraction) * real(length)).astype(np.int64)
        return np.minimum(np.maximum(counts, np.arange(1, len(progress) + 1)), length)
    counts = length - np.floor(fraction * real(length)).astype(np.int64)
    known = 0
    for i, count in enumerate(counts):
        # At least one token remains for each later evaluation, until the last draws all.
        known = counts[i] = length if i == len(counts) - 1 else min(max(known + 1, count), length - 1)
    return counts


def numbers_of(value: float | Sequence[float], steps: int) -> Array:
    """f64[N]: a number for all steps, or one for each."""
    return np.broadcast_to(np.asarray(value, np.float64), (steps,)).copy()


def problems_of(name: tuple[str, ...], value: object, wanted: int, each: str) -> Iterator[Problem]:
    """A problem if a list does not have `wanted` numbers, one for `each`."""
    if isinstance(value, tuple) and len(value) != wanted:
        yield Problem(name, f"{len(value)} numbers, but there must be one for each {each}: {wanted}", "give as many")


def at_steps(values: Sequence[float], steps: int) -> tuple[float, ...]:
    """The numbers of a list at another number of `steps`, interpolated linearly."""
    own = np.linspace(0.0, 1.0, len(values))
    return tuple(np.interp(np.linspace(0.0, 1.0, steps), own, values).tolist())
