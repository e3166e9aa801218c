"""The form of a sampler's table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Body = Literal["linear", "learned_variance", "two_stage", "predictor_corrector"]


@dataclass(frozen=True, eq=False)
class Table:
    """A sampler, all its numbers known: one row a step, one f64[N] column a coefficient.

    `solver`: the sampler's name, for people and manifests. `body`: which of the step bodies reads the
    columns. `columns`: see the bodies below. `history`: how many earlier estimates a step reads.
    `evaluations`: network evaluations a step. `clip`: the bound to which an estimate of the data is clipped,
    or None. `tail`: the table that goes on from this one's last state (a final step of another form), or
    None.

    One evaluation takes the state x and the row's `t`, and turns the network's output into the quantity the
    solver integrates ("estimate": the data, the noise, a velocity, a drift): ``d = d_x * x + d_output *
    output``. h1 is the step before's estimate, h2 the one before that; both are zeros before they exist,
    where their coefficients are 0 too. z is the step's own standard normal noise, present where the table is
    `stochastic`.

    linear
        ``x' = x * x + d * d + h1 * h1 + h2 * h2 + noise * z``. Columns t, d_x, d_output, x, d, and as needed
        h1, h2, noise (a coefficient's column has the name of what it multiplies).
    learned_variance
        The network has twice as many channels as x: output and v. ``x' = x * x + d * d + noise * exp(log_center +
        log_span * v) * z``, with noise 1, or 0 at a step without noise. v = -1 and 1 are the variance's bounds.
        Columns as linear, log_center, log_span.
    two_stage
        Two evaluations. ``y = x + noise * z; d = d_x * y + d_output * net(y, t); p = x * y + d * d; e = e_x *
        p + e_output * net(p, t_2); x' = x_2 * y + d_2 * d + e_2 * e``. Columns t, d_x, d_output, x, d, t_2,
        e_x, e_output, x_2, d_2, e_2, and noise.
    predictor_corrector
        Carries x and `last`, the corrected state of the step before (at first: x). With d the estimate at x:
        ``c = c_x * x + c_last * last + c_d * d + c_h1 * h1 + c_h2 * h2 + c_h3 * h3; x' = x * c + d * d + h1 *
        h1 + h2 * h2; last' = c``. Columns t, d_x, d_output, those c_…, x, d, h….
    """

    solver: str
    body: Body
    columns: Mapping[str, Array]
    history: int = 0
    clip: float | None = None
    tail: Table | None = None
    evaluations: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "evaluations", 2 if self.body == "two_stage" else 1)
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) != 1 or "t" not in self.columns:
            raise ValueError(f"{self.solver}: columns of one length with a time t are a table, not {lengths}")
        for name, column in self.columns.items():
            if not np.all(np.isfinite(column)):
                raise ValueError(f"{self.solver}: column {name} is not finite at row {_first_bad(column)}")

    @property
    def rows(self) -> int:
        """Rows of this table alone."""
        return len(self.columns["t"])

    @property
    def steps(self) -> int:
        """How often the state is updated, the tail's steps included."""
        return self.rows + (self.tail.steps if self.tail else 0)

    @property
    def stochastic(self) -> bool:
        """Whether steps of this table (not of its tail) take noise."""
        return "noise" in self.columns

    def parts(self) -> tuple[Table, ...]:
        """This table and the tails after it, in order."""
        return (self, *(self.tail.parts() if self.tail else ()))

    def split(self, first: int, last: int) -> Table:
        """Rows first to last - 1 as a table, without the tail."""
        rows = {name: column[first:last] for name, column in self.columns.items()}
        return Table(self.solver, self.body, rows, self.history, self.clip)


def _first_bad(column: Array) -> int:
    return int(np.argmax(~np.isfinite(column)))
