"""The program `classify`: how well a denoiser denoises a sample under a class, which says how likely the class is.

Symbols: B batch, N trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed
from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, call, first_channels, per_sample_mean
from latentc.components.parts import Problem
from latentc.components.processes.formulas import NUMPY, Array
from latentc.components.processes.prediction import conversion, functional
from latentc.components.processes.process import Parameterization
from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import f32
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

PROGRAM = "classify"


class Classification(Closed):
    """The diffusion classifier (Li et al. 2023, arXiv:2303.16203): the class under which noise is predicted best.

    One run of the program makes `trials` predictions, at noise levels that are evenly spaced where training draws them.
    All classes of a sample get the same noise, which its seed decides; `latentc classify` compares them in rounds.
    """

    trials: int = Field(16, gt=0, le=4_096, description="predictions per class and run of the program (N)")
    error: Literal["noise", "prediction"] = Field(
        "noise", description="target of the squared error: the noise, as in the paper, or the network's prediction"
    )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        """No class to find; paths relative to this section."""
        label = spec.conditions.get("class")
        if label is None:
            message = "there is no class to predict: the network does not take one"
            yield Problem((), message, "add `conditioning.class: {kind: label}`, or leave `classify` out")

    def columns(self, target: Parameterization) -> dict[str, Array]:
        """f64[N] each: the coefficients of the trials."""
        process = target.process
        drawn = quantiles(process.draw().distribution, dict(process.draw().parameters), self.trials)
        times = np.asarray(process.training_time(NUMPY, drawn, target.predicts), np.float64)
        point = process.point(times)
        u, w = functional(target.predicts, point)
        weight = np.ones(self.trials)
        if self.error == "noise":
            weight = conversion(target.predicts, "noise", point)[1] ** 2
        return {
            "alpha": point.alpha,
            "sigma": point.sigma,
            "c_in": process.scale(times),
            "t": process.told(times),
            "of_data": np.broadcast_to(np.asarray(u, np.float64), times.shape),
            "of_noise": np.broadcast_to(np.asarray(w, np.float64), times.shape),
            "weight": weight / self.trials,
        }

    def program(
        self, mb: ModuleBuilder, network: Network, conditions: Conditions, target: Parameterization, spec: Spec
    ) -> Program:
        """Adds entry `classify.N`: x f32[B, C, ...], the conditions, noise f32[N, B, C, ...] -> mean error f32[B]."""
        state = network.methods["forward"].input("state")
        entry = f"{PROGRAM}.{self.trials}"
        b = mb.function(entry)
        x = b.input(state.name, state.type)
        told = conditions.operands(b, conditions.inputs(b))
        noise = b.input("noise", f32(self.trials, *state.type.shape))
        columns = self.columns(target)
        constants = {name: float(c[0]) for name, c in columns.items() if np.all(c == c[0])}
        varying = [name for name in columns if name not in constants]
        tables = [*(b.constant(columns[name], out=name) for name in varying), noise]
        zero = b.full(x, shape=(), value=0.0, dtype="f32", out="error")

        def body(
            inner: Builder, i: Var, kept: tuple[Var, ...], carried: tuple[Var, ...], rows: tuple[Var, ...]
        ) -> tuple[Sequence[Var], Sequence[Var]]:
            x0, operands = kept[0], dict(zip(told, kept[1:], strict=True))
            k: dict[str, Coefficient] = {**constants, **dict(zip(varying, rows, strict=False))}
            z, time = rows[-1], k["t"]
            x_t = weighted_sum(inner, "x_t", (k["alpha"], x0), (k["sigma"], z))
            scaled = weighted_sum(inner, "scaled", (k["c_in"], x_t))
            time = inner.constant(time, "f32") if isinstance(time, float) else time
            time = inner.broadcast_to(time, x0, shape=(x0.shape[0],), out="time")
            out = call(inner, network, "forward", operands, state=scaled, time=time, out="output")
            out = first_channels(inner, out, x0)
            wanted = weighted_sum(inner, "target", (k["of_data"], x0), (k["of_noise"], z))
            difference = inner.op("sub", out, wanted, out="difference")
            error = per_sample_mean(inner, inner.mul(difference, difference), out="squared")
            return (weighted_sum(inner, "error", (1.0, carried[0]), (k["weight"], error)),), ()

        names = ["error", *varying, "noise"]
        kept = [x, *told.values()]
        (error,) = b.loop(
            f"{entry}.trial", self.trials, body, invariants=kept, carried=[zero], tables=tables, names=names
        )
        b.output(error)
        mb.entries[entry] = b.finish(doc=f"The mean error of {self.trials} predictions of noise under a class.")
        field = spec.data.fields[state.name]
        asked = (Condition(state.name, "array", field.shape, "f32", field.axes),)
        random = RandomSource("normal", PROGRAM, self.trials)
        sources: dict[str, Source] = {state.name: ConditionSource(state.name), **conditions.sources(), "noise": random}
        outputs = (OutputField("error"),)
        return Program(
            entry, PROGRAM, self.trials, self.trials, sources, name=PROGRAM, outputs=outputs, conditions=asked
        )


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
    raise ValueError(f"no quantiles of the distribution {distribution} are known")


__all__ = ["PROGRAM", "Classification", "quantiles"]
