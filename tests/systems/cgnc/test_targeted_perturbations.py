"""CGNC beside its recordings: views of images, patches left alone, perturbed images of an engine, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from scipy.ndimage import map_coordinates

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.spec import load_spec
from latentc.systems.cgnc.targeted_perturbation import TargetedPerturbation
from latentc.systems.cgnc.views import View, draws_of, seen

SMALL = ("networks.main.width=4", "networks.main.groups=4", "networks.texts.width=6", "networks.classifier.width=4")
PLAIN = dict.fromkeys(("ratio", "left", "top", "brightness", "contrast", "saturation"), 0.5)
PLAIN |= {"area": 1.0, "mirror": 0.0, "jitter": 0.99, "grey": 0.99}
"""Draws of a crop that is the whole image."""


def view(kind: View, x: np.ndarray, **drawn: Any) -> np.ndarray:
    """A view of images, by the oracle; `drawn`: what its draws are, by default PLAIN."""
    mb = ModuleBuilder()
    b = mb.function("view")
    of = b.input("x", f32(B, *x.shape[1:]))
    draws = draws_of(kind)
    given = {d.name: b.input(d.name, i64(B) if d.distribution == "integers" else f32(B)) for d in draws}
    b.output(seen(b, kind, of, given))
    b.finish("")
    values = [np.broadcast_to(drawn.get(d.name, PLAIN.get(d.name)), len(x)) for d in draws]
    (found,) = Interpreter(mb.finish()).run("view", x, *values)
    return np.asarray(found)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (4, 3, 8, 8))


def test_images_are_turned_as_by_pytorch(x: np.ndarray) -> None:
    wanted = torch.stack([torch.rot90(torch.tensor(one), k, [1, 2]) for k, one in enumerate(x)])
    assert np.allclose(view("turned", x, turns=np.arange(4)), wanted, rtol=0, atol=1e-6)


def test_a_crop_is_a_part_at_the_size_of_the_whole(x: np.ndarray) -> None:
    assert np.allclose(view("cropped", x), x, rtol=0, atol=1e-6)
    assert np.allclose(view("cropped", x, mirror=1.0), x[..., ::-1], rtol=0, atol=1e-6)
    quarter = (0.25 - 0.08) / 0.92
    part = F.interpolate(torch.tensor(x[..., 4:, :4]), size=8, mode="bilinear", align_corners=False)
    found = view("cropped", x, area=quarter, left=0.0, top=1.0)
    # Between the part and the rest of the image, the crop reads pixels of both.
    assert np.allclose(found[..., 1:, :7], part[..., 1:, :7], rtol=0, atol=1e-6)
    # A quarter of the area, 4/3 as wide as high, from the last rows and columns.
    found = view("cropped", x, area=quarter, ratio=1.0, left=1.0, top=1.0)
    columns, rows = (
        8 * (1 - side) + side * (np.arange(8) + 0.5) - 0.5 for side in (np.sqrt(0.25 * r) for r in (4 / 3, 3 / 4))
    )
    at = np.meshgrid(rows, columns, indexing="ij")
    wanted = [[map_coordinates(channel, at, order=1, mode="nearest") for channel in image] for image in x]
    assert np.allclose(found, wanted, rtol=0, atol=1e-6)


def test_colours_are_changed_by_factors_or_to_grey(x: np.ndarray) -> None:
    levels = (x + 1) / 2
    weights = np.array([0.299, 0.587, 0.114])[:, None, None]
    grey = (levels * weights).sum(1, keepdims=True)
    found = view("cropped", x, grey=0.1)
    assert np.allclose(found, 2 * np.broadcast_to(grey, x.shape) - 1, rtol=0, atol=1e-6)
    brighter = np.clip(levels * 1.4, 0, 1)
    mean = (brighter * weights).sum(1, keepdims=True).mean((2, 3), keepdims=True)
    contrasted = np.clip((brighter - mean) * 0.4 + mean, 0, 1)
    grey = (contrasted * weights).sum(1, keepdims=True)
    wanted = np.clip((contrasted - grey) * 1.8 + grey, 0, 1)
    found = view("cropped", x, jitter=0.1, brightness=0.75, contrast=0.125, saturation=1.0)
    assert np.allclose(found, 2 * wanted - 1, rtol=0, atol=1e-6)
    alone = view("cropped", x[:, :1], jitter=0.1, brightness=0.75, grey=0.1)
    assert np.allclose(alone, 2 * brighter[:, :1] - 1, rtol=0, atol=1e-6)


def test_the_least_numbers_leave_patches_alone() -> None:
    change, chance = np.ones((3, 2, 9, 8)), np.random.default_rng(1).uniform(0, 1, (3, 4))
    mb = ModuleBuilder()
    b = mb.function("masked")
    given = b.input("change", f32(B, 2, 9, 8))
    objective = TargetedPerturbation(kind="targeted_perturbation", masked=0.6, patch=4)
    b.output(objective._masked(b, given, "chance")[0])
    b.finish("")
    (found,) = Interpreter(mb.finish()).run("masked", change, chance)
    wanted = change.copy()
    for image, numbers in zip(wanted, chance, strict=True):
        for patch in np.argsort(numbers)[:2]:  # 0.6 of four patches
            row, column = 4 * (patch // 2), 4 * (patch % 2)
            image[:, row : row + 4, column : column + 4] = 0
    assert np.array_equal(found, wanted)


def test_an_engine_perturbs_an_image_for_the_class(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("digits_cgnc", tmp_path / "b", SMALL, std=0.3), "cpu")
    image = np.random.default_rng(0).uniform(-1, 1, (1, 1, 8, 8)).astype(np.float32)
    given = {"image": np.repeat(image, 3, axis=0), "class": [3, 4, 3]}
    made, again = (pipe.sample(conditions=given, seeds=seed) for seed in (0, 100))
    assert made.shape == (3, 1, 8, 8) and np.array_equal(made, again)
    assert np.array_equal(made[0], made[2]) and np.abs(made[0] - made[1]).max() > 1e-3
    assert 1e-3 < np.abs(made - image).max() <= 1 and np.abs(made).max() <= 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["conditioning.class=null"], "takes an image of the data's shape and one vector"),
        (["conditioning.class={kind: vector, field: x}"], "takes an image of the data's shape and one vector"),
        (["conditioning.image=null"], "takes an image of the data's shape and one vector"),
        (["conditioning.class.network=main"], "network `main` encodes no class as a vector"),
        (["networks.texts=null"], "network `texts` does not exist"),
        (["networks.main.groups=7"], "7 groups do not divide the 32 channels"),
        (["objective.targets=[3, 10]"], "class 10 is out of range"),
        (["objective.views=[turned, turned]"], "a view is named twice"),
        (["objective.masked=0.1", "objective.patch=4"], "a share of 0.1 is not one of the patches"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_cgnc", overrides=options)
