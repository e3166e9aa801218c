"""The velocity of a network's probability flow at any time, as a function of a program.

A table has a row for every time at which a solver evaluates; one that chooses its steps evaluates at times that only
the run knows, so that the process's formulas are ops here. Symbols: B batch, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Guide
from latentc.components.kit import first_channels
from latentc.components.processes.formulas import Symbolic
from latentc.components.processes.prediction import Point, Prediction, functional
from latentc.components.processes.process import Parameterization, Process
from latentc.components.samplers._likelihood import Path
from latentc.components.samplers.guided import Evaluation, Request, prediction, weight_column
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32

CELLS = 1000
"""Cells of the process's time between whose ends weights of guidance are interpolated; an interval fades within one."""


def velocity(
    mb: ModuleBuilder, network: Network, target: Parameterization, guides: Sequence[Guide], request: Request
) -> tuple[str, list[Var]]:
    """Adds a function (t f32[B], x [B, C, ...], *kept) -> dx/dt at the process's time t, under guidance.

    Returns its name, and what the program that made `request` passes as `kept`.
    """
    b = mb.function("velocity")
    t, x = b.input("t", f32(B)), b.input("x", network.methods["forward"].input("state").type)
    operands = {name: b.input(v.value.name, v.type) for name, v in request.operands.items()}
    scales = {name: b.input(v.value.name, v.type) for name, v in request.scales.items()}
    like = next(iter(operands.values()), t)
    asked = Request(operands, request.null, request.nullable, like, scales, request.coupling)
    at = At(b, target, t, x.type.rank)
    row = weights(b, guides, target.process, t)
    output = prediction(b, Evaluation(network, tuple(guides)), asked, row, at.scaled(x), at.told, 0)
    v = at.velocity(x, first_channels(b, output, x))
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
    at = At(b, path.target, t, x.type.rank)
    output, along = path.along(b, kept, at.scaled(x), at.told)
    of_output = weighted_sum(b, "of_output", (_times(_flat(b, at.gain), _flat(b, at.scale)), along))
    divergence = weighted_sum(b, "divergence", (_flat(b, at.skip), kept[-1]), (1.0, of_output))
    b.output(at.velocity(x, output), divergence)
    return b.finish(doc="dx/dt of the probability flow at time t, and its divergence along the probe."), path.kept


def _flat(b: Builder, coefficient: Coefficient) -> Coefficient:
    """A coefficient [B, 1, …] as [B]."""
    return coefficient if isinstance(coefficient, float) else b.reshape(coefficient, shape=(coefficient.shape[0],))


class At:
    """A process at times t f32[B], and what a network that is parameterized like `target` is given and says there."""

    def __init__(self, b: Builder, target: Parameterization, t: Var, rank: int) -> None:
        self.b, m, process = b, Symbolic(b, rank), target.process
        column = m.column(t, "time")
        self.told: Var = process.network_time(m, t)
        self.scale: Coefficient = process.input_scale(m, column)
        own = process.preconditioned(m, column) if target.predicts == "preconditioned" else None
        point = None
        if target.predicts != "flow_velocity":
            alpha, sigma = process.alpha(m, column), process.sigma(m, column)
            point = Point(alpha, sigma, *process.derivatives(m, column), own)
        self.skip, self.gain = _of_velocity(target.predicts, point)

    def scaled(self, x: Var) -> Var:
        """The network's input."""
        return weighted_sum(self.b, "scaled", (self.scale, x))

    def velocity(self, x: Var, output: Var) -> Var:
        return weighted_sum(self.b, "velocity", (self.skip, x), (self.gain, output))


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


def weights(b: Builder, guides: Sequence[Guide], process: Process, t: Var) -> Mapping[str, Coefficient]:
    """The weights f32[B] of terms of guidance at times t, by the names of their columns; those that are 1 left out."""
    times = process.first + (process.last - process.first) * np.linspace(0.0, 1.0, CELLS + 1)
    progress = [float(p) for p in process.progress(times)]
    found: dict[str, Coefficient] = {}
    place: tuple[Var, Var] | None = None
    for guide in guides:
        table = guide.weights(progress)
        if np.all(table == 1.0):
            continue
        if place is None:
            share = b.mul(b.add(t, -process.first), CELLS / (process.last - process.first))
            share = b.clamp(share, low=0.0, high=float(CELLS), out="share")
            cell = b.minimum(b.floor(share), CELLS - 1.0, out="cell")
            place = b.cast(cell, to="i64", out="cell"), b.op("sub", share, cell, out="share")
        low, high = (
            b.take(b.constant(values, out=f"{guide.input}_{name}"), place[0], axis=0)
            for name, values in (("low", table[:-1]), ("high", table[1:]))
        )
        found[weight_column(guide, 0)] = b.add(low, (high - low) * place[1], out=f"{guide.input}_weight")
    return found


__all__ = ["velocity", "velocity_and_divergence"]
