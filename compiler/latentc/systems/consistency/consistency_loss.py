"""Shared by objectives that teach a network where trajectories end, from any state on them.

Symbols: B batch; x_t the noisier and x_s the less noisy of two neighbouring states of a trajectory; F what a network
returns, D the data that follows from it; f the consistency function (`Boundary`).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed, Component, OneOf, OneOfThese, find
from latentc.components.contract import Draw, Need, Network, Update
from latentc.components.kit import Conditions, Operands, call, first_channels, per_sample_mean
from latentc.components.objective import GrowingGrids, Objective
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import unread_problems
from latentc.components.objectives._reconstruction import PERCEPTUAL
from latentc.components.objectives.denoising import DenoisingObjective
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.objectives.flow import Flow
from latentc.components.parts import Problem, Spec
from latentc.components.processes.edm import Edm
from latentc.components.processes.formulas import Array, Symbolic
from latentc.components.processes.prediction import conversion
from latentc.components.processes.process import Boundary, Parameterization
from latentc.components.samplers.spacings.spacing import Spacing
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64
from latentc.ir.types import B
from latentc.systems.consistency.consistency_sampler import Consistency, consistent_interval
from latentc.systems.consistency.growth import MOST, Grids, Growth

_LEAST = 0.002  # noise level at which trajectories end on a path that reaches the data: EDM's


class LogNormal(Closed):
    """A normal distribution of the logarithm of the noise level (improved consistency training)."""

    mean: float = Field(-1.1, description="mean of log(sigma / alpha)")
    std: float = Field(2.0, gt=0, description="standard deviation of log(sigma / alpha)")


@dataclass(frozen=True)
class Pairs:
    """Tables that a loss indexes by the number of a pair of times: `columns` f64[N] each."""

    b: Builder
    m: Symbolic
    number: Var
    columns: Mapping[str, Array]

    def __call__(self, name: str) -> Coefficient:
        """A coefficient [B, 1, …], or its one value."""
        column = self.columns[name]
        return float(column[0]) if np.all(column == column[0]) else self.m.row(column, self.number, name)

    def time(self, name: str) -> Var:
        """f32[B]: the time that networks take."""
        return self.b.take(self.b.constant(self.columns[name], out=f"{name}_table"), self.number, axis=0, out=name)


def problems_of_ends(objective: Objective, spec: Spec) -> Iterator[Problem]:
    """A sampler that does not jump to the ends of trajectories, or no network to train."""
    if spec.sampler is not None and not isinstance(spec.sampler, Consistency):
        message = (
            "the objective trains the network to jump to the end of a trajectory, but "
            f"`{spec.sampler.kind}` takes single steps"
        )
        yield Problem((), message, "use the sampler `consistency`")
    if not objective.trained(spec):
        message = "network `main` is frozen and there is no adapter, so nothing is trained"
        yield Problem((), message, "set `networks.main.frozen: false`, or add a network of kind `adapter`")


class ConsistencyObjective(Objective):
    """Draws two neighbouring times of a grid, and compares what f says of both states (Song et al. 2023,
    arXiv:2303.01469). If `main` is frozen, its adapters alone are trained (CCM, Xiao et al. 2023, arXiv:2312.06971)."""

    base: Annotated[DenoisingObjective, OneOfThese("objectives", classes=(Diffusion, Flow))] = Field(
        Diffusion(kind="diffusion"), description="the process, and the prediction of the network"
    )
    steps: int = Field(18, gt=1, le=100_000, description="steps of the time grid, from noise to data")
    growth: Growth | None = Field(
        None, description="coarser grids at the beginning of training; null: `steps` from the start"
    )
    spacing: Annotated[Component | None, OneOf("samplers/spacings", named=True)] = Field(
        None, description="spacing of the times; null: the process's default, `trailing` for schedules"
    )
    stride: int = Field(1, gt=0, le=100_000, description="grid steps between the two times of a pair")
    levels: LogNormal | None = Field(
        None, description="pairs are drawn by the noise level of the first time; null: uniformly"
    )
    target: str | None = Field(
        None,
        description="one of `networks` that predicts the end from the less noisy state: an average of `main` or of "
        "one of its adapters; null: `main` itself, without a gradient",
    )
    distance: Literal["l2", "l1", "pseudo_huber", "perceptual"] = Field(
        "pseudo_huber",
        description="mean squared or absolute difference, sqrt(|d|^2 + c^2) - c, or the distance of the network "
        "`perceptual` (LPIPS)",
    )
    c: float = Field(0.00054, gt=0, description="c of the pseudo-Huber distance, per square root of the dimension")
    weighting: Literal["none", "inverse_step", "edm"] = Field(
        "none",
        description="weight of the distance; inverse_step: 1 over the difference of the two noise levels; edm: "
        "1 / level^2 + 1 / data_std^2 at the first",
    )
    least: float | None = Field(
        None, gt=0, description="noise level sigma / alpha at which trajectories end; null: the process's smallest"
    )
    data_std: float | None = Field(
        None, gt=0, description="standard deviation of the data in the consistency function; null: the process's, 0.5"
    )

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        named: tuple[Need, ...] = ()
        if self.target is not None:
            averaged = spec.networks[self.target].average_of if self.target in spec.networks else None
            source = spec.networks.get(averaged or "main")
            adapts = source is not None and source.adapts is not None
            named = (Need(self.target, "control" if adapts else "denoise", place=("target",)),)
        if self.distance == "perceptual":
            named += (Need(PERCEPTUAL, "compare", place=("distance",)),)
        return Need("main", "denoise"), *named

    def parameterization(self) -> Parameterization:
        target = self.base.parameterization()
        least = float(target.process.point(target.process.last).level) or _LEAST
        usual = target.process.sigma_data if isinstance(target.process, Edm) else 0.5
        return replace(target, boundary=Boundary(self.least or least, self.data_std or usual))

    def out_channels(self, channels: int) -> int:
        return self.base.out_channels(channels)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.parameterization().noise_problems(spec, f"objective `{self.kind}`")
        yield from unread_problems(self.base, "only the process and the prediction of the base objective are used")
        if self.growth is not None and self.growth.first >= self.steps:
            message = f"the first grid has {self.growth.first} steps, but the last has {self.steps}"
            yield Problem(("growth", "first"), message, "make `first` less than `steps`")
            return
        counts = [count for _, count in self.grids(spec)]
        if self.stride >= self.steps or self.stride > counts[0]:
            message = f"pairs are {self.stride} steps apart, but the grid has only {counts[0]} steps"
            yield Problem(("stride",), message, "use a smaller stride")
            return
        if self.growth is not None and sum(counts) > MOST:
            message = f"the grids have {sum(counts)} steps in total, more than {MOST}"
            yield Problem(("growth",), message, "use fewer `steps`, or the rule `doubling`")
            return
        try:
            for count in counts:
                self.columns(count)
        except ValueError as error:
            yield Problem(("steps",), str(error), "choose another `spacing`, or fewer steps")
        yield from problems_of_ends(self, spec)
        yield from self._problems_of_target(spec)

    def _problems_of_target(self, spec: Spec) -> Iterator[Problem]:
        """A target that is no average of `main` or its adapter."""
        found = spec.networks.get(self.target or "")
        if found is None:
            return  # or an unmet need
        source = spec.networks.get(found.average_of or "")
        if found.average_of != "main" and (source is None or source.adapts != "main"):
            message = f"network `{self.target}` is not an average of `main` or of its adapter"
            yield Problem(("target",), message, f"use `networks.{self.target}: {{kind: average}}`")

    # ---- the grid

    def grids(self, spec: Spec) -> list[tuple[int, int]]:
        """(step of training from which it is used, steps of the grid), in order."""
        return [(0, self.steps)] if self.growth is None else self.growth.grids(self.steps, spec.train.steps)

    def growing(self, spec: Spec) -> GrowingGrids | None:
        if self.growth is None:
            return None
        starts, steps = zip(*self.grids(spec), strict=True)
        return GrowingGrids(self.growth.first, starts, steps)

    def pairs(self, steps: int) -> tuple[Array, Array]:
        """f64[N] each: the times of the N pairs. ValueError: there is no such grid."""
        target = self.parameterization()
        spacing = self.spacing
        if not isinstance(spacing, Spacing):
            kind = "trailing" if target.process.WHOLE else target.process.DEFAULTS.spacing
            usual = find("samplers/spacings", kind)
            assert usual is not None and issubclass(usual, Spacing)
            spacing = usual(kind=kind)
        times = spacing.grid(target.process, steps, consistent_interval(target)).times
        if len(set(times)) < len(times):
            raise ValueError(f"the grid of {steps} steps contains the same time twice")
        return times[: -self.stride], times[self.stride :]

    def columns(self, steps: int) -> dict[str, Array]:
        """f64[N]: the numbers that the loss reads, by pair. ValueError: times or conversions that do not exist."""
        target, pairs = self.parameterization(), self.pairs(steps)
        assert target.boundary is not None
        process, found = target.process, dict[str, Array]()
        for mark, times in zip(("", "_s"), pairs, strict=True):
            point = process.point(times)
            (a, b), (skip, out) = conversion(target.predicts, "x0", point), target.boundary.coefficients(point)
            found |= {f"alpha{mark}": point.alpha, f"sigma{mark}": point.sigma, f"data_x{mark}": a}
            found |= {f"data_out{mark}": b, f"f_x{mark}": skip + out * a, f"f_out{mark}": out * b}
            found |= {f"c_in{mark}": point.scale, f"time{mark}": point.time}
        levels = [process.point(times).level for times in pairs]
        found["weight"] = np.ones_like(levels[0])
        if self.weighting == "inverse_step":
            found["weight"] = 1.0 / (levels[0] - levels[1])  # 0 if the level is infinite
        if self.weighting == "edm":
            found["weight"] = 1.0 / levels[0] ** 2 + 1.0 / target.boundary.data_std**2
        return found

    def cumulative(self, steps: int) -> Array:
        """f64[N]: the probability of a pair or one before it."""
        if self.levels is None:
            count = steps - self.stride + 1
            return np.arange(1, count + 1) / count
        with np.errstate(divide="ignore"):
            ends = [np.log(self.parameterization().process.point(times).level) for times in self.pairs(steps)]
        erf = np.vectorize(math.erf)
        above, below = (erf((end - self.levels.mean) / (math.sqrt(2.0) * self.levels.std)) for end in ends)
        return np.cumsum(above - below) / np.sum(above - below)

    # ---- the loss

    @abstractmethod
    def nearer(
        self, b: Builder, at: Pairs, networks: Mapping[str, Network], conditions: Conditions, cond: Operands,
        x0: Var, noise: Var, x_t: Var,
    ) -> Var:  # fmt: skip
        """x_s, from x_t = alpha x0 + sigma noise."""

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        main, conditions = networks["main"], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", main.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        grids = self.grids(spec)
        number, draw = self._number(b, grids)
        noise = b.input("noise", x0.type)
        dropped = () if self.DISTILS else conditions.draws()
        cond = conditions.dropped(b, cond) if dropped else cond
        columns = [self.columns(count) for _, count in grids]
        every = {name: np.concatenate([of_grid[name] for of_grid in columns]) for name in columns[0]}
        at = Pairs(b, Symbolic(b, x0.type.rank), number, every)
        x_t = weighted_sum(b, "x_t", (at("alpha"), x0), (at("sigma"), noise))
        x_s = self.nearer(b, at, networks, conditions, cond, x0, noise, x_t)
        wanted = b.stop_gradient(_end(b, at, self._target(networks, spec), cond, x_s, "_s", "wanted"))
        distance = self.compared(b, networks, _end(b, at, main, cond, x_t, "", "f"), wanted)
        weight = at("weight")
        weight = b.reshape(weight, shape=(weight.shape[0],), out="weight") if isinstance(weight, Var) else weight
        b.output(weighted_sum(b, "loss", (weight, distance)))
        b.finish("The distance between the ends that both states lead to, one value per sample.")
        draws = (draw, Draw("noise", "normal"), *conditions.drawn(), *dropped)
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))

    def _number(self, b: Builder, grids: list[tuple[int, int]]) -> tuple[Var, Draw]:
        """The number of a pair, i64[B], from a draw that becomes an input."""
        if self.levels is None and self.growth is None:
            return b.input("pair", i64(B)), Draw("pair", "integers", {"high": self.steps - self.stride + 1})
        u, (starts, counts) = b.input("u", f32(B)), zip(*grids, strict=True)
        return Grids(starts, counts, self.cumulative).drawn(b, u), Draw("u", "uniform")

    def _target(self, networks: Mapping[str, Network], spec: Spec) -> Network:
        """The network that says where the less noisy state leads."""
        main = networks["main"]
        if self.target is None:
            return main
        source = spec.networks[self.target].average_of
        if source == "main":
            return networks[self.target]
        adapters = (networks[self.target] if adapter.name == source else adapter for adapter in main.adapters)
        return replace(main, adapters=tuple(adapters))

    def compared(self, b: Builder, networks: Mapping[str, Network], f: Var, wanted: Var) -> Var:
        """f32[B]."""
        if self.distance == "perceptual":
            return call(b, networks[PERCEPTUAL], "forward", {}, state=[f, wanted], out="distance")
        difference = b.op("sub", f, wanted, out="difference")
        if self.distance == "l1":
            return per_sample_mean(b, b.abs(difference), out="distance")
        if self.distance == "l2":
            return per_sample_mean(b, difference * difference, out="distance")
        axes = tuple(range(1, difference.type.rank))
        c = self.c * math.sqrt(math.prod(int(d) for d in difference.shape[1:]))
        square = b.sum(difference * difference, axes=axes, keepdims=False, out="square")
        return b.add(b.sqrt(square + c * c), -c, out="distance")


def predicted(b: Builder, at: Pairs, network: Network, cond: Operands, x: Var, mark: str, out: str) -> Var:
    """F at x and its time, without a variance beside it."""
    scaled = weighted_sum(b, "scaled", (at(f"c_in{mark}"), x))
    made = call(b, network, "forward", cond, state=scaled, time=at.time(f"time{mark}"), out=out)
    return first_channels(b, made, x)


def _end(b: Builder, at: Pairs, network: Network, cond: Operands, x: Var, mark: str, out: str) -> Var:
    """f at x and its time."""
    prediction = predicted(b, at, network, cond, x, mark, "prediction")
    return weighted_sum(b, out, (at(f"f_x{mark}"), x), (at(f"f_out{mark}"), prediction))
