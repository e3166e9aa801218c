"""Layouts of scenes as tokens, against numbers worked out by hand after the authors' builders."""

from __future__ import annotations

import numpy as np
import pytest

from latentc.spec import load_spec
from latentc.systems.taming.layouts import Layouts

BOXES = [[0.0, 0.0, 0.5, 0.25], [0.6, 0.2, 0.4, 0.8], [0.9, 0.9, 0.1, 0.1]]


def test_places_are_cells_of_a_square() -> None:
    """With 16 tokens, rows of four: the cell of (2 / 3, 1 / 3) is 6, that of (1, 1) is 15, which is also for none."""
    centres = Layouts(vocabulary=16, most=3, corners=False, crop=False)
    at = [[2 / 3, 1 / 3, 0, 0], [1.0, 1.0, 0, 0]]
    assert centres.length == 6
    assert centres.tokens([4, 2], [[x - 0.1, y - 0.1, 0.2, 0.2] for x, y, _, _ in at]).tolist() == [4, 6, 2, 15, 15, 15]
    kinds, places, crop = centres.objects([4, 6, 2, 15, 15, 15])
    assert kinds.tolist() == [4, 2] and crop == (0.0, 0.0, 1.0, 1.0)
    np.testing.assert_allclose(places, [[2 / 3, 1 / 3], [1, 1]])


def test_boxes_and_the_crop() -> None:
    boxes = Layouts(vocabulary=101, most=3, classes=10)  # ten cells in a row
    assert (boxes.side, boxes.none, boxes.length) == (10, 100, 11)
    # Of the whole image: the last object lies outside the crop, whose corners are 0 and (0.8, 0.8).
    crop = (0.0, 0.0, 0.8, 0.8)
    told = boxes.tokens([1, 2, 3], BOXES, crop).tolist()
    assert told == [1, 0, 24, 2, 25, 99, 100, 100, 100, 0, 77]
    # Mirrored, with attributes: x is 1 - (x + width), and each of the bits counts ten classes on.
    told = boxes.tokens([1, 2, 3], BOXES, crop, True, [0, 1, 2]).tolist()
    assert told == [1, 4, 29, 12, 20, 94, 100, 100, 100, 2, 79]
    kinds, found, seen = boxes.objects(told)
    assert kinds.tolist() == [1, 12]
    np.testing.assert_allclose(found[0], [4 / 9, 0, 5 / 9, 2 / 9])
    np.testing.assert_allclose(seen, [2 / 9, 0, 7 / 9, 7 / 9])
    # Of the crop: places are fractions of it.
    of_crop = Layouts(vocabulary=101, most=2, crop=False).tokens([1], [[0.4, 0.4, 0.2, 0.2]], (0.4, 0.4, 0.4, 0.4))
    assert of_crop.tolist() == [1, 0, 44, 100, 100, 100]


def test_objects_are_shuffled_behind_the_first_ones() -> None:
    layouts, rng = Layouts(vocabulary=64, most=4), np.random.default_rng(0)
    every = [layouts.tokens(np.arange(8), np.full((8, 4), 0.1), rng=rng)[:12:3].tolist() for _ in range(20)]
    assert all(sorted(one) == [0, 1, 2, 3] for one in every) and len({tuple(one) for one in every}) > 3


def test_the_shipped_spec_takes_them() -> None:
    assert load_spec("taming_scenes").data.fields["layout"].shape == (Layouts().length,)
    assert Layouts().tokens([], []).max() < load_spec("taming_scenes").data.fields["layout"].classes  # type: ignore[operator]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (([63], [[0, 0, 1, 1]]), "tokens only from 0 to 62"),
        (([1, 2], [[0, 0, 1, 1]]), "2 classes of 1 boxes"),
        (([1], [[0, 0, 1, 1]], (0, 0, 1, 1), False, [1]), "attributes need"),
    ],
)
def test_what_has_no_token(given: tuple[object, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Layouts(vocabulary=64).tokens(*given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a layout has 92"):
        Layouts().objects([1, 2])
