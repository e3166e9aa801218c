"""xAR beyond what was recorded: cells drawn alone against a written-out loop, other counts of cells, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components.processes.formulas import NUMPY
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.xar.whole_time_path import WholeTimePath

TINY = [
    *("data={kind: npz, path: x.npz, classes: 5, shape: [2, 12, 12]}", "backbone.width=16", "backbone.depth=1"),
    *("backbone.decoder_depth=1", "backbone.block.mixer.heads=2", "conditioning.time.frequencies=16"),
]


def test_cells_alone_are_those_of_the_whole() -> None:
    """Three by three cells by Euler's method, each evaluated by `forward` beside clean cells at time 0."""
    sampler = "sampler={kind: cell_by_cell, solver: {kind: euler, steps: 2}, guidance: {scale: 3, schedule: linear}}"
    lowered = lower(load_spec("digits_xar", None, [*TINY, sampler, "backbone.cells=3"]))
    weights, rng = weights_of(lowered, 0.3, 3), np.random.default_rng(4)
    x, y, scale = rng.standard_normal((2, 2, 12, 12)), np.array([0, 4]), np.full(2, 3.0)
    (program,) = lowered.programs
    given = {"x": x, "y": y, "scale": scale}
    inputs = [given[v.name] for v in lowered.module.functions[program.entry].inputs]
    oracle = Interpreter(lowered.module, weights)
    (made,) = oracle.run(program.entry, *inputs)
    forward = lowered.networks["main"].methods["forward"].function

    def velocity(x: np.ndarray, times: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(oracle.run(forward, x, np.tile(times, (2, 1)), y, prefix="main")[0])

    for number in range(9):
        row, column = divmod(number, 3)
        cell = (..., slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
        for t in (1.0, 0.5):
            times = np.where(np.arange(9) == number, 1000 * t, 0.0)
            with_class, without = velocity(x, times, y), velocity(x, times, np.full(2, 5))
            guided = without + (1 + 2 * number / 8) * (with_class - without)
            x = x.copy()
            x[cell] -= 0.5 * guided[cell]
    assert np.max(np.abs(made - x)) < 1e-8 * np.max(np.abs(x))
    assert program.evaluations == 9 * 2 + 8


def test_times_of_networks_are_whole() -> None:
    """As the authors' float32 has them, times that should be whole and are a little less in float64 included."""
    times = np.linspace(1.0, 0.04, 40)
    official = np.floor((times.astype(np.float32) * np.float32(1000)).astype(np.float32))
    path = WholeTimePath(kind="whole_time_path")
    assert (path.network_time(NUMPY, times) == official).all()
    assert (np.floor(1000 * times) != official).any()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.cells=4"], "4 cells do not divide a side of 6 patches"),
        (["backbone.block.mixer.heads=8"], "must be divisible by 4"),
        (["sampler.solver.guidance={scale: 2}"], "the sampler sets the guidance of this solver"),
        (["sampler.solver={kind: heun}"], "kinds that fit: euler, euler_maruyama"),
        (["backbone.block.condition={kind: adaln_zero}"], "conditioned on a vector for each cell"),
        (["conditioning.class.dropout=0"], "but `class` is never dropped"),
        (["backbone.block.mixer.causal=true"], "its attention cannot be causal"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        lower(load_spec("digits_xar", None, [*TINY, *overrides]))
