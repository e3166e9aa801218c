"""Calibration sees every layer along real trajectories, is the same each time, and is refused where it does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantised import SHRUNK, Small, small

from latentc.checkpoint import arrays
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.measure.execute import sampler_inputs
from latentc.passes.quantize.plan import FLOAT4, LARGEST
from latentc.quantize import observe
from latentc.quantize.calibrate import calibrate, smoothed
from latentc.quantize.calibration import (
    Calibration,
    check_fits,
    read_calibration,
    write_calibration,
)
from latentc.quantize.observe import BINS, Observed, _histogram
from latentc.quantize.scales import PERCENTILE, reach, rounded, saturated
from latentc.weights import Array


def seen(made: Small) -> Calibration:
    return calibrate(made.model)


def codes(error: pytest.ExceptionInfo[DiagnosticError]) -> list[str]:
    return [d.code for d in error.value.diagnostics]


# digits_givt begins without a token, so that not every call runs every layer.
@pytest.mark.parametrize("name", [name for name in SHRUNK if name != "digits_givt"])
def test_every_layer_of_the_shipped_specs_is_seen(name: str) -> None:
    made = small(name)
    found = seen(made)
    assert {layer.group for layer in made.model.layers.values()} == set(found.inputs)
    calls = [entry.split(".")[0] for entry, feeds in found.feeds.items() for _ in feeds]
    for path, observed in found.inputs.items():
        assert observed.limit > 0
        assert ((observed.peaks > 0) == [network == path.split(".")[0] for network in calls]).all()
        assert observed.peaks.max() == pytest.approx(observed.channels.max()) == pytest.approx(observed.limit)
        assert observed.histogram.sum() == observed.count > 0
        assert 0 < len(observed.rows) <= 32
    assert len(found.samples) == 3


def test_layers_that_a_program_runs_once_apart_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLIA's keys of the image are computed before the loop, those of frames in it, by the same weights."""
    monkeypatch.setitem(SHRUNK, "digits_llia_consistency", ())
    made = small("digits_llia_consistency")
    inputs, layers = seen(made).inputs, made.model.layers
    path = "main.middle.0.attention.attention.{}.weight"
    kv, q = layers[path.format("kv")], layers[path.format("q")]
    assert kv.group != q.group  # though the forward pass, which is run, has one for both
    assert inputs[kv.group].limit == inputs[q.group].limit > 0
    assert {layer.group for layer in layers.values()} <= set(inputs)


def test_guided_branches_and_all_of_the_trajectory_are_seen() -> None:
    found = seen(small("digits_dit"))
    feeds = found.feeds["main.forward"]
    assert [len(feed["y"]) for feed in feeds] == [6, 6, 6], "three samples, with their class and without"
    assert (feeds[0]["y"][3:] == 10).all() and (feeds[0]["y"][:3] != 10).all()
    times = [float(feed["t"][0]) for feed in feeds]
    assert times == sorted(times, reverse=True) and times[0] > 900 and times[-1] < 250
    assert found.points["main.forward"][0] == f"t={times[0]:.4g}"


def test_what_is_seen_is_what_the_network_computes() -> None:
    """Against the float64 oracle: the same final samples; the reach of the first layer's input is the image's."""
    made = small("digits_dit")
    found = seen(made)
    x = np.concatenate([feed["x"] for feed in found.feeds["main.forward"]])
    assert found.inputs["main.x_embedder"].limit == pytest.approx(np.abs(x).max())
    program = made.lowered.programs[0]
    inputs = sampler_inputs(made.lowered, program, made.model.classes(), 0)
    weights = arrays(made.weights)
    order = [value.name for value in made.lowered.module.entry(program.entry).inputs]
    exact = Interpreter(made.lowered.module, weights).run(program.entry, *(inputs[name] for name in order))[0]
    np.testing.assert_allclose(found.samples, exact, atol=1e-4)


def test_the_same_seed_gives_the_same_calibration() -> None:
    made = small("digits_dit")
    one, two = seen(made), seen(made)
    assert one.about == two.about
    for name, observed in one.inputs.items():
        assert np.array_equal(observed.histogram, two.inputs[name].histogram)
        assert np.array_equal(observed.channels, two.inputs[name].channels)
    other = small("digits_dit", "{scheme: int8, calibration: {samples: 3, steps: 3, classes: 2, seed: 7}}")
    assert not np.array_equal(seen(other).samples, one.samples)


def test_calls_that_run_in_parts_give_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small("digits_dit")
    whole = seen(made)
    monkeypatch.setattr(observe, "AT_ONCE", 1)  # a byte: every row alone
    for name, observed in seen(made).inputs.items():
        expected = whole.inputs[name]
        assert observed.count == expected.count and len(observed.rows) == len(expected.rows)
        np.testing.assert_allclose(observed.channels, expected.channels, rtol=1e-4)
        np.testing.assert_allclose(observed.peaks, expected.peaks, rtol=1e-4)
        assert np.abs(observed.histogram - expected.histogram).sum() < 0.01 * expected.count


def test_a_layer_that_saw_nothing_is_named() -> None:
    made = small("digits_dit")
    silent = {**made.weights}
    for name in ("weight", "bias"):
        path = f"main.blocks.1.mlp.fc1.{name}"
        silent[path] = Array(np.zeros_like(made.arrays[path]))
    with pytest.raises(DiagnosticError, match=r"main\.blocks\.1\.mlp\.fc2\.weight saw nothing but zeros") as error:
        calibrate(replace(made.model, weights=silent))
    assert codes(error) == ["E0801"]
    lost = {**made.weights, "main.x_embedder.bias": Array(np.full(32, np.nan, np.float32))}
    with pytest.raises(DiagnosticError, match="saw no finite values"):
        calibrate(replace(made.model, weights=lost))


def test_excluded_layers() -> None:
    made = small("digits_dit", "{scheme: int8, exclude: ['*.adaLN', blocks.1.mlp.fc1, main.x_embedder]}")
    layers = made.model.layers
    left = set(layers) - set(made.model.chosen)
    assert "main.blocks.1.mlp.fc1.weight" in left and "main.x_embedder.weight" in left
    assert {path for path in layers if path.endswith("adaLN.weight")} < left and len(left) == 5
    wrong = small("digits_dit", "{scheme: int8, exclude: ['*.ada_ln']}")
    with pytest.raises(DiagnosticError) as error:
        wrong.model.chosen  # noqa: B018
    assert codes(error) == ["E0802"]


# ---- the file


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "calibration.npz"
    write_calibration(path, seen(small("digits_dit")))
    return path


def test_the_file_gives_back_what_was_seen(file: Path) -> None:
    before, after = seen(small("digits_dit")), read_calibration(file)
    assert before.about == after.about and before.points == after.points
    assert np.array_equal(before.samples, after.samples)
    assert list(before.inputs) == list(after.inputs)
    for name, observed in before.inputs.items():
        for field in Observed.__annotations__:
            assert np.array_equal(getattr(observed, field), getattr(after.inputs[name], field)), (name, field)
    for ours, theirs in zip(before.feeds["main.forward"], after.feeds["main.forward"], strict=True):
        assert all(np.array_equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda data: data[: len(data) // 2], "E0408"),
        (lambda data: b"not an archive", "E0403"),
        (lambda data: _flipped(data), "E0408"),
    ],
    ids=["half of it", "something else", "one bit"],
)
def test_a_damaged_file_is_refused(file: Path, tmp_path: Path, damage, code: str) -> None:
    broken = tmp_path / "broken.npz"
    broken.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DiagnosticError) as error:
        read_calibration(broken)
    assert codes(error) == [code]


def _flipped(data: bytes) -> bytes:
    """One bit of a tensor, which the archive's own reader of mapped entries does not notice."""
    place = data.index(b"main.blocks.0.attn.qkv/rows.npy") + 400
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_arrays_that_are_no_calibration(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", x=np.zeros(3))
    with pytest.raises(DiagnosticError, match="not a valid calibration"):
        read_calibration(tmp_path / "arrays.npz")
    with pytest.raises(DiagnosticError) as error:
        read_calibration(tmp_path / "none.npz")
    assert codes(error) == ["E0401"]


def test_a_calibration_of_something_else_is_refused(file: Path) -> None:
    made = small("digits_dit")
    found = read_calibration(file)
    check_fits(found, file, made.model)
    check_fits(found, file, small("digits_dit", "{scheme: int8_dynamic}").model)
    for other, why in (
        (small("digits_dit", more=("sampler.steps=6",)), "another model or sampler"),
        (small("digits_dit", "{scheme: int8, smooth: 0.5}"), "smooth: None"),
        (small("dit"), "another model"),
    ):
        with pytest.raises(DiagnosticError, match=why) as error:
            check_fits(found, file, replace(other.model, weights=made.weights))
        assert set(codes(error)) == {"E0803"}
    name = next(iter(made.arrays))
    changed = {**made.weights, name: Array(made.arrays[name] + np.float32(1e-6))}
    with pytest.raises(DiagnosticError, match="other weights"):
        check_fits(found, file, replace(made.model, weights=changed))


# ---- scales


def observation(values: np.ndarray) -> Observed:
    limit = float(np.abs(values).max())
    ones = np.ones(values.shape[1], np.float32)
    channels = np.abs(values).max(0)
    return Observed(channels, channels, values, values.size, ones, limit, _histogram(values, ones, limit))


finite = st.floats(-1e4, 1e4, width=32)


@pytest.mark.parametrize("scheme", sorted(LARGEST.keys() - FLOAT4.keys()))
@settings(deadline=None)  # no limit per example on a busy machine
@given(values=hnp.arrays(np.float32, (64, 3), elements=finite).filter(lambda a: np.abs(a).max() > 1e-3))
def test_a_range_covers_what_is_not_saturated(scheme: str, values: np.ndarray) -> None:
    made = observation(values)

    def error(end: float) -> float:
        return float(np.sqrt(np.mean((rounded(values, end, scheme) - values) ** 2)))

    for how in ("max", "percentile", "mse"):
        end = reach(made, scheme, how)
        assert 0 < end <= made.limit * (1 + 1e-6)
        if how == "mse":  # may be just below all values; errors are of the middles of bins, half a bin off at most
            assert error(end) <= error(made.limit) + made.limit / BINS * 1.001
        else:
            assert saturated(made, end) <= (0 if how == "max" else 1 - PERCENTILE)
        back = rounded(values, end, scheme)
        inside = np.abs(values) <= end
        # An e4m3 number has 3 bits behind its point, and below the smallest normal one steps of 2^-9 of its scale.
        step = end / 127 / 2 if scheme == "int8" else np.maximum(np.abs(values) / 16, end / 448 * 2**-10)
        assert (np.abs(back - values)[inside] <= np.broadcast_to(step, values.shape)[inside] * (1 + 1e-5) + 1e-9).all()
        assert (np.abs(back) <= end * (1 + 1e-6)).all()
    assert reach(made, scheme, "max") == made.limit


def test_the_least_error_gives_an_outlier_up() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4096, 4)).astype(np.float32)
    values[0, 0] = 40.0
    made = observation(values)
    ends = {how: reach(made, "int8", how) for how in ("max", "percentile", "mse")}
    errors = {how: float(np.mean((rounded(values, end, "int8") - values) ** 2)) for how, end in ends.items()}
    assert ends["mse"] < ends["max"] and errors["mse"] < errors["max"]
    assert ends["percentile"] < 6 and saturated(made, ends["percentile"]) <= 1.5e-4
    assert made.histogram.shape == (BINS,)


@settings(deadline=None)  # no limit per example on a busy machine
@given(
    hnp.arrays(np.float32, 8, elements=st.floats(0, 1e4, width=32)),
    hnp.arrays(np.float32, 8, elements=st.floats(0, 1e4, width=32)),
    st.floats(0, 1),
)
def test_smoothing_is_positive_and_undone_by_the_weight(x: np.ndarray, w: np.ndarray, alpha: float) -> None:
    by = smoothed(x, w, alpha)
    assert (by > 0).all() and np.isfinite(by).all() and by.dtype == np.float32
    np.testing.assert_allclose((x / by) * (w * by), x * w, rtol=1e-5)


def test_smoothing_evens_the_channels_out() -> None:
    plain, smooth = seen(small("digits_dit")), seen(small("digits_dit", "{scheme: int8, smooth: 0.5}"))
    name = "main.blocks.0.mlp.fc2"
    assert (smooth.inputs[name].smooth != 1).any()
    assert np.array_equal(plain.inputs[name].channels, smooth.inputs[name].channels), (
        "channels are those of the network"
    )
    spread = [o.channels / o.smooth for o in (plain.inputs[name], smooth.inputs[name])]
    assert np.std(np.log(spread[1])) < np.std(np.log(spread[0]))


def test_without_onnx_runtime_the_interpreter_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    made = small("digits_dit", more=("sampler.steps=2",))
    engine = seen(made)
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "onnxruntime" else real(n, *a))
    for name, observed in seen(made).inputs.items():
        assert observed.limit == pytest.approx(engine.inputs[name].limit, rel=1e-4)


def test_a_calibration_that_is_compressed_is_refused(tmp_path: Path) -> None:
    """They are written uncompressed, so that a small file never fills the memory."""
    np.savez_compressed(tmp_path / "c.npz", about=np.zeros(2, np.uint8), samples=np.zeros(1 << 16))
    with pytest.raises(DiagnosticError, match=r"E0408.*it is compressed"):
        read_calibration(tmp_path / "c.npz")
