"""PixNerd beyond what its cases of official numbers say: its steps, features of places, and field of a patch."""

from __future__ import annotations

import math

import numpy as np
import pytest
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.pixnerd.adams_bashforth import adams_bashforth_steps

TINY = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "backbone.pixel_width=4"]
TINY += ["backbone.patch=4", "backbone.decoder_depth=2", "sampler.steps=3"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_steps_on_an_even_grid_have_the_weights_of_the_books(order: int) -> None:
    """Hairer, Norsett and Wanner 1993, III.1; the first steps have lower order."""
    weights = [[1.0], [3 / 2, -1 / 2], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24]]
    columns = [*adams_bashforth_steps(np.linspace(0.0, 1.0, 6), order).values()]
    assert len(columns) == order
    for step in range(5):
        wanted = np.array(weights[min(order, step + 1) - 1]) / 5
        found = np.array([column[step] for column in columns])
        assert np.allclose(found[: len(wanted)], wanted, atol=1e-14) and not found[len(wanted) :].any()


@pytest.mark.parametrize("order", [2, 3, 4])
def test_steps_of_any_length_integrate_polynomials_below_their_order(order: int) -> None:
    t = np.sort(np.random.default_rng(0).uniform(size=8))
    columns = [*adams_bashforth_steps(t, order).values()]
    for degree in range(order + 1):
        exact = np.diff(t ** (degree + 1)) / (degree + 1)
        for step in range(order - 1, 7):
            found = sum(column[step] * t[step - age] ** degree for age, column in enumerate(columns))
            assert (abs(found - exact[step]) < 1e-12) == (degree < order)


def test_places_are_cosines_of_column_and_row() -> None:
    table = INITS["cosines_2d"](None, (9, 16), grid=3, frequencies=4)  # type: ignore[arg-type]
    for row, column, f, g in np.ndindex(3, 3, 4, 4):
        wave = math.cos(math.pi * column / 2 * f * 4 / 3) * math.cos(math.pi * row / 2 * g * 4 / 3)
        assert table[3 * row + column, 4 * f + g] == pytest.approx(wave / (1 + f * 4 / 3 * g * 4 / 3), abs=1e-12)


def test_a_patchs_field_reads_each_pixel_alone_and_generated_weights_but_for_their_scale() -> None:
    """With a condition that steps share, so that it does not change with the pixels."""
    low = lower(load_spec("digits_pixnerd", None, [*TINY, "optimize.cache={parts: [encoder], every: 2}"]))
    weights = random_weights(network_params(low, low.networks["main"]), np.random.default_rng(0), 0.3)
    cached = low.module.entry("main.forward_cached")
    assert not any(p.name.startswith(("encoder.", "t_embedder.", "y_embedder.")) for p in cached.params)
    rng = np.random.default_rng(1)
    x, s = rng.standard_normal((2, 1, 8, 8)), rng.standard_normal((2, 4, 16))
    given = {"x": x, "t": np.array([0.2, 0.7]), "y": np.array([1, 2])}

    def run(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
        values = [{**given, "x": x}.get(value.name, s) for value in cached.inputs]
        return Interpreter(low.module, weights, "f64").run(cached.name, *values)[0]  # type: ignore[no-any-return]

    out, moved = run(x, weights), x.copy()
    moved[:, :, 2, 5] += 1.0
    assert np.argwhere(run(moved, weights) != out)[:, 2:].tolist() == [[2, 5], [2, 5]]
    longer = {name: w * (3.0 if "generator" in name else 1.0) for name, w in weights.items()}
    assert np.allclose(run(x, longer), out, rtol=1e-12)
    assert not np.allclose(run(x, {n: w + 0.1 * ("generator" in n) for n, w in weights.items()}), out)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["backbone.block.condition={kind: adaln_zero}"], "have a condition for each token, not `adaln_zero`"),
        (["backbone.patch=3"], "patches of 3 do not tile a side of 8"),
        (["backbone.frequencies=1"], "greater than 1"),
        (["sampler.order=5"], "sampler.order"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec("digits_pixnerd", None, [*TINY, *overrides]))
    assert any(said in str(one) for one in caught.value.diagnostics), caught.value
