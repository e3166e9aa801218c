"""Augmentation of images: exact where it must be, and described by its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from latentc.components.data.image_folder import ImageFolder
from latentc.datasets import augment, open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

ALL = tuple(augment.LABELS)


def smooth(size: int = 32) -> np.ndarray:
    """A smooth image f64[2, H, W] that no symmetry maps to itself."""
    x = np.linspace(-1, 1, size)
    return np.stack([np.exp(-((x[None] - 0.3) ** 2 + (x[:, None] + 0.2) ** 2) * 6), x[None] * 0.5 + x[:, None] * 0.2])


def matrix(angle: float = 0, scale: float = 1, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    return np.column_stack([augment.rotation(angle) * scale, shift])


def test_the_filter_is_orthonormal_to_its_even_shifts() -> None:
    for shift in range(0, 12, 2):
        product = augment.SYM6[: 12 - shift] @ augment.SYM6[shift:]
        assert product == pytest.approx(float(shift == 0), abs=1e-10)
    assert augment.SYM6.sum() == pytest.approx(np.sqrt(2), abs=1e-10)


def test_the_identity_and_whole_pixels_are_exact() -> None:
    image = np.random.default_rng(0).standard_normal((3, 12, 16))
    np.testing.assert_allclose(augment.resampled(image, matrix()), image, atol=1e-9)
    moved = augment.resampled(image, matrix(shift=(-2, 1)))  # shows what was 2 to the left and 1 below
    np.testing.assert_allclose(moved[:, :-1, 2:], image[:, 1:, :-2], atol=1e-9)
    np.testing.assert_allclose(moved[:, :, 0], moved[:, :, 4], atol=1e-9)  # reflected at the edge


def test_a_quarter_turn() -> None:
    turned = augment.resampled(smooth(), matrix(np.pi / 2))
    assert np.abs(turned - np.rot90(smooth(), 1, (1, 2))).max() < 0.02


def test_scale_and_half_pixels_interpolate() -> None:
    image = smooth()
    x = np.linspace(-1, 1, 32)
    larger = augment.resampled(image, matrix(scale=0.5))
    want = x[None] * 0.25 + x[:, None] * 0.1
    assert np.abs(larger[1] - want).max() < 0.01
    shifted = augment.resampled(image, matrix(shift=(0.5, 0)))
    assert np.abs(shifted[1] - (image[1] + 0.5 * 0.5 * (x[1] - x[0])))[:, 4:-4].max() < 0.01


def test_labels_describe_what_was_done() -> None:
    images = np.stack([smooth()] * 400).astype(np.float32)
    _, labels = augment.augmented(images[:, :, ::8, ::8], (1, 2, 3), 1.0, ALL, np.random.default_rng(0))
    assert labels.shape == (400, 9) and labels.dtype == np.float32
    np.testing.assert_allclose((labels[:, 3] + 1) ** 2 + labels[:, 4] ** 2, 1, atol=1e-5)
    assert np.abs(labels.mean(0)[[2, 7, 8]]).max() < 0.2 and np.abs(labels.std(0)[[2, 7, 8]] - 1).max() < 0.15
    plain, none = augment.augmented(images[:20], (1, 2, 3), 0.0, ALL, np.random.default_rng(0))
    assert (none[:, 1:] == 0).all() and 0 < none[:, 0].sum() < 20  # mirroring alone does not depend on p
    for image, label in zip(plain, none, strict=True):
        np.testing.assert_array_equal(image, images[0][..., ::-1] if label[0] else images[0])


def test_the_labels_give_the_map() -> None:
    rng = np.random.default_rng(3)
    for _ in range(4):
        _, _, place, labels = augment.drawn(1.0, ALL, 32, 48, rng)
        assert np.linalg.det(place[:, :2]) == pytest.approx(2.0 ** (-0.4 * labels[2]))  # stretching keeps the area
        middle = -np.linalg.inv(place[:, :2]) @ place[:, 2]  # where the image's middle is shown
        np.testing.assert_allclose(middle, 0.125 * labels[7:] * [48, 32], atol=1e-9)


def test_some_kinds_are_as_among_all_of_them() -> None:
    """py-meanflow's: no vertical flips and no rotation. What is left out leaves its labels out and changes no other."""
    kinds = ("shift", "mirror", "scale", "stretch")
    images = np.stack([smooth(16)] * 30).astype(np.float32)
    found, labels = augment.augmented(images, (1, 2, 3), 1.0, kinds, np.random.default_rng(0))
    _, among_all = augment.augmented(images, (1, 2, 3), 1.0, ALL, np.random.default_rng(0))
    assert labels.shape == (30, 6) and (np.abs(among_all[:, [1, 4]]).max(0) > 0).all()
    np.testing.assert_array_equal(labels, among_all[:, [0, 2, 5, 6, 7, 8]])
    rng = np.random.default_rng(1)
    for _ in range(5):
        mirrored, upside_down, place, nine = augment.drawn(1.0, ("rotation",), 16, 16, rng)
        assert not (mirrored or upside_down or nine[[0, 1, 2, 5, 6, 7, 8]].any())
        np.testing.assert_allclose(place[:, :2], augment.rotation(np.arctan2(nine[4], nine[3] + 1)), atol=1e-12)
    only, _ = augment.augmented(images, (1, 2, 3), 1.0, ("mirror",), np.random.default_rng(0))
    mirrored = labels[:, 0] == 1
    np.testing.assert_array_equal(only[mirrored], images[mirrored][..., ::-1])
    np.testing.assert_array_equal(only[~mirrored], images[~mirrored])
    assert np.abs(found - only).max() > 0.1


def test_mirroring_that_labels_do_not_tell(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.stack([smooth(8)[:1]] * 40))
    data = f"data={{kind: npz, path: '{tmp_path / 'a.npz'}', shape: [1, 8, 8], augment: 0.5, horizontal_flip: true,"
    data += " augmentations: [mirror]}"
    found = open_dataset(load_spec("mean_flow_cifar10", overrides=[data]).data.settings())
    rows = found.rows(np.arange(40), np.random.default_rng(0))
    assert rows["augment"].shape == (40, 1)
    mirrored = (rows["x"] != smooth(8)[:1].astype(np.float32)).any((1, 2, 3))
    told = rows["augment"][:, 0] == 1
    assert {(bool(a), bool(b)) for a, b in zip(mirrored, told, strict=True)} == {(a, b) for a in (0, 1) for b in (0, 1)}


def test_images_are_mirrored_once_unless_both_ways_are_asked_for() -> None:
    for settings, flips in (
        ({}, True),
        ({"augment": 0.1}, False),
        ({"augment": 0.1, "augmentations": ["scale"]}, True),
        ({"augment": 0.1, "horizontal_flip": True}, True),
    ):
        data = {"kind": "image_folder", "classes": 2, "shape": [3, 8, 8], **settings}
        assert ImageFolder.model_validate(data).horizontal_flip is flips, settings


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.augmentations=[mirror, scale, mirror]"], "`mirror` is given twice"),
        (["data.augment=0", "conditioning.augment=null", "backbone.early=[]"], "but `augment` is 0, so none is"),
    ],
)
def test_what_augmentations_refuse(overrides: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("mean_flow_cifar10", None, overrides)
    assert any(words in diagnostic.message for diagnostic in refused.value.diagnostics)


def test_data_yields_what_was_done(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.stack([smooth(8)[:1]] * 20), y=np.zeros(20, int))
    data = f"data={{kind: npz, path: '{tmp_path / 'a.npz'}', classes: 1, shape: [1, 8, 8], augment: 0.9}}"
    settings = load_spec("digits_dit", overrides=[data]).data.settings()
    assert settings["fields"]["augment"]["shape"] == [9]
    found, rows = open_dataset(settings), np.arange(20)
    drawn, plain = found.rows(rows, np.random.default_rng(0)), found.rows(rows)
    assert drawn["augment"].shape == (20, 9) and drawn["x"].shape == (20, 1, 8, 8)
    assert (drawn["augment"] != 0).any(1).mean() > 0.5 and not plain["augment"].any()
    assert drawn["x"].dtype == plain["x"].dtype == np.float32
    same = (drawn["x"] == plain["x"]).all((1, 2, 3))
    np.testing.assert_array_equal(same, ~drawn["augment"].any(1))
