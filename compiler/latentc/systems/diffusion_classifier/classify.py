"""The program `classify`: how well a denoiser denoises a sample under a class, which says how likely the class is.

Symbols: B batch, N trials, R grids of noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, call, first_channels, per_sample_mean
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import NUMPY, Array
from latentc.components.processes.prediction import conversion, functional
from latentc.components.processes.process import Parameterization
from latentc.components.sampler import Wrapper
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32, i64
from latentc_runtime.classify import GRID
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

PROGRAM = "classify"
Norm = Literal["squared", "absolute", "huber"]


class Classify(Wrapper):
    """The diffusion classifier (Li et al. 2023, arXiv:2303.16203): the class under which noise is predicted best.

    One run of the program makes `trials` predictions, at noise levels that are evenly spaced where training draws them.
    With `grids`, R runs in a row make theirs at different levels: R interleaved grids, of which the first is in the
    middle of the others, as in the authors' evaluation in rounds. All classes of a sample get the same noise, which its
    seed decides; `latentc classify` compares them in rounds.
    """

    kind: Literal["classify"]
    trials: int = Field(16, gt=0, le=4_096, description="predictions per class and run of the program (N)")
    error: Literal["noise", "prediction"] = Field(
        "noise", description="what the error is of: the noise, as in the paper, or the network's prediction"
    )
    norm: Norm = Field(
        "squared",
        description="squared or absolute error, or Huber's of width 1 (the authors use `absolute` for some data)",
    )
    grids: int = Field(1, gt=0, le=1_024, description="interleaved grids of noise levels, which runs take in turn (R)")

    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "classify", "trials": 2}

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        target = parameterization_of(spec.objective)
        assert target is not None  # otherwise the sampler has a problem
        yield from target.noise_problems(spec, f"program `{PROGRAM}`")
        label = spec.conditions.get("class")
        if label is None:
            message = "classification needs a network that takes the class, but this one does not"
            yield Problem((), message, "add `conditioning.class: {kind: label}`, or leave this program out")
        if self.grids > 1 and GRID in (*spec.data.fields, *spec.conditions):
            what = "field of the data" if GRID in spec.data.fields else "condition"
            message = f"`{GRID}` is a {what}, and the name of the program's input that numbers its grids"
            yield Problem(("grids",), message, "rename it, or leave `grids` at 1")

    def columns(self, target: Parameterization) -> dict[str, Array]:
        """f64[N] each, with several grids f64[N, R]: the coefficients of the trials."""
        process, count = target.process, self.trials * self.grids
        drawn = quantiles(process.draw().distribution, dict(process.draw().parameters), count)
        times = np.asarray(process.training_time(NUMPY, drawn, target.predicts), np.float64)
        point = process.point(times)
        u, w = functional(target.predicts, point)
        factor = np.ones(count)
        if self.error == "noise":
            factor = np.broadcast_to(np.abs(conversion(target.predicts, "noise", point)[1]), factor.shape)
        columns = {
            "alpha": point.alpha,
            "sigma": point.sigma,
            "c_in": point.scale,
            "t": point.time,
            "of_data": u,
            "of_noise": w,
            "factor": factor,
        }
        grid = (self.trials, self.grids) if self.grids > 1 else (self.trials,)
        spread = {name: np.broadcast_to(np.asarray(c, np.float64), count).reshape(grid) for name, c in columns.items()}
        return spread if self.grids == 1 else {name: c[:, spread_out(self.grids)] for name, c in spread.items()}

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> tuple[Program, ...]:
        """Adds entry `classify.N`: x f32[B, C, ...], the conditions, noise f32[N, B, C, ...] -> mean error f32[B].

        With several grids it also takes the number of one for each sample, `grid` i64[B, 1].
        """
        target, conditions, network = parameterization_of(spec.objective), Conditions(spec, networks), networks["main"]
        state, entry = network.methods["forward"].input("state"), f"{PROGRAM}.{self.trials}"
        if target is None or entry in mb.entries:  # lowering for other numbers of steps has added it
            return ()
        b = mb.function(entry)
        x = b.input(state.name, state.type)
        cond = conditions.operands(b, conditions.inputs(b))
        noise = b.input("noise", f32(self.trials, *state.type.shape))
        several = self.grids > 1
        grid = [b.input(GRID, i64(B, 1))] if several else []
        columns = self.columns(target)
        constants = {name: float(c.flat[0]) for name, c in columns.items() if np.all(c == c.flat[0])}
        varying = [name for name in columns if name not in constants]
        tables = [*(b.constant(columns[name], out=name) for name in varying), noise]
        zero = b.full(x, shape=(), value=0.0, dtype="f32", out="error")

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            x0, operands = kept[0], dict(zip(cond, kept[1:], strict=False))
            k: dict[str, Coefficient] = {**constants, **dict(zip(varying, rows, strict=False))}
            z, axes = rows[-1], (1,) * (len(x0.shape) - 1)
            if several:  # each sample has a row of its own grid
                own = {name: inner.take(k[name], kept[-1], axis=0, out=name) for name in varying}
                k |= {name: inner.reshape(v, shape=(B, *axes), out=name) for name, v in own.items()}
            time = k["t"]
            x_t = weighted_sum(inner, "x_t", (k["alpha"], x0), (k["sigma"], z))
            scaled = weighted_sum(inner, "scaled", (k["c_in"], x_t))
            time = inner.constant(time, "f32") if isinstance(time, float) else time
            flat = several and "t" in varying
            time = inner.reshape(time, shape=(B,)) if flat else inner.broadcast_to(time, x0, shape=(B,), out="time")
            out = call(inner, network, "forward", operands, state=scaled, time=time, out="output")
            out = first_channels(inner, out, x0)
            wanted = weighted_sum(inner, "target", (k["of_data"], x0), (k["of_noise"], z))
            difference = weighted_sum(
                inner, "difference", (k["factor"], inner.op("sub", out, wanted, out="difference"))
            )
            error = per_sample_mean(inner, _error(inner, difference, self.norm), out=self.norm)
            return (weighted_sum(inner, "error", (1.0, carried[0]), (1.0 / self.trials, error)),), ()

        names = ["error", *varying, "noise"]
        kept = [x, *cond.values(), *grid]
        (error,) = b.loop(
            f"{entry}.trial", self.trials, body, invariants=kept, carried=[zero], tables=tables, names=names
        )
        b.output(error)
        mb.entries[entry] = b.finish(doc=f"The mean error of {self.trials} predictions of noise under a class.")
        field = spec.data.fields[state.name]
        asked = [Condition(state.name, "array", field.shape, "f32", field.axes)]
        random = RandomSource("normal", PROGRAM, self.trials)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources(), "noise": random}
        if several:
            asked.append(Condition(GRID, "tokens", (1,), vocabulary=self.grids, default=[0]))
            sources[GRID] = ConditionSource(GRID)
        outputs = (OutputField("error"),)
        every, count = tuple(asked), self.trials
        return (Program(entry, PROGRAM, count, count, sources, name=PROGRAM, outputs=outputs, conditions=every),)


def _error(b: Builder, difference: Var, norm: Norm) -> Var:
    if norm == "squared":
        return b.mul(difference, difference)
    size = b.abs(difference)
    if norm == "absolute":
        return size
    inside = b.minimum(size, 1.0)
    return b.mul(inside, b.op("sub", size, b.mul(inside, 0.5)), out="huber")


def spread_out(count: int) -> list[int]:
    """The numbers 0 to count - 1 from the middle one on, each as far from all previous ones as can be on a circle."""
    order, near = [count // 2], np.full(count, count)
    places = np.arange(count)
    while len(order) < count:
        away = np.abs(places - order[-1])
        near = np.minimum(near, np.minimum(away, count - away))
        order.append(int(near.argmax()))
    return order


def quantiles(distribution: str, parameters: dict[str, float], count: int) -> Array:
    """The middles of `count` equally likely parts of a distribution that training times are drawn from."""
    middles = (np.arange(count) + 0.5) / count
    match distribution:
        case "integers":
            return np.floor(middles * parameters["high"]).astype(np.int64)
        case "uniform":
            return middles
        case "uniform_between":
            return parameters["low"] + (parameters["high"] - parameters["low"]) * middles
        case "normal":
            return np.array([NormalDist().inv_cdf(float(q)) for q in middles])
    raise ValueError(f"the quantiles of distribution {distribution!r} are unknown")
