"""Likelihoods by the probability-flow equation (Song et al. 2021, arXiv:2011.13456, appendix D.2).

dx/dt = v(x, t) carries data to noise, and log p of the data is that of the latent plus the integral of the divergence
of v, which is estimated by a derivative along a random vector (Skilling 1989; Hutchinson 1990). Both are integrated
together, in fixed steps by the classical Runge-Kutta method, or as the authors do in steps that an error estimate
chooses. Symbols: B batch, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, derivative_along
from latentc.components.parts import Spec
from latentc.components.processes.prediction import conversion
from latentc.components.processes.process import Parameterization
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

STAGES = (0.0, 0.5, 0.5, 1.0)
"""Where in a step the classical Runge-Kutta method evaluates."""
WEIGHTS = (1 / 6, 1 / 3, 1 / 3, 1 / 6)


@dataclass(frozen=True)
class Path:
    """The integrand: a network with its conditions, the probe f32[B, C, ...] and its squared length f32[B]."""

    mb: ModuleBuilder
    network: Network
    target: Parameterization
    operands: Mapping[str, Var]
    probe: Var
    length: Var

    @property
    def kept(self) -> list[Var]:
        return [*self.operands.values(), self.probe, self.length]

    def along(self, b: Builder, kept: Sequence[Var], scaled: Var, time: Var) -> tuple[Var, Var]:
        """The network's output at its input, and probe^T J probe f32[B] of its Jacobian J; `kept` are those of b."""
        operands, z = dict(zip(self.operands, kept, strict=False)), kept[-2]
        output, along = derivative_along(
            b, self.network, "forward", operands, {"state": z}, "output along", state=scaled, time=time
        )
        axes = tuple(range(1, scaled.type.rank))
        return output, b.sum(along * z, axes=axes, keepdims=False, out="along")


@dataclass(frozen=True)
class Solution:
    """How it is integrated. `solve(b, x, path)` returns the latent of x, the integral of the divergence f32[B], then
    the `outputs`.
    """

    solver: str
    steps: int
    evaluations: int
    solve: Callable[[Builder, Var, Path], tuple[Var, ...]]
    outputs: tuple[OutputField, ...] = ()


class ExactLikelihood(Closed):
    """The program `log_likelihood`: log p(x) in nats and bits per dimension of data given as `x`, and its latent."""

    probe: Literal["rademacher", "gaussian"] = Field(
        "rademacher", description="random vectors for estimating the divergence: signs, or normals"
    )
    dequantise: bool = Field(True, description="add uniform noise of one of 256 levels to 8-bit data")

    def programs_of(
        self,
        mb: ModuleBuilder,
        networks: Mapping[str, Network],
        spec: Spec,
        target: Parameterization,
        solution: Solution,
    ) -> tuple[Program, ...]:
        """Adds entry `log_likelihood`, unless it is there: it is the same whatever steps samples take.

        ValueError: the process has no probability flow, or the network no velocity.
        """
        if "log_likelihood" in mb.entries:
            return ()
        network, process = networks["main"], target.process
        conditions = Conditions(spec, networks)
        state = network.methods["forward"].input("state")
        field = spec.data.fields[state.name]
        assert field.shape is not None
        low, high = field.range or (-1.0, 1.0)
        b = mb.function("log_likelihood")
        x = b.input(state.name, state.type)
        operands = conditions.operands(b, conditions.inputs(b))
        z = b.input("probe", state.type)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources()}
        sources["probe"] = RandomSource("normal", "probe")
        if self.dequantise:
            u = b.input("u", state.type)
            sources["u"] = RandomSource("uniform", "dequantise")
            # Levels k / 255 become k / 256 + u / 256, both between low and high.
            scale = (high - low) / 256
            x = b.add(x * (255 / 256) + u * scale, low / 256, out="x")
        if self.probe == "rademacher":
            z = b.where(b.greater(z, 0.0), b.scalar(1.0, z), b.scalar(-1.0, z), out="probe")
        axes = tuple(range(1, x.type.rank))
        length = b.sum(z * z, axes=axes, keepdims=False, out="length")
        latent, change, *further = solution.solve(b, x, Path(mb, network, target, operands, z, length))
        prior = process.prior_scale(process.first)
        size_ = math.prod(field.shape)
        squared = b.sum(latent * latent, axes=axes, keepdims=False)
        log_prior = b.add(squared * (-0.5 / prior**2), -0.5 * size_ * math.log(2 * math.pi * prior**2), out="log_prior")
        log_p = b.add(log_prior, change, out="log_p")
        bits = b.add(log_p * (-1 / (size_ * math.log(2))), math.log2(256 / (high - low)), out="bits_per_dim")
        b.output(log_p, bits, latent, further)
        mb.entries["log_likelihood"] = b.finish(doc="Log-likelihood in nats, bits per dimension at 256 levels, latent.")
        asked = (Condition(state.name, "array", field.shape, "f32", field.axes),)
        outputs = (OutputField("log_likelihood"), OutputField("bits_per_dim"), OutputField("latent"))
        made = Program(
            "log_likelihood",
            solution.solver,
            solution.steps,
            solution.evaluations,
            sources,
            name="log_likelihood",
            outputs=(*outputs, *solution.outputs),
            conditions=asked,
        )
        return (made,)


class Likelihood(ExactLikelihood):
    """The same in fixed steps of the classical Runge-Kutta method."""

    steps: int = Field(
        100, gt=0, le=100_000, description="Runge-Kutta steps, with four evaluations and derivatives each"
    )

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, target: Parameterization
    ) -> tuple[Program, ...]:
        """See `programs_of`."""
        solution = Solution("runge_kutta", self.steps, 4 * self.steps, self._solved)
        return self.programs_of(mb, networks, spec, target, solution)

    def _solved(self, b: Builder, x: Var, path: Path) -> tuple[Var, ...]:
        target, process = path.target, path.target.process
        times = np.linspace(process.last, process.first, self.steps + 1)
        start, size = times[:-1], np.diff(times)
        columns: dict[str, np.ndarray] = {"h": size}
        for i, at in enumerate((0.0, 0.5, 1.0)):
            point = process.point(start + at * size)
            skip, out = conversion(target.predicts, "flow_velocity", point)
            columns |= {f"t_{i}": point.time, f"skip_{i}": skip, f"out_{i}": out, f"scale_{i}": point.scale}
        tables = [b.constant(column, out=name) for name, column in columns.items()]
        zero = b.mul(path.length, 0.0, out="change")

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[tuple[Var, ...], tuple[()]]:
            length, (x, change) = kept[-1], carried
            row = dict(zip(columns, rows, strict=True))
            slopes: list[Var] = []
            for at, (place, weight) in enumerate(zip((0, 1, 1, 2), WEIGHTS, strict=True)):
                y = x if not at else inner.add(x, slopes[-1] * (row["h"] * STAGES[at]), out="y")
                time = inner.broadcast_to(row[f"t_{place}"], length, shape=(length.shape[0],), out="time")
                scale, skip, gain = row[f"scale_{place}"], row[f"skip_{place}"], row[f"out_{place}"]
                output, along = path.along(inner, kept, inner.mul(y, scale, out="scaled"), time)
                slopes.append(inner.add(y * skip, output * gain, out="v"))
                divergence = inner.add(length * skip, along * (gain * scale), out="divergence")
                change = inner.add(change, divergence * (row["h"] * weight), out="change")
            total = slopes[0] + slopes[1] * 2.0 + slopes[2] * 2.0 + slopes[3]
            return (inner.add(x, total * (row["h"] / 6.0), out="x"), change), ()

        return b.loop("log_likelihood.step", self.steps, body, invariants=path.kept, carried=[x, zero], tables=tables)
