"""The base of samplers of masked tokens: the loop over the steps, guidance, and the programs `sample` and `inpaint`.

Symbols: B batch, T tokens of a sample (digits of tokens if these are split), V values drawn among, N steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network, OutputField, Program
from latentc.components.guidance.guidance import scale_at, token_guidance_problems
from latentc.components.kit import Conditions, call, guided_call
from latentc.components.kit.tokens import Schedule, draw, filtered, hidden_fraction, joined_digits, split_digits
from latentc.components.networks.bert import Bert
from latentc.components.parts import Problem, under
from latentc.components.sampler import Sampler
from latentc.components.samplers._per_step import (
    Fractions,
    PerStep,
    Positive,
    PositivePerStep,
    SteppedGuidance,
    at_steps,
    fractions_at,
    problems_of,
)
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, Named, f32, i64
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


MaskSchedule = Literal[Schedule, "log", "exp"]


@dataclass(frozen=True)
class Step:
    """One step as `MaskedSampler.choose` sees it.

    tokens and drawn i64[B, T], logits f32[B, T, V] that they were drawn of, and as predicted, the rows of the tables by
    name, the tokens that a request gave as bool[B, T] or None, and what the sampler prepared.
    """

    tokens: Var
    drawn: Var
    logits: Var
    predicted: Var
    mask: int
    row: Mapping[str, Var]
    kept: Var | None
    prepared: Sequence[Var]

    def free(self, b: Builder) -> Var | None:
        """bool[B, T]: the tokens that the request did not give; None: all."""
        return None if self.kept is None else b.equal(b.cast(self.kept, to="i64"), 0, out="free")


@dataclass(frozen=True)
class Request:
    """What a step is told: the network, operands of conditions, a scale f32[B] of the guidance or None, the tokens that
    a request gave as bool[B, T] or None, and what the sampler prepared. `mask`: the token that stands for hidden ones.
    """

    network: Network
    conditions: Conditions
    told: Mapping[str, Var]
    scale: Var | None
    kept: Var | None
    prepared: Sequence[Var]
    mask: int

    def logits(self, b: Builder, method: str, weight: Var | None = None, **by_role: Any) -> Var:
        """f32[B, T, V] of a method, of the values that are drawn; `weight` f32[]: how far the guidance is."""
        return self.drawable(b, self.evaluated(b, method, weight, **by_role)[0])

    def drawable(self, b: Builder, logits: Var) -> Var:
        """Logits of the values that are drawn, which are the first."""
        values = self.network.methods["forward"].output("logits").values
        if values is None or values == int(logits.shape[2]):
            return logits
        return b.slice(logits, axis=2, start=0, stop=values, out="logits")  # type: ignore[no-any-return]

    def evaluated(self, b: Builder, method: str, weight: Var | None = None, **by_role: Any) -> tuple[Var, ...]:
        """All logits of a method, then its caches, which hold both branches under guidance."""
        of = self.network.methods[method]
        scale = self.scale if self.scale is None or weight is None else scale_at(b, self.scale, weight)
        out = " ".join(["logits", *("cache" for port in of.outputs if port.role == "cache")])
        if scale is None:
            made = call(b, self.network, method, self.told, out=out, **by_role)
        else:
            null = self.conditions.null(b, self.told)
            made = guided_call(b, self.network, method, self.told, null, scale, out=out, **by_role)
        return made if isinstance(made, tuple) else (made,)


class MaskedSampler(Sampler):
    """Starts from masks alone, and predicts all tokens and keeps some of them in each step."""

    steps: int = Field(gt=0, le=100_000, description="evaluations of the network")
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
        """f64[N]: how far the guidance is at each step, from 0 to 1."""

    @abstractmethod
    def counts(self, length: int) -> np.ndarray:
        """i64[N]: tokens that are known after each step."""

    @abstractmethod
    def sharpness_of_steps(self) -> np.ndarray:
        """f64[N]: the factor of the logits in each step."""

    @abstractmethod
    def random(self, network: Network) -> dict[str, tuple[RandomSource, tuple[int, ...]]]:
        """Further random inputs by name, with the shape of a sample's part; those with rows are tables of the loop."""

    @abstractmethod
    def prepared(self, b: Builder, inputs: Mapping[str, Var], length: int) -> list[Var]:
        """Values that `choose` takes in every step."""

    @abstractmethod
    def choose(self, b: Builder, step: Step) -> Var:
        """bool[B, T]: the tokens that take what was drawn."""

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (Need("main", "masked_tokens"),)

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
        if not isinstance(self.schedule, str):
            changed["schedule"] = fractions_at(self.schedule, steps)
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
        port = network.methods["forward"].input("state")
        length, mask = int(port.type.shape[1]), int(port.null)  # type: ignore[arg-type]
        assert spec.data.tokens is not None
        count = spec.data.tokens.length
        digits = length // count  # of a token, each masked and drawn separately
        values = network.methods["forward"].output("logits").values
        b = mb.function(entry)
        inputs = conditions.inputs(b)
        told = conditions.operands(b, inputs)
        sources: dict[str, Source] = conditions.sources()
        own: tuple[Condition, ...] = ()
        kept: list[Var] = []
        given: Var | None = None
        if name == "inpaint":
            given, keep = b.input("given", i64(B, Named(count, "T"))), b.input("keep", f32(B, Named(count, "T")))
            own = inpainting_conditions((count,), count, spec.data.tokens.vocabulary)
            sources |= {c.name: ConditionSource(c.name) for c in own}
            if digits > 1:
                given = split_digits(b, given, mask, digits)
                keep = b.reshape(keep, shape=(B, count, 1))
                keep = b.reshape(b.broadcast_to(keep, keep, shape=(B, count, digits)), shape=(B, Named(length, "T")))
            kept = [b.greater(keep, 0.5, out="kept")]
        scale = b.input("scale", f32(B)) if self.guidance else None
        if self.guidance:
            sources["scale"] = SettingSource("guidance")
        by_rows = self.by_rows(network)

        def random(key: str, source: RandomSource, *shape: int) -> Var:
            """A random input; one that is not taken by rows is not drawn row by row either."""
            dtype = i64 if source.distribution in ("integers", "permutation") else f32
            count = source.rows
            sources[key] = source if by_rows else replace(source, rows=None)
            if count is None:
                return b.input(key, dtype(B, *shape))
            if by_rows:
                return b.input(key, dtype(count, B, *shape))
            return b.transpose(b.input(key, dtype(B, count, *shape)), perm=(1, 0, *range(2, 2 + len(shape))), out=key)

        rows: dict[str, Var] = {"u": random("u", RandomSource("uniform", "token", self.steps), length)}
        like = given or next(iter(told.values()), None)
        if like is None:  # a program without conditions takes its batch from the noise
            like = b.reshape(b.slice(rows["u"], axis=0, start=0, stop=1), shape=(B, length), out="u_0")
        start = b.full(like, shape=(length,), value=mask, dtype="i64", out="tokens")
        start = start if given is None else b.where(kept[0], given, start, out="tokens")
        extra: dict[str, Var] = {}
        for key, (source, shape) in self.random(network).items():
            (extra if source.rows is None else rows)[key] = random(key, source, *shape)
        prepared = self.prepared(b, extra, length)
        weights = self.guidance.weights(list(self.guided_progress())) if self.guidance else np.ones(self.steps)
        columns = {"count": self.counts(length), "sharpness": self.sharpness_of_steps(), "weight": weights}
        columns = {key: column for key, column in columns.items() if key == "count" or np.any(column != 1.0)}
        columns |= self.columns(length) | (self.columns_of_given(length) if kept else {})
        tables = {key: b.constant(column, out=key) for key, column in columns.items()} | rows
        invariants = [*told.values(), *([scale] if scale is not None else []), *kept, *prepared]

        def request(fixed: tuple[Var, ...]) -> Request:
            left = list(fixed)
            operands = {key: left.pop(0) for key in told}
            strength = left.pop(0) if scale is not None else None
            stays = left.pop(0) if kept else None
            return Request(network, conditions, operands, strength, stays, left, mask)

        tokens = self.loops(b, entry, start, invariants, tables, request)
        if values is None:  # the mask is a valid token, which no sample contains
            tokens = b.minimum(tokens, mask - 1, out="tokens")
        b.output(joined_digits(b, tokens, mask, digits))
        what = f"Draws {count} tokens" if name == "sample" else "Keeps some of the given tokens and draws the others"
        mb.entries[entry] = b.finish(doc=f"{what} in {self.steps} steps.")
        settings = (Setting("guidance", self.guidance.scale),) if self.guidance else ()
        outputs = (OutputField("samples", "tokens"),)
        return Program(entry, self.kind, self.steps, self.steps, sources, settings, name, outputs, own)

    def columns(self, length: int) -> dict[str, np.ndarray]:
        """Further tables of numbers, one per step."""
        return {}

    def columns_of_given(self, length: int) -> dict[str, np.ndarray]:
        """Those that only a program needs which keeps given tokens."""
        return {}

    def by_rows(self, network: Network) -> bool:
        """Whether a loop takes a row of the random inputs in each step."""
        return True

    def loops(
        self,
        b: Builder,
        entry: str,
        tokens: Var,
        invariants: Sequence[Var],
        tables: Mapping[str, Var],
        request: Callable[[tuple[Var, ...]], Request],
    ) -> Var:
        """tokens i64[B, T] after all steps: a loop over the rows of the tables; `request` is made of its invariants."""

        def body(b: Builder, i: Var, fixed: tuple[Var, ...], state: tuple[Var, ...], row: tuple[Var, ...]) -> Any:
            (tokens,), at, asked = state, dict(zip(tables, row, strict=True)), request(fixed)
            logits = predicted = asked.logits(b, "forward", at.get("weight"), state=tokens)
            if "sharpness" in at:
                logits = b.mul(logits, at["sharpness"], out="logits")
            logits = filtered(b, logits, self.top_k, 1.0)
            drawn = draw(b, logits, at["u"], out="drawn")
            chosen = self.choose(b, Step(tokens, drawn, logits, predicted, asked.mask, at, asked.kept, asked.prepared))
            return (b.where(chosen, drawn, tokens, out="tokens"),), ()

        names, rows = ["tokens", *tables], list(tables.values())
        name = f"{entry}.step"
        (tokens,) = b.loop(name, self.steps, body, invariants=invariants, carried=[tokens], tables=rows, names=names)
        return tokens


class ListedSampler(MaskedSampler):
    """One whose schedules may be lists, a number per step, which `latentc tune` searches: `schedule`, those below and
    that of `guidance`.
    """

    temperature: Positive | PositivePerStep = Field(1.0, description="temperature of the logits, or one per step")
    randomness: Annotated[float, Field(ge=0)] | PerStep = Field(
        4.5, description="factor of the Gumbel noise at progress 0, falling linearly to 0; or one factor per step"
    )

    def with_steps(self, steps: int) -> ListedSampler:
        """The sampler in another number of steps, to which its lists are fitted."""
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
