"""Images as training sees them anew: operations, crops and mixtures against timm's, and the labels of mixed images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from latentc.components.read_fields import problems_of_reading
from latentc.datasets import open_dataset
from latentc.datasets.views import OPERATIONS, mixed_rows, rand_augmented, random_box
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

# What timm 0.3.2 made of `image`, `x` and `y`, its random numbers drawn from generators of numpy (seeds as below).
RECORDED = np.load(Path(__file__).parent / "data" / "views.npz")
PICTURE = Image.fromarray(RECORDED["image"])
MIXES = [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0), (0.8, 1.0), (0.8, 1.0)]
PIXELS = (
    "data={kind: image_folder, path: images, classes: 3, shape: [3, 8, 8], views: VIEWS}",
    "backbone={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 4}",
    "train.optimizer={kind: adamw}",
)


def with_views(views: str, *more: str) -> Any:
    data, *others = PIXELS
    return load_spec("mage_classifier", None, [data.replace("VIEWS", views), *others, "weights={}", *more])


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_timms(name: str) -> None:
    for strength, seed, wanted in zip((0.62, 0.9), (1, 2), RECORDED[f"op.{name}"], strict=True):
        rng = np.random.default_rng(seed)
        found = OPERATIONS[name](PICTURE, strength, lambda value, rng=rng: -value if rng.random() > 0.5 else value)
        assert np.abs(np.asarray(found).astype(int) - wanted).max() <= 1  # of 255: Pillow's rounding may change
        grey = OPERATIONS[name](PICTURE.convert("L"), strength, lambda value: value)
        assert np.asarray(grey).shape == (16, 16)


def test_operations_are_drawn_as_by_timm() -> None:
    rng = np.random.default_rng(3)
    for wanted in RECORDED["rand_augment"]:
        assert np.abs(np.asarray(rand_augmented(PICTURE, rng, 2, 9.0, 0.5, 0.5)).astype(int) - wanted).max() <= 1


def test_crops_are_drawn_as_by_timm() -> None:
    rng = np.random.default_rng(4)
    for width, height, *box in RECORDED["boxes"].tolist():
        assert random_box(width, height, (0.2, 1.0), False, rng) == tuple(box)
    for _ in range(20):  # a crop of the whole area does not fit unless it is clamped
        left, top, right, bottom = random_box(90, 20, (1.0, 1.0), True, rng)
        assert 0 <= left < right <= 90 and (top, bottom) == (0, 20)


@pytest.mark.parametrize("case", range(len(MIXES)))
def test_mixtures_are_timms(case: int) -> None:
    x, y, (mixup, cutmix) = RECORDED["x"], RECORDED["y"], MIXES[case]
    views = {"mixup": mixup, "cutmix": cutmix}
    rows = mixed_rows({"x": x, "y": y}, "x", (2, 3), views, np.random.default_rng(20 + case))
    assert np.abs(rows["x"] - RECORDED[f"mixed.{case}"]).max() < 1e-6
    share = rows["y_share"][:, None]
    target = share * np.eye(5)[rows["y"]] + (1 - share) * np.eye(5)[rows["y_other"]]
    assert np.abs(0.9 * target + 0.1 / 5 - RECORDED[f"target.{case}"]).max() < 1e-6
    still = mixed_rows({"x": x, "y": y}, "x", (2, 3), views, None)
    assert still["x"] is x and (still["y_share"] == 1).all()


def test_the_loss_is_of_both_labels() -> None:
    """The cross-entropy of timm's smoothed targets."""
    spec = with_views("{cutmix: 1.0}")
    lowered = lower(spec)
    assert lowered.updates[0].batch == ("x", "y", "y_other", "y_share")
    rng = np.random.default_rng(0)
    params = {name: [int(d) for d in p.type.shape] for name, p in _params(lowered).items()}
    oracle = Interpreter(lowered.module, {name: np.abs(rng.standard_normal(shape)) for name, shape in params.items()})
    given = {"x": rng.standard_normal((4, 3, 8, 8)), "y": np.array([0, 1, 2, 1]), "y_other": np.array([1, 2, 1, 0])}
    given["y_share"] = np.array([0.3, 1.0, 0.0, 0.6])
    loss, accuracy = oracle.run("loss", *(given[v.name] for v in lowered.module.entry("loss").inputs))
    logits = np.asarray(oracle.run("main.forward", given["x"], prefix="main")[0])
    log_p = logits - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
    log_p -= logits.max(1, keepdims=True)
    share = given["y_share"][:, None]
    target = share * np.eye(3)[given["y"]] + (1 - share) * np.eye(3)[given["y_other"]]
    assert loss == pytest.approx(-np.mean(((0.9 * target + 0.1 / 3) * log_p).sum(1)), rel=1e-5)
    assert accuracy == np.mean(logits.argmax(1) == given["y"])


def _params(lowered: Any) -> dict[str, Any]:
    from latentc.checkpoint import network_params

    return {f"main.{path}": p for path, p in network_params(lowered, lowered.networks["main"]).items()}


def test_pixels_are_seen_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label in "abc":
        Path("images", label).mkdir(parents=True)
        PICTURE.save(f"images/{label}/0.png")
    spec = with_views("{crop: [0.2, 0.5], rand_augment: {}, mixup: 0.8}")
    data = open_dataset(spec.data.settings())
    index = np.arange(3)
    first, again, other = (data.rows(index, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert np.array_equal(first["x"], again["x"]) and not np.array_equal(first["x"], other["x"])
    assert first["y_other"].tolist() == [2, 1, 0] and 0 < first["y_share"][0] < 1
    plain = data.rows(index)
    assert np.array_equal(plain["x"][0], plain["x"][1]) and (plain["y_share"] == 1).all()


@pytest.mark.parametrize(
    ("views", "more", "said"),
    [
        ("{crop: [0.5, 0.2]}", (), "is not a range of shares"),
        ("{rand_augment: {}, fit: clamped}", (), "`fit` has no effect without random crops"),
        ("{}", (), "`views` changes no image"),
        ("{crop: [0.5, 1.0]}", ("data.fields={z: {shape: [4], encoded_by: main}}",), "`z` is computed once per image"),
        ("{mixup: 0.8}", ("data.classes=0",), "mixed images need labels"),
    ],
)
def test_what_is_refused(views: str, more: tuple[str, ...], said: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        with_views(views, *more)
    assert any(said in d.message for d in refused.value.diagnostics), refused.value


def test_an_objective_that_does_not_take_labels_of_mixed_images_is_refused() -> None:
    spec = with_views("{mixup: 0.8}")
    updates = lower(spec).updates
    assert not list(problems_of_reading(spec, updates))
    unmixed = [replace(update, batch=("x", "y")) for update in updates]
    (problem,) = problems_of_reading(spec, unmixed)
    assert problem.path == ("views",) and "does not take labels of mixed images" in problem.message


def test_what_is_computed_once_is_refused() -> None:
    for change, said in (
        ("data.crops=ten", "there are no ten to encode"),
        ("data.fields={z: {shape: [4], encoded_by: main}}", "`z` is computed once per image"),
    ):
        with pytest.raises(DiagnosticError) as refused:
            load_spec("mage_classifier", None, [change])
        assert any(said in d.message for d in refused.value.diagnostics), refused.value
