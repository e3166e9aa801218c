"""DiffWave's embedding of the noise level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.condition import TimeEmbedding
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, module_class


class StepTable(TimeEmbedding):
    """A table of sinusoids with one row per timestep, then two linear layers with SiLU (DiffWave, Kong et al. 2021).

    Rows are interpolated linearly for fractional timesteps.
    """

    kind: Literal["step_table"]
    levels: int = Field(gt=1, le=100_000, description="number of rows: the process's timesteps")
    frequencies: int = Field(128, gt=2, le=65_536, multiple_of=2, description="size of the sinusoidal embedding")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "step_table", "levels": 100}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not isinstance(spec.objective, Objective):
            return
        target = spec.objective.parameterization()
        process = target.process if target else None
        ends = [-1.0] if process is None else sorted(map(float, process.point([process.first, process.last]).time))
        if process is None or not process.WHOLE or ends[0] < 0:
            message = "a table of timesteps needs a process with integer timesteps"
            yield Problem(("kind",), message, "use `{kind: timestep}`")
        elif ends[1] != self.levels - 1:
            message = f"the table has {self.levels} rows, but the process has {ends[1] + 1:g} timesteps"
            yield Problem(("levels",), message, f"set `levels: {ends[1] + 1:g}`")

    def vector(self, b: Builder, name: str, t: Var, width: Any) -> Var:
        return b.sub(name, step_embedding, t, dim=width, levels=self.levels, frequencies=self.frequencies)


def step_table(levels: int, frequencies: int) -> np.ndarray[Any, Any]:
    """f64[levels, frequencies]: sine and cosine of t * 10^0 to t * 10^4.

    The arguments reach 1e4 per timestep and are rounded to float32, as in the published code: the authors' weights know
    the table with this rounding.
    """
    half = frequencies // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(4.0) / np.float32(half - 1)
    powers = (10.0 ** exponents.astype(np.float64)).astype(np.float32)
    angle = (np.arange(levels, dtype=np.float32)[:, None] * powers).astype(np.float64)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


@module_class("StepEmbedding")
def step_embedding(b: Builder, t: Var, *, dim: int, levels: int, frequencies: int) -> Var:
    """Embeds timesteps, also fractional ones: rows of a table, then two linear layers."""
    x = interpolated_rows(b, t, levels, frequencies)
    x = b.silu(b.dense("projection1", x, dim), out="x")
    return b.silu(b.dense("projection2", x, dim))


def interpolated_rows(b: Builder, t: Var, levels: int, frequencies: int) -> Var:
    """Rows of the table at times t f32[B], interpolated linearly between whole ones: f32[B, frequencies]."""
    table = b.constant(step_table(int(levels), int(frequencies)), out="table")
    low = b.cast(t, to="i64", out="low")
    high = b.minimum(low + 1, int(levels) - 1, out="high")
    fraction = b.reshape(t - b.cast(low, to="f32"), shape=(t.shape[0], 1), out="fraction")
    below, above = b.take(table, low, axis=0, out="below"), b.take(table, high, axis=0, out="above")
    return b.add(below, (above - below) * fraction, out="x")
