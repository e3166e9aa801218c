"""Tokens that follow each other in other orders than row by row, and conditions whose tokens see each other."""

from __future__ import annotations

import numpy as np
import pytest
from test_sliding import oracle_of
from tiny_systems import SYSTEMS

from latentc.components.kit.orders import Reading, reading_order
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec


@pytest.mark.parametrize(
    ("reading", "wanted"),
    [
        ("raster", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        ("alternating", [0, 1, 2, 3, 7, 6, 5, 4, 8, 9, 10, 11, 15, 14, 13, 12]),
        ("z_curve", [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]),
        ("subsampled", [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]),
        ("spiral_out", [9, 5, 6, 10, 14, 13, 12, 8, 4, 0, 1, 2, 3, 7, 11, 15]),
        ("spiral_in", [15, 11, 7, 3, 2, 1, 0, 4, 8, 12, 13, 14, 10, 6, 5, 9]),
        ("random", [3, 13, 7, 2, 6, 10, 4, 1, 14, 0, 15, 9, 8, 12, 11, 5]),
    ],
)
def test_orders_of_a_grid(reading: Reading, wanted: list[int]) -> None:
    """Spirals by hand; the others as the figure of the paper shows them."""
    assert reading_order(reading, 4, 4).tolist() == wanted


def test_tokens_are_learned_and_drawn_in_the_order_and_returned_row_by_row() -> None:
    oracle, rng = oracle_of("taming_depth", "objective.keep=0.75", "sampler.top_k=0")
    order = reading_order("spiral_out", 4, 4)
    image, tokens = rng.standard_normal((2, 1, 8, 8)), rng.integers(0, 16, (2, 16))
    (codes,) = oracle.run("encoder.encode", image)
    v, other, u = rng.random((2, 16)), rng.integers(0, 16, (2, 16)), rng.random((16, 2))
    given = {"tokens": tokens, "map": image, "v": v, "other": other}
    (loss,) = oracle.run("loss", *(given[value.name] for value in oracle.module.entry("loss").inputs))
    read = tokens[:, order]
    (logits,) = oracle.run("main.forward", np.where(v < 0.75, read, other)[:, :-1], codes)
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert loss == pytest.approx(-np.take_along_axis(p, read[..., None], -1).mean())

    (found,) = oracle.run("sample.16", image, u)
    wanted, drawn = np.zeros((2, 16), np.int64), np.zeros((2, 15), np.int64)
    for i, cell in enumerate(order):
        (logits,) = oracle.run("main.forward", drawn, codes)
        wanted[:, cell] = _drawn(logits[:, i], u[i])
        if i < 15:
            drawn[:, i] = wanted[:, cell]
    assert np.array_equal(found, wanted)


def _drawn(logits: np.ndarray, u: np.ndarray) -> np.ndarray:
    cdf = np.cumsum(np.exp(logits), -1)
    return (cdf < u[:, None] * cdf[:, -1:]).sum(-1)


def test_all_tokens_see_the_first_ones() -> None:
    """Logits depend on the unmasked tokens of the condition from the first on, and decoding gives the same."""
    oracle, rng = oracle_of("taming_depth")
    plain, _ = oracle_of("taming_depth", "networks.main.block.mixer={kind: attention, heads: 2, causal: true}")
    codes, tokens = rng.integers(0, 16, (2, 16)), rng.integers(0, 16, (2, 15))
    (whole,) = oracle.run("main.forward", tokens, codes)
    assert np.abs(whole - plain.run("main.forward", tokens, codes)[0]).max() > 1e-3
    logits, *caches = oracle.run("main.prefill", codes)
    for i in range(16):
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-9, atol=1e-10)
        if i < 15:
            logits, *caches = oracle.run("main.decode", tokens[:, i], np.int64(i + 1), *caches)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("taming_depth", ("networks.main.block.mixer.unmasked=17",), "all tokens see the first 17, but only 16 are"),
        ("taming-windows", ("networks.main.reading=z_curve",), "windows and 2D positions"),
        (
            "taming_depth",
            ("data.tokens.grid=[3, 3]", "networks.main.reading=spiral_in"),
            "needs a square with an even side",
        ),
        (
            "taming_depth",
            ("data.tokens.grid=[6, 6]", "networks.main.reading=subsampled"),
            "needs a square whose side is a power",
        ),
        ("taming_depth", ("data.tokens.grid=[16]", "networks.main.reading=random"), "needs a grid of rows and columns"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec(SYSTEMS[name].spec, overrides=[*SYSTEMS[name].sizes, *overrides])
