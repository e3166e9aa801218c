"""FiTv2 beyond what was recorded: padding, both forms of the network, frequencies of larger grids, data, refusals."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.components.contract import Lowered
from latentc.datasets.digit_patches import open_dataset, patches, resized
from latentc.datasets.digits import open_dataset as open_digits
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

sys.path.insert(0, str(Path(__file__).parents[3] / "templates/project"))
import helpers

SMALL = ("backbone.width=16", "backbone.depth=2", "backbone.block.mixer.heads=2", "backbone.block.condition.rank=4")
SMALL += ("conditioning.time.frequencies=16",)
IMAGE = ("conditioning.size=null", "objective={kind: flow}")
# Cosines of the last of 3 by 5 patches in the authors' code, trained on 4 by 4, with heads of 16 channels.
TABLES = {
    ("linear", False): [-0.0292, 0.987227, 0.999872, 0.999999, -0.998295, 0.949235, 0.999488, 0.999995],
    ("linear", True): [-0.416147, 0.980067, 0.9998, 0.999998, -0.998295, 0.949235, 0.999488, 0.999995],
    ("ntk", False): [-0.416147, 0.982814, 0.999851, 0.999999, -0.653644, 0.931847, 0.999406, 0.999995],
    ("ntk", True): [-0.416147, 0.980067, 0.9998, 0.999998, -0.653644, 0.931847, 0.999406, 0.999995],
    ("ntk_by_side", True): [-0.536323, 1.263094, 1.288526, 1.288781, -0.842405, 1.200949, 1.288018, 1.288777],
    ("ntk_by_area", True): [-0.460914, 1.085497, 1.107354, 1.107573, -0.723959, 1.03209, 1.106917, 1.107569],
    ("ntk_by_parts", False): [-0.416147, 0.987227, 0.999872, 0.999999, -0.653644, 0.949235, 0.999488, 0.999995],
    ("ntk_by_parts", True): [-0.416147, 0.980067, 0.9998, 0.999998, -0.653644, 0.949235, 0.999488, 0.999995],
    ("yarn", False): [-0.425433, 1.009257, 1.022184, 1.022313, -0.668229, 0.970417, 1.021791, 1.022309],
    ("yarn", True): [-0.425433, 1.001936, 1.02211, 1.022312, -0.668229, 0.970417, 1.021791, 1.022309],
}


@cache
def lowered(*overrides: str) -> tuple[Lowered, dict[str, np.ndarray]]:
    low = lower(load_spec("digits_fitv2", overrides=[*SMALL, *overrides]))
    return low, weights_of(low, 0.3)


def run(given: tuple[Lowered, dict[str, np.ndarray]], *operands: Any) -> np.ndarray:
    low, weights = given
    method = low.networks["main"].methods["forward"].function
    return Interpreter(low.module, weights).run(method, *operands, prefix="main")[0]


def batch(count: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    return rng.standard_normal((count, 4, 16)), rng.uniform(size=count), rng.integers(0, 10, count)


@pytest.mark.parametrize(("method", "separate"), TABLES)
def test_frequencies_of_larger_grids_are_the_authors(method: str, separate: bool) -> None:
    args: dict[str, Any] = {"head_dim": 16, "rows": 3, "columns": 5, "base": 10000.0}
    changed: dict[str, Any] = {"method": method, "trained": 4, "separate": separate}
    kind = INITS["rope_2d_extrapolated"]
    cos, sin = (kind(None, (15, 8), **args, **changed, part=part) for part in ("cos", "sin"))  # type: ignore[arg-type]
    assert np.abs(cos[-1] - TABLES[method, separate]).max() < 2e-6
    for found, emitted in zip((cos, sin), helpers.rope_2d_extrapolated(**args, **changed), strict=True):
        assert np.abs(found - emitted.numpy()).max() < 1e-6


def test_frequencies_of_smaller_grids_are_those_of_training() -> None:
    args: dict[str, Any] = {"head_dim": 16, "rows": 3, "columns": 4, "base": 100.0, "part": "sin"}
    kind, table = INITS["rope_2d_extrapolated"], (12, 8)
    plain = kind(None, table, **args)  # type: ignore[arg-type]
    for method in ("linear", "ntk", "ntk_by_parts", "yarn"):
        changed = kind(None, table, **args, method=method, trained=4, separate=True)  # type: ignore[arg-type]
        assert np.abs(plain - changed).max() < 1e-12
    square = INITS["rope_2d"](None, (9, 8), head_dim=16, grid=3, prefix=0, base=100.0, part="sin")  # type: ignore[arg-type]
    assert np.abs(kind(None, (9, 8), **{**args, "columns": 3}) - square).max() < 1e-12  # type: ignore[arg-type]
    emitted = helpers.rope_2d_rectangle(16, 3, 4, 100.0)[1].numpy()
    assert np.abs(plain - emitted).max() < 1e-6


def test_padding_changes_no_patch_and_returns_as_zeros() -> None:
    x, t, y = batch()
    sizes = np.array([[4.0, 4.0], [2.0, 5.0], [3.0, 1.0]])
    out = run(lowered(), x, t, y, sizes)
    other = x.copy()
    for i, (rows, columns) in enumerate(sizes.astype(int)):
        other[i, :, rows * columns :] = 9.0
        assert np.abs(out[i, :, : rows * columns]).min() > 0 and not out[i, :, rows * columns :].any()
    assert np.abs(run(lowered(), other, t, y, sizes) - out).max() < 1e-12
    other[1, :, 3] += 1.0  # of a real patch
    assert np.abs(run(lowered(), other, t, y, sizes)[1] - out[1]).max() > 1e-3


@pytest.mark.parametrize("size", [(4, 4), (2, 5), (3, 1), (1, 16)])
def test_sequences_and_images_are_one_network(size: tuple[int, int]) -> None:
    rows, columns = size
    count, (x, t, y) = rows * columns, batch()
    out = run(lowered(), x, t, y, np.tile(np.array(size, float), (3, 1)))
    shape = (3, 2 * rows, 2 * columns)
    images = x[:, :, :count].reshape(3, 2, 2, rows, columns).transpose(0, 3, 1, 4, 2).reshape(shape)
    data = f"data={{kind: npz, classes: 10, shape: [1, {shape[1]}, {shape[2]}]}}"
    low, own = lowered(data, *IMAGE)
    weights = {name: own[name] if "freqs" in name else value for name, value in lowered()[1].items()}
    found = run((low, weights), images[:, None], t, y)
    assert np.abs(patches(found[:, 0]) - out[:, :, :count]).max() < 1e-9


def test_sizes_out_of_range_are_kept_in_it() -> None:
    x, t, y = batch(4)
    asked = np.array([[0.0, -3.0], [99.0, 99.0], [1.6, 4.4], [5.0, 5.0]])
    meant = np.array([[1.0, 1.0], [16.0, 16.0], [2.0, 4.0], [5.0, 5.0]])
    out = run(lowered(), x, t, y, asked)
    assert np.isfinite(out).all() and np.array_equal(out, run(lowered(), x, t, y, meant))


def test_the_loss_is_a_mean_over_real_patches() -> None:
    low, weights = lowered()
    (x, _, y), rng = batch(), np.random.default_rng(4)
    sizes, u, noise = (
        np.array([[4.0, 4.0], [2.0, 5.0], [3.0, 1.0]]),
        rng.standard_normal(3),
        rng.standard_normal(x.shape),
    )
    given = {"x": x, "y": y, "size": sizes, "u": u, "noise": noise, "drop": np.array([0.5, 0.05, 0.5])}
    entry = low.module.entry("loss")
    (found,) = Interpreter(low.module, weights).run("loss", *(given[v.name] for v in entry.inputs))
    t = (1 / (1 + np.exp(-u)))[:, None, None]
    told = np.where(given["drop"] < 0.1, 10, y)
    error = run(lowered(), t * x + (1 - t) * noise, t.ravel(), told, sizes) - (x - noise)
    means = [np.mean(e[:, : int(rows * columns)] ** 2) for e, (rows, columns) in zip(error, sizes, strict=True)]
    assert found == pytest.approx(np.mean(means), rel=1e-9)


def test_digits_of_every_size_are_sequences() -> None:
    fields = {"x": {"shape": [4, 20]}, "size": {"shape": [2]}, "y": {"shape": [], "classes": 10}}
    for field in fields.values():
        field |= {"dtype": "f32", "medium": "array"}
    fields["y"]["dtype"] = "i64"
    given = {"part": "test", "sizes": [[4, 4], [3, 5]], "length": 20, "fields": fields}
    own = {"x": {"shape": [1, 8, 8], "dtype": "f32", "medium": "array"}, "y": fields["y"]}
    data, digits = open_dataset(given).arrays, open_digits({"part": "test", "fields": own}).arrays
    count = len(digits["x"])
    assert data["x"].shape == (2 * count, 4, 20) and np.array_equal(data["y"], np.tile(digits["y"], 2))
    assert np.array_equal(data["size"], np.repeat([[4, 4], [3, 5]], count, axis=0))
    first, second = data["x"][0], data["x"][count]
    picture = digits["x"][0, 0]
    assert np.array_equal(first[:, 5], picture[2:4, 2:4].ravel()) and not first[:, 16:].any()
    assert np.array_equal(second[:, :15], patches(resized(picture[None], 6, 10))[0]) and not second[:, 15:].any()


def test_resizing_interpolates_between_centres_of_pixels() -> None:
    ramp = np.arange(8.0)[None, None].repeat(2, axis=1)
    wide = resized(ramp, 2, 16)[0, 0]
    assert np.allclose(wide[1:-1], np.arange(14) / 2 + 0.25) and wide[0] == 0 and wide[-1] == 7
    assert np.array_equal(resized(ramp, 2, 8), ramp)


@pytest.mark.parametrize(
    ("spec", "overrides", "says"),
    [
        ("digits_fitv2", ["conditioning.size=null"], "need one condition with the size of each image"),
        ("digits_fitv2", ["backbone.patch=3"], "4 channels are no patches of 3 by 3"),
        ("digits_fitv2", ["backbone.extrapolation={method: ntk, trained: 4}"], "for images of one size"),
        ("digits_fitv2", ["data.sizes=[[4, 5]]"], "4 by 5 patches are more than 16"),
        ("digits_fitv2", ["data.shape=[4, 9]"], "the sequences have the shape [4, 16]"),
        ("digits_fitv2", ["data={kind: digits}", "objective={kind: flow}"], "reads field `size`"),
        ("fitv2", ["data.shape=[4, 31, 32]"], "patches of 2 do not tile 31 by 32"),
        ("fitv2", ["objective={kind: padded_flow}"], "needs padded sequences"),
        ("fitv2", ["data.fields={size: {shape: [2]}}", "conditioning.size={kind: array}"], "all images have the same"),
        ("fitv2", ["data.fields={size: {shape: [3]}}", "conditioning.size={kind: array}"], "must be two numbers"),
        (
            "fitv2",
            ["backbone.width=64", "backbone.extrapolation={method: ntk}"],
            "extrapolation needs heads of 8 channels or more, but these have 4",
        ),
    ],
)
def test_what_does_not_fit_is_refused(spec: str, overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec(spec, overrides=overrides))
    assert any(says in one.message for one in caught.value.diagnostics), caught.value


def test_adaln_lora_works_in_a_patch_transformer() -> None:
    overrides = ["backbone.block.condition={kind: adaln_lora, rank: 4}", "backbone.width=16", "backbone.depth=1"]
    low = lower(load_spec("digits_dit", overrides=overrides))
    assert {"adaLN.weight", "blocks.0.adaLN.down.weight", "blocks.0.adaLN.up.weight"} <= {
        name.removeprefix("main.") for name in weights_of(low, 0.1)
    }


def test_adaln_lora_needs_the_map_of_all_blocks() -> None:
    with pytest.raises(DiagnosticError) as caught:
        lower(load_spec("digits_ddt", overrides=["backbone.block.condition={kind: adaln_lora}"]))
    assert any("adaln_lora" in one.message for one in caught.value.diagnostics), caught.value
