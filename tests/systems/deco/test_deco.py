"""DeCo beyond what its cases of official numbers say: errors by frequency, a decoder of single pixels, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from parity_data import load
from random_weights import random_weights
from scipy.fft import dctn

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.deco.frequency_error import cosines, frequency_weights

TINY = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "backbone.pixel_width=4"]
TINY += ["backbone.patch=4", "backbone.decoder_depth=2", "sampler.steps=3"]


def test_weights_and_waves_are_those_of_the_authors() -> None:
    buffers = load("deco.loss").weights
    assert np.allclose(frequency_weights(85, 3)[None], buffers["freq_w"], rtol=1e-6)
    assert np.allclose(cosines(), buffers["dct_mat"], atol=1e-6)


@pytest.mark.parametrize("quality", [85, 100])
def test_the_error_is_that_of_scipys_transform_of_each_block(quality: int) -> None:
    """Of a network that predicts 0. At quality 100 the term is the mean square error: the transform is orthonormal."""
    term = f"objective.further=[{{kind: frequency_error, quality: {quality}}}]"
    data = "data={kind: npz, path: train.npz, classes: 10, shape: [1, 16, 16]}"
    low = lower(load_spec("digits_deco", None, [*TINY, data, term]))
    weights = random_weights(network_params(low, low.networks["main"]), np.random.default_rng(0), 0.3)
    weights |= {name: np.zeros_like(w) for name, w in weights.items() if name.startswith("linear.")}
    rng = np.random.default_rng(1)
    given = {"x": rng.standard_normal((3, 1, 16, 16)), "noise": rng.standard_normal((3, 1, 16, 16)), "y": np.arange(3)}
    given |= {"u": np.array([0.3, 0.5, 0.7]), "drop": np.ones(3)}
    (update,) = low.updates
    names = [value.name for value in low.module.entry(update.loss).inputs]
    whole = {f"main.{name}": w for name, w in weights.items()}
    loss, base, found = Interpreter(low.module, whole, "f64").run(update.loss, *(given[name] for name in names))
    blocks = (given["x"] - given["noise"]).reshape(3, 2, 8, 2, 8)
    square = dctn(blocks, axes=(2, 4), norm="ortho") ** 2
    of_each = frequency_weights(quality, 1)[0, 0, 0][:, None]  # [row, block, column]
    assert np.allclose(found, np.mean(square * of_each))
    assert np.allclose(loss, base + found) and np.allclose(base, found) == (quality == 100)


def test_a_pixels_prediction_reads_that_pixel_and_its_own_part_of_the_condition() -> None:
    """With a condition that steps share, so that it does not change with the pixels."""
    low = lower(load_spec("digits_deco", None, [*TINY, "optimize.cache={parts: [encoder], every: 2}"]))
    weights = random_weights(network_params(low, low.networks["main"]), np.random.default_rng(0), 0.3)
    cached = low.module.entry("main.forward_cached")
    rng = np.random.default_rng(1)
    x, s = rng.standard_normal((1, 1, 8, 8)), rng.standard_normal((1, 4, 16))
    given = {"x": x, "t": np.array([0.2]), "y": np.array([1])}

    def run(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
        values = [{**given, "x": x}.get(value.name, s) for value in cached.inputs]
        return Interpreter(low.module, weights, "f64").run(cached.name, *values)[0]  # type: ignore[no-any-return]

    out, moved = run(x, weights), x.copy()
    moved[:, :, 2, 5] += 1.0
    assert np.argwhere(run(moved, weights) != out)[:, 2:].tolist() == [[2, 5]]
    other = {name: w.copy() for name, w in weights.items()}
    other["cond_embed.bias"][4 * 6 : 4 * 7] += 1.0  # pixel 6 of every patch, of 4 x 4
    assert np.argwhere(run(x, other) != out)[:, 2:].tolist() == [[1, 2], [1, 6], [5, 2], [5, 6]]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data={kind: npz, path: a.npz, classes: 3, shape: [2, 8, 8]}"], "1 or 3 channels, not [2, 8, 8]"),
        (["data={kind: npz, path: a.npz, classes: 3, shape: [3, 12, 12]}"], "blocks of 8 x 8 pixels"),
        (["backbone.block.condition={kind: adaln_zero}"], "have a condition for each token, not `adaln_zero`"),
    ],
)
def test_refusals(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec("digits_deco", None, [*TINY, *overrides]))
    assert any(said in one.message for one in caught.value.diagnostics), caught.value
