"""Conditions as tokens before those of a sample, and samples larger than the network sees, for one tiny GPT."""

from __future__ import annotations

import numpy as np
import pytest
from random_weights import random_weights, weights_of
from tiny_systems import SYSTEMS

from latentc.checkpoint import network_params
from latentc.components.kit.windows import windows
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.quantize.model import Model
from latentc.quantize.trajectories import recorded
from latentc.spec import load_spec
from latentc.systems.taming.sliding import sliding
from latentc.weights import Array


def oracle_of(name: str, *more: str) -> tuple[Interpreter, np.random.Generator]:
    system = SYSTEMS[name]
    lowered = lower(load_spec(system.spec, overrides=[*system.sizes, *more]))
    rng = np.random.default_rng(0)
    own = {n: random_weights(network_params(lowered, net), rng, 0.3) for n, net in lowered.networks.items()}
    weights = {n: a for arrays in own.values() for n, a in arrays.items()}  # of methods, and of programs
    weights |= {f"{net}.{n}": a for net, arrays in own.items() for n, a in arrays.items()}
    return Interpreter(lowered.module, weights), rng


def test_decoding_behind_a_prefix_gives_the_logits_of_the_whole_sequence() -> None:
    oracle, rng = oracle_of("taming_depth")
    codes, tokens = rng.integers(0, 16, (2, 16)), rng.integers(0, 16, (2, 15))
    (whole,) = oracle.run("main.forward", tokens, codes)
    logits, *caches = oracle.run("main.prefill", codes)
    assert whole.shape == (2, 16, 16) and caches[0].shape == (2, 2, 31, 8)
    for i in range(16):
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-9, atol=1e-10)
        if i < 15:
            logits, *caches = oracle.run("main.decode", tokens[:, i], np.int64(i + 1), *caches)


def test_a_segmentation_is_encoded_one_hot() -> None:
    system = SYSTEMS["taming_depth"]
    rng, found = np.random.default_rng(0), []
    labels = rng.integers(0, 3, (2, 8, 8))
    for field, given in (("[8, 8], classes: 3", labels), ("[3, 8, 8]", np.eye(3)[labels].transpose(0, 3, 1, 2))):
        spec = load_spec(system.spec, None, [*system.sizes, f"data.fields.map={{shape: {field}}}"])
        lowered = lower(spec)
        weights = random_weights(network_params(lowered, lowered.networks["encoder"]), np.random.default_rng(1), 0.3)
        found.append(Interpreter(lowered.module, weights).run("encoder.encode", given)[0])
        (request,) = spec.conditions["map"].requests("map", spec)
        assert (request.shape, request.vocabulary) == (((8, 8), 3) if "classes" in field else ((3, 8, 8), None))
    assert np.array_equal(*found) and len(np.unique(found[0])) > 1


def test_layouts_are_rows_of_the_table_before_the_tokens() -> None:
    oracle, rng = oracle_of("taming_scenes")
    layout, tokens, u = rng.integers(0, 16, (2, 5)), rng.integers(0, 16, (2, 16)), rng.random((16, 2))
    names = {value.name for value in oracle.module.entry("loss").inputs}
    assert names == {"tokens", "layout"}
    (whole,) = oracle.run("main.forward", tokens[:, :-1], layout)
    p = whole - np.log(np.exp(whole).sum(-1, keepdims=True))
    (loss,) = oracle.run("loss", tokens, layout)
    assert loss == pytest.approx(-np.take_along_axis(p, tokens[..., None], -1).mean())
    logits, *caches = oracle.run("main.prefill", layout)
    for i in range(16):
        np.testing.assert_allclose(logits, whole[:, i], rtol=1e-9, atol=1e-10)
        if i < 15:
            logits, *caches = oracle.run("main.decode", tokens[:, i], np.int64(i + 1), *caches)
    assert not np.allclose(oracle.run("main.forward", tokens[:, :-1], (layout + 1) % 16)[0], whole)
    assert oracle.run("sample.16", layout, u)[0].shape == (2, 16)


def test_each_token_is_drawn_from_the_window_around_it() -> None:
    oracle, rng = oracle_of("taming-windows")
    rows, columns, side = 5, 6, 4
    image, u = rng.standard_normal((2, 1, 10, 12)), rng.random((30, 2)).astype(np.float32)
    (found,) = oracle.run("sample.30", image, u)
    # As the authors' script has it, with their numbers 16 and 8 halved twice.
    (codes,) = oracle.run("encoder.encode", image)
    codes, tokens = codes.reshape(2, rows, columns), np.zeros((2, rows, columns), np.int64)
    for i in range(rows):
        local_i = i if i <= side // 2 else side - (rows - i) if rows - i < side // 2 else side // 2
        for j in range(columns):
            local_j = j if j <= side // 2 else side - (columns - j) if columns - j < side // 2 else side // 2
            a, b = i - local_i, j - local_j
            near, told = (x[:, a : a + side, b : b + side].reshape(2, -1) for x in (tokens, codes))
            (logits,) = oracle.run("main.forward", near[:, :-1], told)
            logits = logits.reshape(2, side, side, -1)[:, local_i, local_j]
            least = np.sort(logits, -1)[:, -5, None]
            p = np.where(logits < least, 0.0, np.exp(logits))
            cdf = np.cumsum(p / p.sum(-1, keepdims=True), -1)
            tokens[:, i, j] = (cdf < u[i * columns + j][:, None]).sum(-1)
    assert np.array_equal(found, tokens.reshape(2, -1))


def test_calls_of_windows_are_recorded_to_quantise_and_to_find_what_overflows() -> None:
    system = SYSTEMS["taming-windows"]
    spec = load_spec(system.spec, None, system.sizes)
    lowered, rng = lower(spec), np.random.default_rng(0)
    weights = {name: Array(array.astype(np.float32)) for name, array in weights_of(lowered, 0.3, rng).items()}
    found = recorded(Model(lowered, spec, weights), [0], 0, steps=3)
    assert found.samples.shape == (1, 30)
    calls = found.feeds["main.forward"]
    assert [array.shape for feed in calls for array in feed.values()] == [(1, 15), (1, 16)] * 3  # tokens and codes


def test_training_cuts_out_windows_and_replaces_tokens() -> None:
    """The loss is that of a window of the tokens and of the codes, whose given tokens may be random ones."""
    oracle, rng = oracle_of("taming-windows", "objective.keep=0.75")
    image, tokens = rng.standard_normal((2, 1, 10, 12)), rng.integers(0, 16, (2, 30))
    corner, v, other = np.array([1, 5]), rng.random((2, 16)), rng.integers(0, 16, (2, 16))
    names = [value.name for value in oracle.module.entry("loss").inputs]
    given = {"tokens": tokens, "map": image, "corner": corner, "v": v, "other": other}
    (found,) = oracle.run("loss", *(given[name] for name in names))
    (codes,) = oracle.run("encoder.encode", image)
    where = windows((5, 6), (4, 4))[corner]
    tokens, codes = (np.take_along_axis(x, where, 1) for x in (tokens, codes))
    (logits,) = oracle.run("main.forward", np.where(v < 0.75, tokens, other)[:, :-1], codes)
    p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert found == pytest.approx(-np.take_along_axis(p, tokens[..., None], -1).mean())


def test_windows_of_a_grid() -> None:
    assert windows((2, 3), (2, 2)).tolist() == [[0, 1, 3, 4], [1, 2, 4, 5]]
    shown, places = sliding((16, 16), (16, 16))
    assert np.array_equal(shown, np.tile(np.arange(256), (256, 1))) and np.array_equal(places, np.arange(256))
    shown, places = sliding((24, 40), (16, 16))
    assert np.array_equal(shown[np.arange(960), places], np.arange(960))


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("taming_depth", "networks.main.window=[5, 4]", "a window of 5 by 4 does not fit"),
        ("taming-windows", "sampler={kind: autoregressive}", "no cache to continue from"),
        ("taming_depth", "networks.main.shared=false", "holds token numbers"),
        ("taming", "data.fields.y.classes=20", "has 20 values, but the table has 17 rows"),
        ("taming_depth", "networks.encoder.reads=depth", "the data has no field `depth`"),
        ("taming_scenes", "data.fields.layout={shape: [5, 3]}", "a `tokens` has 1 axes per sample"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, override: str, message: str) -> None:
    sizes = [*SYSTEMS[name].sizes, override]
    with pytest.raises(DiagnosticError, match=message):
        load_spec(SYSTEMS[name].spec, overrides=sizes)
