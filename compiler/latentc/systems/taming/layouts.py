"""The objects of a scene as tokens that condition a model of images: layouts of Taming transformers.

Source: Esser et al. 2021, arXiv:2012.09841, section 4.3 and figure 6; options of taming/data/conditional_builder.

Symbols: N objects of an image, L tokens of a layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Box = tuple[float, float, float, float]
"""x and y of the upper left corner, width and height, as fractions of the image's sides."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layouts:
    """How layouts become tokens below `vocabulary`, the last of which stands for no object.

    Each of up to `most` objects is a token of its class and, with `corners`, two of the corners of its box, else one of
    its centre; two of the corners of the crop follow with `crop`. A place is one of the cells of a square grid of at
    most `vocabulary`. `classes`: classes of objects, needed if these have attributes.
    """

    vocabulary: int = 8192
    most: int = 30
    corners: bool = True
    crop: bool = True
    classes: int | None = None

    @property
    def side(self) -> int:
        """Cells of a row of the grid of places."""
        return math.isqrt(self.vocabulary)

    @property
    def none(self) -> int:
        """The token of what is not there."""
        return self.vocabulary - 1

    @property
    def each(self) -> int:
        """Tokens of an object."""
        return 3 if self.corners else 2

    @property
    def length(self) -> int:
        """L."""
        return self.most * self.each + 2 * self.crop

    def tokens(
        self,
        objects: ArrayLike,
        boxes: ArrayLike,
        crop: Box = WHOLE,
        flip: bool = False,
        attributes: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
    ) -> NDArray[np.int64]:
        """i64[L]: the layout of classes i64[N] and boxes f64[N, 4], of which the first `most` are used.

        Objects outside the crop are left out. With `self.crop`, places are of the whole image, and tokens of the crop
        follow; else places are of the crop. `flip`: the image is mirrored. `attributes` i64[N]: bits (1 a group, 2
        occluded, 4 a depiction, 8 an inside). `rng` shuffles the objects. ValueError: an object has no token.
        """
        kinds = np.asarray(objects, np.int64).reshape(-1)[: self.most]
        found = np.asarray(boxes, np.float64).reshape(-1, 4)[: self.most]
        if attributes is not None:
            if self.classes is None:
                raise ValueError("attributes need `classes`, the number of object classes")
            kinds = kinds + self.classes * np.asarray(attributes, np.int64).reshape(-1)[: self.most]
        if len(kinds) != len(found):
            raise ValueError(f"{len(kinds)} classes of {len(found)} boxes")
        if len(kinds) and not (kinds.min() >= 0 and kinds.max() < self.none):
            raise ValueError(
                f"object classes run from {kinds.min()} to {kinds.max()}, but tokens only from 0 to {self.none - 1}"
            )
        order = np.arange(len(kinds)) if rng is None else rng.permutation(len(kinds))
        inside = [i for i in order if _overlap(found[i], crop) > 0]
        made: list[int] = []
        for i in inside:
            box = _within(found[i], WHOLE if self.crop else crop, flip)
            made += [int(kinds[i]), *self._places(box)]
        made += [self.none] * (self.most * self.each - len(made))
        if self.crop:
            x, y, width, height = crop
            made += self._corners((1 - (x + width) if flip else x, y, width, height))
        return np.asarray(made, np.int64)

    def objects(self, tokens: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64], Box]:
        """(classes i64[N], boxes f64[N, 4] or centres f64[N, 2], the crop) that a layout i64[L] tells."""
        every = [int(token) for token in np.asarray(tokens).reshape(-1)]
        if len(every) != self.length:
            raise ValueError(f"the objects need {len(every)} tokens, but a layout has {self.length}")
        crop = self._box(every[-2:]) if self.crop else WHOLE
        parts = [every[i : i + self.each] for i in range(0, self.most * self.each, self.each)]
        there = [part for part in parts if part[0] != self.none]
        places = [self._box(part[1:]) if self.corners else self._place(part[1]) for part in there]
        kinds = np.asarray([part[0] for part in there], np.int64)
        return kinds, np.asarray(places, np.float64).reshape(-1, 4 if self.corners else 2), crop

    def _places(self, box: Box) -> list[int]:
        x, y, width, height = box
        return self._corners(box) if self.corners else [self._cell(x + width / 2, y + height / 2)]

    def _corners(self, box: Box) -> list[int]:
        x, y, width, height = box
        return [self._cell(x, y), self._cell(x + width, y + height)]

    def _cell(self, x: float, y: float) -> int:
        last = self.side - 1
        return round(y * last) * self.side + round(x * last)

    def _place(self, token: int) -> tuple[float, float]:
        last = self.side - 1
        return token % self.side / last, token // self.side / last

    def _box(self, tokens: Sequence[int]) -> Box:
        (x, y), (right, bottom) = map(self._place, tokens)
        return x, y, right - x, bottom - y


def _overlap(box: NDArray[np.float64], crop: Box) -> float:
    """Area that both have in common."""
    wide = min(box[0] + box[2], crop[0] + crop[2]) - max(box[0], crop[0])
    high = min(box[1] + box[3], crop[1] + crop[3]) - max(box[1], crop[1])
    return float(max(0.0, wide) * max(0.0, high))


def _within(box: NDArray[np.float64], crop: Box, flip: bool) -> Box:
    """A box as fractions of the crop. What lies left of it or above is moved inside whole, as in the authors' code."""
    x = min(max((box[0] - crop[0]) / crop[2], 0.0), 1.0)
    y = min(max((box[1] - crop[1]) / crop[3], 0.0), 1.0)
    width, height = min(box[2] / crop[2], 1 - x), min(box[3] / crop[3], 1 - y)
    return float(1 - (x + width) if flip else x), float(y), float(width), float(height)
