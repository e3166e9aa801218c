"""Progressive distillation: in rounds, the student learns to make one step where its teacher makes two.

Symbols: B batch; x0 the data; N steps of a round; step k goes from time t_k over a time between them to t_(k+1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Steps
from latentc.components.backbone import Backbone
from latentc.components.contract import Draw, Network, Rounds, Update
from latentc.components.kit import Conditions, call, first_channels, per_sample_mean
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation
from latentc.components.parts import Problem, Spec
from latentc.components.processes.formulas import Array, Symbolic
from latentc.components.processes.prediction import conversion
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.table import LINEAR, Table
from latentc.components.sums import weighted_sum
from latentc.ir.builder import ModuleBuilder, Var, i64
from latentc.ir.types import B


class ProgressiveDistillation(Distillation):
    """Salimans and Ho 2022 (arXiv:2202.00512): each round halves the steps of the sampler.

    The student starts as a copy of the teacher. One step of it learns to match two steps of the teacher, at the times
    of the spec's sampler, which must be deterministic and first-order (DDIM, Euler's method). After a round the student
    becomes the next round's teacher. Rounds are equal parts of `train.steps`.
    """

    kind: Literal["progressive_distillation"]
    rounds: tuple[Steps, ...] = Field(
        (32, 16, 8, 4),
        min_length=1,
        max_length=64,
        description="the student's sampling steps per round, each half of the previous",
    )
    weighting: Literal["none", "snr_plus_one", "truncated_snr"] = Field(
        "none",
        description="weighting of the squared error: none (of the network's own prediction), or on the implied data, "
        "SNR + 1 or max(SNR, 1)",
    )
    NORMAL: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "progressive_distillation", "rounds": (4, 2)}

    @property
    def in_rounds(self) -> Rounds:
        return Rounds(len(self.rounds), TEACHER, "main")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        for i, (before, count) in enumerate(zip(self.rounds, self.rounds[1:], strict=False), start=1):
            if before != 2 * count:
                yield Problem(
                    ("rounds", i), f"{count} steps are not half of the {before} before", "halve them: [32, 16, 8, 4]"
                )
                return
        if spec.train.steps < len(self.rounds):
            message = (
                f"`train.steps: {spec.train.steps}` is too few: each of the {len(self.rounds)} rounds needs a step"
            )
            yield Problem(("rounds",), message)
        sampler = spec.sampler
        if not isinstance(sampler, ArraySampler):
            yield Problem(
                (),
                "progressive distillation needs a sampler whose steps it halves",
                "add one: `{kind: ddim, spacing: trailing}`",
            )
            return
        if sampler.steps != self.rounds[-1]:
            message = f"the sampler takes {sampler.steps} steps, but the last round has {self.rounds[-1]}"
            yield Problem(("rounds",), message, f"set `sampler.steps: {self.rounds[-1]}`")
            return
        try:
            self._coefficients(sampler)
        except ValueError as error:
            yield Problem((), str(error), "use `{kind: ddim, spacing: trailing}`, or `euler` on a flow")
        student, teacher = (spec.networks.get(name) for name in ("main", TEACHER))
        if (
            isinstance(student, Backbone)
            and isinstance(teacher, Backbone)
            and student.takes(spec) != teacher.takes(spec)
        ):
            message = f"`{TEACHER}` and `main` take different conditions, but `main` becomes the next round's teacher"
            yield Problem((), message, f"use `networks.{TEACHER}: {{kind: like, pretrained: FILE}}`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        assert isinstance(spec.sampler, ArraySampler)  # `problems` has looked
        student, teacher, conditions = networks["main"], networks[TEACHER], Conditions(spec, networks)
        b = mb.function("loss.terms")
        x0 = b.input("x", student.methods["forward"].input("state").type)
        cond = conditions.operands(b, conditions.inputs(b, by_field=True))
        step, noise = b.input("step", i64(B)), b.input("noise", x0.type)
        number = b.input("round", i64())
        m = Symbolic(b, x0.type.rank)
        row = b.op("add", number * self.rounds[0], step, out="row")
        columns = self._coefficients(spec.sampler)
        constant = {name: float(c.flat[0]) for name, c in columns.items() if np.all(c == c.flat[0])}

        def k(name: str) -> Var | float:
            return constant[name] if name in constant else m.row(columns[name].reshape(-1), row, name)

        def predicted(network: Network, x: Var, which: str, out: str) -> Var:
            scaled = weighted_sum(b, "scaled", (k(f"c_in{which}"), x))
            time = b.take(b.constant(columns[f"t{which}"].reshape(-1), out=f"t{which}_table"), row, axis=0, out="time")
            made = call(b, network, "forward", cond, state=scaled, time=time, out=out)
            return first_channels(b, made, x)

        x_t = weighted_sum(b, "x_t", (k("alpha"), x0), (k("sigma"), noise))
        first = predicted(teacher, x_t, "", "first")
        x_mid = weighted_sum(b, "x_mid", (k("mid_x"), x_t), (k("mid_out"), first))
        second = predicted(teacher, x_mid, "_mid", "second")
        x_end = weighted_sum(b, "x_end", (k("end_x"), x_mid), (k("end_out"), second))
        target = b.stop_gradient(weighted_sum(b, "target", (k("target_x"), x_t), (k("target_end"), x_end)))
        error = b.op("sub", predicted(student, x_t, "", "prediction"), target, out="error")
        b.output(per_sample_mean(b, weighted_sum(b, "squared", (k("weight"), error * error)), out="loss"))
        b.finish("The squared error of a step that is to end where two of the teacher end, one value per sample.")
        draws = (Draw("step", "integers", {"high": self.rounds[0]}), Draw("noise", "normal"), *conditions.drawn())
        return publish(mb, ("loss",), ("x", *conditions.fields), draws, self.trained(spec))

    def _coefficients(self, sampler: ArraySampler) -> dict[str, Array]:
        """f64[rounds, rounds[0]]: the tables of the loss, by round and drawn step.

        Rounds of fewer steps have each row several times, so that the drawn step is uniform in every round.
        ValueError: the sampler's steps are no affine functions of x and the network's output, or its grids do not nest.
        """
        rows = [self._round(sampler, count) for count in self.rounds]
        repeats = [self.rounds[0] // count for count in self.rounds]
        return {n: np.stack([np.repeat(r[n], times) for r, times in zip(rows, repeats, strict=True)]) for n in rows[0]}

    def _round(self, sampler: ArraySampler, count: int) -> dict[str, Array]:
        """f64[count]: coefficients of a round, by step."""
        target = self.parameterization()
        own, finer = sampler.with_steps(count), sampler.with_steps(2 * count)
        times, between = own.grid(target).times, finer.grid(target).times
        if len(between) != 2 * len(times) - 1 or not np.array_equal(between[::2], times):
            raise ValueError(
                f"the {count} steps of `{sampler.kind}` do not lie on every second time of its {2 * count} steps"
            )
        (x, out), (x_half, out_half) = _affine(own.table(target)), _affine(finer.table(target))
        start, middle = target.process.point(times[:-1]), target.process.point(between[1::2])
        with np.errstate(divide="ignore"):
            snr = (start.alpha / start.sigma) ** 2
        of_data = conversion(target.predicts, "x0", start)[1] ** 2  # squared error of x0 per that of the output
        weights = {
            "none": np.ones(count),
            "snr_plus_one": of_data * (snr + 1),
            "truncated_snr": of_data * np.maximum(snr, 1),
        }
        return {
            "alpha": start.alpha,
            "sigma": start.sigma,
            "t": start.time,
            "c_in": start.scale,
            "mid_x": x_half[::2],
            "mid_out": out_half[::2],
            "t_mid": middle.time,
            "c_in_mid": middle.scale,
            "end_x": x_half[1::2],
            "end_out": out_half[1::2],
            "target_x": -x / out,
            "target_end": 1.0 / out,
            "weight": weights[self.weighting],
        }


def _affine(table: Table) -> tuple[Array, Array]:
    """(a, b) of each step x' = a x + b output. ValueError: the steps are of another form."""
    plain = table.body is LINEAR and not table.history and not table.stochastic and table.tail is None
    if not plain or table.clip is not None:
        raise ValueError(f"a step of `{table.solver}` is not an affine function of the state and one prediction")
    columns = table.columns
    out = columns["d"] * columns["d_output"]
    if not np.all(out):
        raise ValueError(f"a step of `{table.solver}` does not depend on the prediction")
    return columns["x"] + columns["d"] * columns["d_x"], out
