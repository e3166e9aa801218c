"""Guidance: settings that all samplers share, and the terms of a denoising sampler's guidance.

Symbols: B batch, p progress of an evaluation from noise (0) to data (1).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Need, Network
from latentc.components.objective import Objective
from latentc.components.parts import Applies, Fraction, Part, Problem, Spec
from latentc.components.sums import Coefficient
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, TensorType, f32
from latentc_runtime.sources import Setting, SettingSource, Source

if TYPE_CHECKING:
    from latentc.components.processes.process import Process
    from latentc.components.samplers.guided import Predictions

Array = NDArray[np.float64]
Values = Mapping[str, Var]


class Guidance(Closed):
    """Classifier-free guidance (Ho and Salimans 2022): u + scale (c - u), c with the class and u without."""

    scale: float = Field(1.0, ge=0, description="default scale; 1 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="progress range from noise (0) to data (1) in which it is active (Kynkäänniemi et al. 2024)",
    )
    channels: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="guide only this many leading channels (3 in the DiT paper's code); null: all",
    )

    def acts(self, progress: float) -> bool:
        """True if an evaluation at this progress is guided."""
        return within(progress, self.interval)


class Scheduled(Closed):
    """Strength that may grow from none to all on the way from noise (0) to data (1)."""

    APPLIES: ClassVar[Applies] = {"power": ("schedule", ("linear", "cosine"))}

    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="how scale - 1 grows with the progress p: constant, as q, or as (1 - cos(pi q)) / 2 with q = "
        "p^power (power-cosine of MDT and DiffiT)",
    )
    power: float = Field(1.0, gt=0, le=100, description="exponent of the progress in `schedule`")

    def grown(self, progress: Sequence[float]) -> Array:
        """The fraction of the guidance that applies at each progress."""
        q = np.clip(np.asarray(progress, np.float64), 0.0, 1.0) ** self.power  # rounding leaves -1e-17 at pure noise
        return {"constant": np.ones_like(q), "linear": q, "cosine": (1 - np.cos(np.pi * q)) / 2}[self.schedule]


class ScheduledGuidance(Scheduled, Guidance):
    """Guidance that may grow from none (scale 1) to `scale` on the way from noise (0) to data (1)."""

    def weights(self, progress: Sequence[float]) -> Array:
        """The fraction of scale - 1 that applies at each progress; 0 outside `interval`."""
        return self.grown(progress) * [self.acts(float(p)) for p in progress]


class Scaled(Protocol):
    """Guidance of any kind, as far as requests set it."""

    @property
    def scale(self) -> float: ...


def asked_scale(
    b: Builder, guidance: Scaled | None, sources: dict[str, Source], of: str = ""
) -> tuple[Var | None, tuple[Setting, ...]]:
    """The scale f32[B] of guidance, an input of a program whose source is added, and how requests set it.

    Nothing without guidance. `of` precedes both names, if a program has several kinds of guidance (`pivot_`).
    """
    if guidance is None:
        return None, ()
    name = f"{of}guidance"
    sources[f"{of}scale"] = SettingSource(name)
    return b.input(f"{of}scale", f32(B)), (Setting(name, guidance.scale),)


def scale_at(b: Builder, scale: Var, weight: Var) -> Var:
    """1 + (scale - 1) * weight."""
    return b.add((scale - 1.0) * weight, 1.0, out="scale")


@dataclass(frozen=True)
class Noise:
    """Random numbers that an evaluation takes beside the state: `type` [B, ...], of this distribution."""

    name: str
    type: TensorType
    distribution: str = "normal"

    def input(self, which: int) -> str:
        """The input of a program with the noise for evaluation `which` of each step."""
        return self.name + ("", "_2")[which]


class Effect:
    """The effect of a term in an evaluation: a `Contrast`, a `Change` of the guided prediction or a `Slope`."""

    noise: tuple[Noise, ...] = ()
    """The random numbers that it draws."""


class Change(Effect):
    """A change of the prediction that all contrasts have guided."""

    @abstractmethod
    def __call__(self, e: Predictions, guided: Var, scale: Var, weight: Coefficient) -> Var:
        """The changed prediction: `guided` [B, C, ...] by the terms before it, its `scale` [B] and its weight."""


LeftOut = tuple[frozenset[str], frozenset[str]]
"""The conditions left out of the better prediction of a contrast, and of the worse."""


@dataclass(frozen=True)
class Contrast(Effect):
    """Guidance from a worse prediction q toward a better one p: adds (scale - 1) (p - q) to the prediction.

    `pair` makes p and q; only the first `channels` are guided. `of_data`: whether it needs `Predictions.data`.
    `method`: (conditions left out, the method) of a prediction that returns more than itself. `usual`: (conditions left
    out, skips) of the prediction in place of the network's own, in all terms. `left_out(nullable)`: how p and q differ
    if they are by the network that samples.
    """

    pair: Callable[[Predictions], tuple[Var, Var]]
    channels: int | None = None
    noise: tuple[Noise, ...] = ()
    of_data: bool = False
    method: tuple[frozenset[str], str] | None = None
    usual: tuple[frozenset[str], Skips] | None = None
    left_out: Callable[[Sequence[str]], LeftOut] | None = None


def of_conditions(
    without: Sequence[str] | None = None, absent: Sequence[str] = (), channels: int | None = None
) -> Contrast:
    """Classifier-free guidance: p lacks `absent`, q also `without` (None: all conditions that training drops)."""

    def left_out(nullable: Sequence[str]) -> LeftOut:
        return frozenset(absent), frozenset((*absent, *(nullable if without is None else without)))

    def pair(e: Predictions) -> tuple[Var, Var]:
        better, worse = left_out(e.request.nullable)
        return e(better), e(worse)

    return Contrast(pair, channels, left_out=left_out)


class Slope(Effect):
    """A direction that guidance adds to the score: the gradient of `function` by its first argument."""

    OF_DATA: ClassVar[bool] = False
    """Whether it looks at the data that the network predicts, by `Table.data`."""

    OUT: ClassVar[str] = "score"
    """The name of the function's value."""

    function: str

    @abstractmethod
    def arguments(self, b: Builder, x: Var, time: Var, operands: Values, coefficients: Values) -> list[Var]:
        """The arguments of `function` at the network's input x [B, ...] and time [B]; x is the first.

        `coefficients` f32[] are z_x, z_output, z_scale and z_cov, if it looks at the data; beside them is its noise.
        """

    def __call__(self, b: Builder, x: Var, time: Var, operands: Values, scale: Var, coefficients: Values) -> Var:
        """scale [B] times the direction, at the `arguments`."""
        arguments = self.arguments(b, x, time, operands, coefficients)
        _, slope = b.gradient(self.function, "", arguments, out=f"{self.OUT} slope")
        column = b.reshape(scale, shape=(scale.shape[0], *(1,) * (slope.type.rank - 1)), out="scale")
        return b.mul(slope, column, out="slope")


@dataclass(frozen=True)
class Skips:
    """A prediction by `method`, in which some tokens skip blocks: those of high scores, which are `noise`."""

    method: str
    noise: tuple[Noise, ...]


@dataclass(frozen=True)
class Guide:
    """A term of guidance in a sampling program: its input f32[B] and its setting in requests, with the default.

    `weights(progress)`: the fraction of the guidance that applies at each evaluation; 0 leaves it out. `part` tells
    guides of one term apart, of which no two act at once.
    """

    input: str
    setting: str
    default: float
    weights: Callable[[Sequence[float]], Array]
    how: Effect
    part: str = ""

    def acts(self, progress: float) -> bool:
        """True if an evaluation at this progress is guided."""
        return bool(self.weights([progress])[0] != 0.0)


class GuidanceTerm(Part):
    """A term of a denoising sampler's guidance. `SETTING` names its scale in requests, `INPUT` in programs."""

    SETTING: ClassVar[str] = "guidance"
    INPUT: ClassVar[str] = "scale"
    OF_SCORE: ClassVar[bool] = False
    """Whether it changes the score, evaluates at another state or draws numbers, so that no evaluation at one state
    shows it."""

    OF_CONDITIONS: ClassVar[bool] = False
    """Whether it only combines predictions, by the network that samples, with conditions left out."""

    MEMORY: ClassVar[bool] = False
    """Whether it can guide a network with memory, which has a branch with the conditions and one without."""

    scale: float
    name: str | None = Field(
        None, pattern="^[a-z][a-z0-9_]{0,31}$", description="name of the scale in requests; null: the default name"
    )

    @property
    def runs(self) -> int:
        """Runs of a network that it adds to an evaluation; a gradient counts as three."""
        return 1

    def needs(self) -> tuple[Need, ...]:
        """Networks that it calls beside `main`, and what they must be able to do; places relative to the term."""
        return ()

    def reads(self) -> tuple[str, ...]:
        """Conditions that it reads although no network may take them."""
        return ()

    def prepared(self, mb: ModuleBuilder, network: Network) -> Network:
        """The sampled network with the methods that this term calls. ValueError: it cannot have them."""
        return network

    def shares(self, network: str) -> tuple[float, ...]:
        """Shares of the tokens that skip blocks in its predictions by a network; see `skip_tokens`."""
        return ()

    def left_out(self, spec: Spec) -> tuple[frozenset[str], ...]:
        """The conditions left out of each of its predictions by the network that samples."""
        return ()

    @abstractmethod
    def weights(self, progress: Sequence[float]) -> Array:
        """The fraction of the guidance that applies at each progress; 0 leaves it out."""

    def directions(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], process: Process
    ) -> list[tuple[str, Callable[[Sequence[float]], Array], Effect]]:
        """Its effects by part of the process: (name of the part, weights, direction) each; by default
        one.
        """
        return [("", self.weights, self.direction(mb, networks))]

    @abstractmethod
    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Effect:
        """Its effect; may add functions to the module."""


class ScoreTerm(Scheduled, GuidanceTerm):
    """A term that adds a direction to the score: none of it at a scale of 0."""

    OF_SCORE: ClassVar[bool] = True

    scale: float = Field(1.0, ge=0, description="default scale; 0 is no guidance. An input of the engine")
    interval: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0), description="progress range from noise (0) to data (1) in which it is active"
    )

    @property
    def runs(self) -> int:
        return 3

    def weights(self, progress: Sequence[float]) -> Array:
        return self.grown(progress) * [within(p, self.interval) for p in progress]

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from interval_problems(self.interval)


class ContrastTerm(ScheduledGuidance, GuidanceTerm):
    """A term that guides from a worse prediction toward a better one."""

    absent: tuple[str, ...] = Field((), description="conditions left out of both predictions")

    @property
    def runs(self) -> int:
        return 2 if self.absent else 1

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from settings_problems(self, spec)
        yield from left_out_problems(self.absent, "absent", spec)


def within(progress: float, interval: tuple[float, float]) -> bool:
    """True if a progress is in an interval, whose ends are part of it whichever way the progress was rounded."""
    low, high = interval
    return low - 1e-9 <= progress <= high + 1e-9


def interval_problems(interval: tuple[float, float]) -> Iterator[Problem]:
    """An empty interval; paths relative to the guidance."""
    if interval[0] > interval[1]:
        yield Problem(
            ("interval",),
            "the interval ends before it starts",
            "give [low, high] with low at most high: 0 is noise, 1 is data",
        )


def guidance_problems(guidance: Guidance, spec: Spec) -> Iterator[Problem]:
    """Reasons why the conditions cannot be left out, and contradictions; paths relative to the guidance."""
    if isinstance(spec.objective, Objective) and spec.objective.DISTILS:
        message = f"`{spec.objective.kind}` never trains the network without its conditions"
        yield Problem(
            (), message, "set `sampler.guidance: null`: the network has already learned to predict with guidance"
        )
    elif not spec.conditions:
        yield Problem((), "guidance needs a condition to drop, but this spec has none", "leave `guidance` out")
    elif not any(condition.nullable for condition in spec.conditions.values()):
        name = next(iter(spec.conditions))
        message = f"guidance needs a condition that training sometimes drops, but `{name}` is never dropped"
        yield Problem((), message, f"set `conditioning.{name}.dropout` to 0.1, or leave `guidance` out")
    yield from settings_problems(guidance, spec)


def token_guidance_problems(guidance: Guidance | None, spec: Spec) -> Iterator[Problem]:
    """As `guidance_problems`, of guidance of tokens, which has no channels to choose; nothing if there is none."""
    if guidance is None:
        return
    yield from guidance_problems(guidance, spec)
    if guidance.channels is not None:
        yield Problem(("channels",), "`channels` does not apply to tokens", "leave it out")


def settings_problems(guidance: Guidance, spec: Spec) -> Iterator[Problem]:
    """An empty interval, or more channels than the data has; paths relative to the guidance."""
    yield from interval_problems(guidance.interval)
    if guidance.channels is not None and spec.data.shape and guidance.channels > spec.data.shape[0]:
        message = f"{guidance.channels} channels are guided, but the data has {spec.data.shape[0]}"
        yield Problem(("channels",), message, f"use at most {spec.data.shape[0]}, or leave it out for all")


def left_out_problems(names: Sequence[str], key: str, spec: Spec) -> Iterator[Problem]:
    """Conditions named by `key` that cannot be left out; paths relative to the guidance."""
    for i, name in enumerate(names):
        condition = spec.conditions.get(name)
        if condition is None:
            others = ", ".join(spec.conditions) or "none"
            yield Problem((key, i), f"no such condition: `{name}`", f"conditions of this spec: {others}")
        elif not condition.nullable:
            message = f"condition `{name}` is never dropped in training, so the network was not trained without it"
            yield Problem((key, i), message, f"set `conditioning.{name}.dropout` to 0.1")
