"""The velocity of a network's probability flow at any time, as a function of a program.

A table has a row for every time at which a solver evaluates; one that chooses its steps evaluates at times that only
the run knows, so that the process's formulas are ops here. Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Guide
from latentc.components.kit import first_channels
from latentc.components.processes.formulas import Array, Symbolic
from latentc.components.processes.prediction import Point, Prediction, functional
from latentc.components.processes.process import Parameterization, input_scale
from latentc.components.samplers._likelihood import Path
from latentc.components.samplers.guided import Evaluation, Request, prediction, weight_column
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32

CELLS = 1000
"""Cells of the process's time between whose ends weights of guidance are interpolated; an interval fades within one."""


@dataclass(frozen=True)
class At:
    """A network at times f32[B]: its time input, the factor of its state, and the velocity that it predicts,
    ``skip * x + gain * output``.
    """

    time: Var
    scale: Coefficient = 1.0
    skip: Coefficient = 0.0
    gain: Coefficient = 1.0

    def scaled(self, b: Builder, x: Var) -> Var:
        """The network's input."""
        return weighted_sum(b, "scaled", (self.scale, x))

    def velocity(self, b: Builder, x: Var, output: Var) -> Var:
        return weighted_sum(b, "velocity", (self.skip, x), (self.gain, output))


@dataclass(frozen=True)
class Course:
    """Times from ends[0], at the noise, to ends[1]: `at(b, t, rank)` of a sample, and their progress."""

    ends: tuple[float, float]
    at: Callable[[Builder, Var, int], At]
    progress: Callable[[Array], Array]


def course_of(target: Parameterization) -> Course:
    """The times of a process, whose network is parameterized like `target`."""
    process = target.process

    def at(b: Builder, t: Var, rank: int) -> At:
        m = Symbolic(b, rank)
        column = m.column(t, "time")
        scaled = process.preconditioning
        own = scaled.functional(m, column) if scaled is not None and target.predicts == "preconditioned" else None
        point = None
        if target.predicts != "flow_velocity":
            alpha, sigma = process.alpha(m, column), process.sigma(m, column)
            point = Point(alpha, sigma, *process.derivatives(m, column), own)
        return At(process.network_time(m, t), input_scale(process, m, column), *_of_velocity(target.predicts, point))

    return Course((process.first, process.last), at, process.progress)


def velocity(
    mb: ModuleBuilder, network: Network, course: Course, guides: Sequence[Guide], request: Request
) -> tuple[str, list[Var]]:
    """Adds a function (t f32[B], x [B, C, ...], *kept) -> dx/dt at a time t of the course, under guidance.

    Returns its name, and the values to pass as `kept` in the program of `request`.
    """
    b = mb.function("velocity")
    t, x = b.input("t", f32(B)), b.input("x", network.methods["forward"].input("state").type)
    operands = {name: b.input(v.value.name, v.type) for name, v in request.operands.items()}
    scales = {name: b.input(v.value.name, v.type) for name, v in request.scales.items()}
    like = next(iter(operands.values()), t)
    asked = Request(operands, request.null, request.nullable, like, scales, request.coupling)
    at = course.at(b, t, x.type.rank)
    row = weights(b, guides, course, t)
    output = prediction(b, Evaluation(network, tuple(guides)), asked, row, at.scaled(b, x), at.time, 0)
    v = at.velocity(b, x, first_channels(b, output, x))
    b.output(v if request.coupling is None else request.coupling.confined(b, v, operands))
    return b.finish(doc="dx/dt of the flow at time t."), [*request.operands.values(), *request.scales.values()]


def velocity_and_divergence(path: Path) -> tuple[str, list[Var]]:
    """As `velocity`, a function (t f32[B], x [B, C, ...], change f32[B], *kept) -> dx/dt and its divergence f32[B], of
    a network without guidance; `change` is the integral of the divergence so far, on which nothing depends.
    """
    b = path.mb.function("velocity_and_divergence")
    t, x = b.input("t", f32(B)), b.input("x", path.probe.type)
    b.input("change", f32(B))
    kept = [b.input(v.value.name, v.type) for v in path.kept]
    at = course_of(path.target).at(b, t, x.type.rank)
    output, along = path.along(b, kept, at.scaled(b, x), at.time)
    of_output = weighted_sum(b, "of_output", (_times(_flat(b, at.gain), _flat(b, at.scale)), along))
    divergence = weighted_sum(b, "divergence", (_flat(b, at.skip), kept[-1]), (1.0, of_output))
    b.output(at.velocity(b, x, output), divergence)
    return b.finish(doc="dx/dt of the probability flow at time t, and its divergence along the probe."), path.kept


def _flat(b: Builder, coefficient: Coefficient) -> Coefficient:
    """A coefficient [B, 1, …] as [B]."""
    return coefficient if isinstance(coefficient, float) else b.reshape(coefficient, shape=(coefficient.shape[0],))


def _of_velocity(predicts: Prediction, point: Point | None) -> tuple[Coefficient, Coefficient]:
    """(a, b) with velocity = a * x + b * prediction, as `prediction.conversion` has it, in ops."""
    if point is None:
        return 0.0, 1.0
    u, w = functional(predicts, point)
    d_alpha, d_sigma = point.d_alpha, point.d_sigma
    determinant = _minus(_times(point.alpha, w), _times(point.sigma, u))
    a = _over(_minus(_times(d_alpha, w), _times(d_sigma, u)), determinant)
    b = _over(_minus(_times(point.alpha, d_sigma), _times(point.sigma, d_alpha)), determinant)
    return a, b


def _times(x: Any, y: Any) -> Any:
    if isinstance(x, float) and isinstance(y, float):
        return x * y
    plain, other = (x, y) if isinstance(x, float) else (y, x)
    if isinstance(plain, float) and plain in (0.0, 1.0):
        return plain and other
    return x * y


def _minus(x: Any, y: Any) -> Any:
    return x if isinstance(y, float) and y == 0.0 else -y if isinstance(x, float) and x == 0.0 else x - y


def _over(x: Any, y: Any) -> Any:
    return x if (isinstance(x, float) and x == 0.0) or (isinstance(y, float) and y == 1.0) else x / y


def weights(b: Builder, guides: Sequence[Guide], course: Course, t: Var) -> Mapping[str, Coefficient]:
    """The weights f32[B] of terms of guidance at times t, by the names of their columns; those that are 1 left out."""
    first, last = course.ends
    progress = [float(p) for p in course.progress(first + (last - first) * np.linspace(0.0, 1.0, CELLS + 1))]
    found: dict[str, Coefficient] = {}
    place: tuple[Var, Var] | None = None
    for guide in guides:
        table = guide.weights(progress)
        if np.all(table == 1.0):
            continue
        if np.all(table == table[0]):
            found[weight_column(guide, 0)] = b.scalar(float(table[0]), t)
            continue
        if place is None:
            share = b.mul(b.add(t, -first), CELLS / (last - first))
            share = b.clamp(share, low=0.0, high=float(CELLS), out="share")
            cell = b.minimum(b.floor(share), CELLS - 1.0, out="cell")
            place = b.cast(cell, to="i64", out="cell"), b.op("sub", share, cell, out="share")
        low, high = (
            b.take(b.constant(values, out=f"{guide.input}_{name}"), place[0], axis=0)
            for name, values in (("low", table[:-1]), ("high", table[1:]))
        )
        found[weight_column(guide, 0)] = b.add(low, (high - low) * place[1], out=f"{guide.input}_weight")
    return found
