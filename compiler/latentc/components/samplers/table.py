"""A sampler as a table of per-step coefficients and a step body that reads them.

The body is one text: over a `Builder` it becomes the loop of a sampling program, over numpy (`run`) it samples at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc.components.sums import Coefficient, weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.ir.ops import OPS


@dataclass(frozen=True)
class Quantile:
    """Dynamic thresholding (Imagen, Saharia et al. 2022, arXiv:2205.11487): values beyond the quantile of a sample's
    magnitudes, or of a channel's, are set to it, and all are scaled by `least` over it, if it is more than that.
    """

    quantile: float
    least: float
    per_channel: bool = False


Bound = float | Quantile


def bounded(b: Builder, x: Var, bound: Bound, out: str) -> Var:
    """x [B, C, ...] within a bound."""
    if not isinstance(bound, Quantile):
        return b.clamp(x, low=-bound, high=bound, out=out)
    batch, channels, *space = x.shape
    groups, own = ((batch, channels), channels) if bound.per_channel else ((batch,), 1)
    count = math.prod(int(size) for size in (*space, *(() if bound.per_channel else (channels,))))
    place = bound.quantile * (count - 1)  # fractional rank in ascending order
    below = min(math.floor(place), count - 1)
    largest, _ = b.top_k(b.reshape(b.abs(x), shape=(*groups, count)), k=count - below, out="largest order")

    def nth(i: int) -> Var:
        return b.slice(largest, axis=len(groups), start=count - 1 - i, stop=count - i)

    level: Any = nth(below)
    if place > below:
        level = level + (nth(below + 1) - level) * (place - below)
    level = b.reshape(level, shape=(batch, own, *[1] * len(space)))
    level = b.maximum(level, bound.least, out="level")
    x = b.minimum(b.maximum(x, b.neg(level)), level, out=out)
    return b.div(x if bound.least == 1.0 else x * bound.least, level, out=out)


Array = NDArray[np.float64]
Row = Mapping[str, Coefficient]
NOT_COEFFICIENTS = ("progress", "progress_2")
GUIDES = ("d_guide", "e_guide")
DATA_PART = (("z_x", "z_output"), ("z_x_2", "z_output_2"))
DATA = (("z_scale", "z_cov"), ("z_scale_2", "z_cov_2"))


@dataclass(frozen=True)
class Step:
    """The inputs of a step body. `state`: x, then further values that the body carries; `z`: the step's noise or None.

    `evaluate(x, which)` is the network's output at x, in evaluation 0 or 1 of the step. `channels`: of x. `clip`: bound
    of an estimate, or None. `slope(x, which)`: the term that guidance adds to the score at x, or None.
    """

    row: Row
    state: tuple[Var, ...]
    z: Var | None
    evaluate: Callable[[Var, int], Var]
    channels: int
    clip: Bound | None = None
    slope: Callable[[Var, int], Var] | None = None

    def estimate(self, b: Builder, x: Var, output: Var, name: str = "d") -> Var:
        """The quantity that the solver integrates, from the network's output; a variance beside it is left out."""
        if output.shape[1] != self.channels:
            output = b.slice(output, axis=1, start=0, stop=self.channels, out="output")
        estimate = weighted_sum(b, name, (self.row[f"{name}_x"], x), (self.row[f"{name}_output"], output))
        if self.clip is not None:
            estimate = bounded(b, estimate, self.clip, name)
        guide = f"{name}_guide"
        if self.slope is None or guide not in self.row:
            return estimate
        return weighted_sum(b, name, (1.0, estimate), (self.row[guide], self.slope(x, "de".index(name))))

    def history(self, past: Sequence[Var], prefix: str = "h") -> list[tuple[Coefficient, Var]]:
        """Terms of the earlier estimates."""
        return [(self.row[f"{prefix}{i}"], h) for i, h in enumerate(past, start=1) if f"{prefix}{i}" in self.row]

    def noise(self) -> list[tuple[Coefficient, Var]]:
        """The term of the step's noise, if it takes any."""
        return [] if self.z is None else [(self.row["noise"], self.z)]

    def churned(self, b: Builder, x: Var) -> Var:
        """x with the step's noise added before an evaluation (y); x itself without noise."""
        return weighted_sum(b, "y", (self.row.get("y_x", 1.0), x), *self.noise())


@dataclass(frozen=True)
class Body:
    """The step of a solver: `step(b, step)` returns the new state.

    `evaluations` of the network per step. `corrects`: the state has `last`, the corrected x of the step before, after
    x. `variance`: the network returns twice the channels of x.
    """

    step: Callable[[Builder, Step], tuple[Var, ...]]
    evaluations: int = 1
    corrects: bool = False
    variance: bool = False


def _linear(b: Builder, step: Step) -> tuple[Var, ...]:
    x, *past = step.state
    d = step.estimate(b, x, step.evaluate(x, 0))
    new = weighted_sum(b, "x", (step.row["x"], x), (step.row["d"], d), *step.history(past), *step.noise())
    return (new, *[d, *past][: len(past)])


LINEAR = Body(_linear)
"""``x' = x * x + d * d + h1 * h1 + h2 * h2 + … + noise * z``: one evaluation, noise after it."""


@dataclass(frozen=True, eq=False)
class Table:
    """A sampler, all its numbers known: one row per step, one f64[N] column per coefficient.

    `solver`: the sampler's name, for people and manifests. `history`: how many earlier estimates a step reads. `clip`:
    bound of an estimate of the data, or None. `prior`: standard
    deviation of the first state. `tail`: the table that continues from this one's last state (a final step of another
    form), or None. `substeps`: rows per step, as the sampler counts steps; 0: rows that it does not count.

    Evaluation 0 of a step takes the state x: the network is given ``c_in * x`` (x without that column), the time `t`
    and, if it predicts averages, the `span` of time, and its output becomes an estimate of what the solver integrates
    (the data, the noise, a velocity, a drift): ``d = d_x * x + d_output * output``. Evaluation 1 has c_in_2, t_2, e_x
    and e_output. `progress` (and `progress_2`) is how far from noise (0) to data (1) an evaluation is; no coefficient.
    A coefficient's column has the name of its operand: x, the estimates d and e, earlier estimates h1 (the step
    before), h2 …, the step's standard normal noise z (`noise`; the table is then `stochastic`),
    the guidance of the score (`d_guide`, `e_guide`). The part alpha * x0 of the network's input is
    ``z = z_x * input + z_output * output`` (z_x_2, z_output_2), and x0 is z / z_scale, its covariance given the state
    z_cov times its derivative by the input. Each body documents its columns.
    """

    solver: str
    body: Body
    columns: Mapping[str, Array]
    history: int = 0
    clip: Bound | None = None
    prior: float = 1.0
    tail: Table | None = None
    substeps: int = 1

    def __post_init__(self) -> None:
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1 or "t" not in self.columns:
            raise ValueError(
                f"{self.solver}: the columns of a table must have one length and include the "
                f"time t; lengths are {lengths}"
            )
        for name, column in self.columns.items():
            if not np.all(np.isfinite(column)):
                row = int(np.argmax(~np.isfinite(column)))
                raise ValueError(f"{self.solver}: column {name} is not finite at row {row}")

    @property
    def rows(self) -> int:
        """Rows of this table alone."""
        return len(self.columns["t"])

    @property
    def evaluations(self) -> int:
        """Network evaluations per step."""
        return self.body.evaluations

    @property
    def steps(self) -> int:
        """Steps, the tail's included."""
        return (self.rows // self.substeps if self.substeps else 0) + (self.tail.steps if self.tail else 0)

    @property
    def stochastic(self) -> bool:
        """True if steps of this table (not of its tail) take noise."""
        return "noise" in self.columns

    @property
    def progress(self) -> Array:
        """f64[N, evaluations]: how far from noise (0) to data (1) each evaluation is."""
        return np.stack([self.columns[name] for name in NOT_COEFFICIENTS[: self.evaluations]], axis=1)

    @property
    def all_progress(self) -> Array:
        """f64[M]: the progress of every evaluation of this table and its tails, in order; M network evaluations."""
        return np.concatenate([part.progress.ravel() for part in self.parts()])

    @property
    def coefficients(self) -> dict[str, Array]:
        """The columns that the body reads without guidance of the score."""
        others = (*NOT_COEFFICIENTS, *GUIDES, *sum(DATA_PART + DATA, ()))
        return {name: c for name, c in self.columns.items() if name not in others}

    @property
    def guides(self) -> dict[str, Array]:
        """The columns by which the guidance of the score enters the estimates."""
        return {name: column for name, column in self.columns.items() if name in GUIDES}

    def guided(self, weights: Callable[[Sequence[float]], Array]) -> bool:
        """True if guidance of the score by these weights of the progress changes an estimate of it or a tail."""
        own = [
            np.any(weights(list(self.columns[at])) * self.columns.get(guide, 1.0))  # without a column, the body adds it
            for at, guide in zip(NOT_COEFFICIENTS[: self.evaluations], GUIDES, strict=False)
        ]
        return any(own) or (self.tail is not None and self.tail.guided(weights))

    def data_part(self, which: int) -> dict[str, Array]:
        """The columns by which evaluation `which` of a step gives the part of its input that is data, and with `clip`
        its scale.
        """
        names = DATA_PART[which] if self.clip is None else (*DATA_PART[which], DATA[which][0])
        return {name: self.columns[name] for name in names}

    def data(self, which: int) -> dict[str, Array]:
        """The columns by which evaluation `which` of a step gives the data, and its covariance."""
        return {name: self.columns[name] for name in (*DATA_PART[which], *DATA[which])}

    def parts(self) -> tuple[Table, ...]:
        """This table and the tails after it, in order."""
        return (self, *(self.tail.parts() if self.tail else ()))

    def split(self, first: int, last: int) -> Table:
        """Rows first to last - 1 as a table, without the tail."""
        rows = {name: column[first:last] for name, column in self.columns.items()}
        return Table(self.solver, self.body, rows, self.history, self.clip)

    def advance(self, b: Builder, step: Step) -> tuple[Var, ...]:
        """The state after a step."""
        return self.body.step(b, step)

    def guided_by_steps(self) -> Table:
        """The table whose second evaluations are guided by the progress of the first."""
        columns = {name: self.columns["progress"] if name == "progress_2" else c for name, c in self.columns.items()}
        return replace(self, columns=columns, tail=self.tail and self.tail.guided_by_steps())

    def with_noise(self, factor: float) -> Table:
        """The table with every step's noise times `factor`."""
        if factor == 1.0:
            return self
        columns = {name: column * factor if name == "noise" else column for name, column in self.columns.items()}
        return replace(self, columns=columns, tail=self.tail and self.tail.with_noise(factor))

    def row(self, i: int) -> dict[str, float]:
        return {name: float(column[i]) for name, column in self.coefficients.items()}


# ---- in numpy

Network = Callable[[NDArray[np.floating], float], NDArray[np.floating]]


class _Eager:
    """Stands for a builder whose ops run at once, on arrays."""

    def __getattr__(self, op: str) -> Callable[..., Any]:
        evaluate = OPS[op].evaluate
        assert evaluate is not None

        def apply(*operands: Any, out: str = "", **attrs: Any) -> Any:
            dtype = next(x.dtype for x in operands if isinstance(x, np.ndarray))
            outs = evaluate([np.asarray(x, dtype) for x in operands], attrs)
            return outs[0] if len(outs) == 1 else tuple(outs)

        return apply


def run(table: Table, network: Network, x: NDArray[Any], noise: NDArray[Any] | None = None) -> NDArray[Any]:
    """The result of `table` and its tails from the standard normals `x` [B, C, …], in x's dtype.

    `network(x, t)` returns the prediction (twice the channels, the variance second, if the body needs it).
    `noise`: [rows, *x.shape], the normals of the stochastic rows in order, over all parts.
    """
    b: Any = _Eager()
    x, taken = x if table.prior == 1.0 else (x * table.prior).astype(x.dtype), 0
    for part in table.parts():
        if part.stochastic and (noise is None or len(noise) < taken + part.rows):
            raise ValueError(f"{part.solver} needs noise for {part.rows} steps")
        state: tuple[Any, ...] = (x, *[x] * part.body.corrects, *[np.zeros_like(x)] * part.history)
        for i in range(part.rows):
            row, z = part.row(i), None
            if part.stochastic and noise is not None:
                z, taken = noise[taken].astype(x.dtype), taken + 1

            def evaluate(x: Any, which: int, row: dict[str, float] = row) -> Any:
                scale = row.get(("c_in", "c_in_2")[which], 1.0)
                return network(x if scale == 1.0 else (scale * x).astype(x.dtype), row[("t", "t_2")[which]])

            state = part.advance(b, Step(row, state, z, evaluate, x.shape[1], part.clip))  # type: ignore[arg-type]
        x = state[0]
    return x
