"""What a table means, in numpy: the reference that the IR's step bodies are compared with, and what
tuning samples with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentc.components.samplers.tables.core import Table

Array = NDArray[np.floating]
Network = Callable[[Array, float], Array]


def run(table: Table, network: Network, x: Array, noise: Array | None = None) -> Array:
    """The result of `table` and its tails, starting at `x` [B, C, …], in its dtype.

    `network(x, t)` returns what the network predicts (twice the channels, the variance's v second, for
    learned_variance). `noise`: f64[rows, *x.shape], the stochastic rows' normals in order, over all parts.
    """
    taken = 0
    for part in table.parts():
        need = part.rows if part.stochastic else 0
        if need and (noise is None or len(noise) < taken + need):
            raise ValueError(f"{part.solver} takes noise for {need} steps")
        absent = np.broadcast_to(np.zeros((), x.dtype), (part.rows, *x.shape))  # no memory, and no other dtype
        z = noise[taken : taken + need] if need and noise is not None else absent
        x = _BODIES[part.body](part, network, x, z)
        taken += need
    return x


def _estimate(table: Table, row: dict[str, float], x: Array, output: Array) -> Array:
    estimate = row["d_x"] * x + row["d_output"] * output
    return estimate if table.clip is None else np.clip(estimate, -table.clip, table.clip)


def _rows(table: Table) -> list[dict[str, float]]:
    return [{name: float(column[i]) for name, column in table.columns.items()} for i in range(table.rows)]


def _linear(table: Table, network: Network, x: Array, noise: Array) -> Array:
    history = [np.zeros_like(x)] * table.history
    for row, z in zip(_rows(table), noise, strict=True):
        d = _estimate(table, row, x, network(x, row["t"]))
        x = row["x"] * x + row["d"] * d + row.get("noise", 0.0) * z
        x = x + sum(row[f"h{i + 1}"] * past for i, past in enumerate(history))
        history = [d, *history][: table.history]
    return x


def _learned_variance(table: Table, network: Network, x: Array, noise: Array) -> Array:
    for row, z in zip(_rows(table), noise, strict=True):
        output, v = np.split(network(x, row["t"]), 2, axis=1)
        d = _estimate(table, row, x, output)
        deviation = np.exp(row["log_center"] + row["log_span"] * v)
        x = row["x"] * x + row["d"] * d + row["noise"] * deviation * z
    return x


def _two_stage(table: Table, network: Network, x: Array, noise: Array) -> Array:
    for row, z in zip(_rows(table), noise, strict=True):
        y = x + row.get("noise", 0.0) * z
        d = row["d_x"] * y + row["d_output"] * network(y, row["t"])
        p = row["x"] * y + row["d"] * d
        e = row["e_x"] * p + row["e_output"] * network(p, row["t_2"])
        x = row["x_2"] * y + row["d_2"] * d + row["e_2"] * e
    return x


def _predictor_corrector(table: Table, network: Network, x: Array, noise: Array) -> Array:
    del noise
    history, last = [np.zeros_like(x)] * table.history, x
    for row in _rows(table):
        d = _estimate(table, row, x, network(x, row["t"]))
        c = row["c_x"] * x + row["c_last"] * last + row["c_d"] * d
        c = c + sum(row[f"c_h{i + 1}"] * past for i, past in enumerate(history))
        x = row["x"] * c + row["d"] * d + sum(row[f"h{i + 1}"] * h for i, h in enumerate(history[:-1]))
        history, last = [d, *history][: table.history], c
    return x


_BODIES = {
    "linear": _linear,
    "learned_variance": _learned_variance,
    "two_stage": _two_stage,
    "predictor_corrector": _predictor_corrector,
}
