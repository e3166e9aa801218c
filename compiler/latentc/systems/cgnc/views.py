"""Changed copies of images, on which a perturbation is trained as well.

Symbols: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from latentc.components.contract import Draw
from latentc.components.objectives.augmentations._augmentation import column
from latentc.ir.builder import Builder, Var

View = Literal["turned", "cropped"]
GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey level."""
AREA, LOG_RATIO = (0.08, 1.0), (math.log(3 / 4), math.log(4 / 3))
"""Ranges of a crop's area, as a share of the image's, and of the logarithm of its width over its height."""
FACTOR, CHANCE, GREY_CHANCE = 0.8, 0.8, 0.2
"""Range of the factors of brightness, contrast and saturation around 1; the chance that they apply; that of grey."""


class _Way(NamedTuple):
    """How a view is drawn and made."""

    draws: tuple[Draw, ...]
    made: Callable[[Builder, Var, Mapping[str, Var]], Var]


def draws_of(view: View) -> tuple[Draw, ...]:
    """The random inputs of a view, one per image each."""
    return WAYS[view].draws


def seen(b: Builder, view: View, x: Var, drawn: Mapping[str, Var]) -> Var:
    """A view of images x f32[B, C, H, W] in [-1, 1], of that shape."""
    return WAYS[view].made(b, x, drawn)


def turned(b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
    """Square images turned by a multiple of 90 degrees."""
    quarter = drawn["turns"]
    cos, sin = (
        column(b, b.take(b.constant(values, "f32", out=name), quarter, axis=0), 3)
        for name, values in (("cosines", [1, 0, -1, 0]), ("sines", [0, 1, 0, -1]))
    )
    across, down = _points(b, x)
    return _read(b, x, cos * across - sin * down, sin * across + cos * down, "turned")


def cropped(b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
    """A part of each image at the size of the whole, mirrored or not, with colours changed or grey.

    As torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and RandomGrayscale, but for the hue; a crop
    that the image cannot hold is cut to its sides instead of being drawn again.
    """
    area = drawn["area"] * (AREA[1] - AREA[0]) + AREA[0]
    ratio = b.exp(drawn["ratio"] * (LOG_RATIO[1] - LOG_RATIO[0]) + LOG_RATIO[0], out="ratio")
    wide, high = (b.minimum(b.sqrt(one), 1.0, out="side") for one in (area * ratio, b.div(area, ratio)))
    mirror = b.where(b.greater(drawn["mirror"], 0.5), -1.0, b.fill_like(wide, 1.0), out="mirror")
    across, down = _points(b, x)
    places: list[Var] = []
    for points, side, at, sign in ((across, wide, drawn["left"], mirror), (down, high, drawn["top"], None)):
        centre = column(b, b.op("sub", 1.0, side) * (at * 2.0 - 1.0), 3)
        places.append(points * column(b, side if sign is None else side * sign, 3) + centre)
    return _recoloured(b, _read(b, x, places[0], places[1], "cropped"), drawn)


def _recoloured(b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
    """Brightness, contrast and saturation changed by factors, or grey; of x in [-1, 1]."""
    applies = column(b, b.cast(b.less(drawn["jitter"], CHANCE), to="f32"), 4)

    def factor(name: str) -> Var:
        away = column(b, drawn[name] * (2 * FACTOR) - FACTOR, 4)
        return b.add(away * applies, 1.0, out="factor")  # type: ignore[no-any-return]

    x = b.mul(x + 1.0, 0.5, out="levels")
    x = b.clamp(x * factor("brightness"), low=0.0, high=1.0, out="levels")
    mean = b.mean(_grey(b, x), axes=(1, 2, 3), keepdims=True, out="mean")
    x = b.clamp((x - mean) * factor("contrast") + mean, low=0.0, high=1.0, out="levels")
    if int(x.shape[1]) == len(GREY):  # type: ignore[arg-type]
        grey = _grey(b, x)
        x = b.clamp((x - grey) * factor("saturation") + grey, low=0.0, high=1.0, out="levels")
        turns_grey = column(b, b.less(drawn["grey"], GREY_CHANCE), 4)
        x = b.where(turns_grey, _grey(b, x), x, out="levels")
    return b.op("sub", x * 2.0, 1.0, out="cropped")  # type: ignore[no-any-return]


def _grey(b: Builder, x: Var) -> Var:
    """Grey levels f32[B, 1, H, W]; the mean of the channels, unless they are red, green and blue."""
    if int(x.shape[1]) != len(GREY):  # type: ignore[arg-type]
        return b.mean(x, axes=(1,), keepdims=True, out="grey")  # type: ignore[no-any-return]
    weights = b.constant(np.array(GREY).reshape(1, 3, 1, 1), "f32", out="weights")
    return b.sum(x * weights, axes=(1,), keepdims=True, out="grey")  # type: ignore[no-any-return]


def _points(b: Builder, x: Var) -> tuple[Var, Var]:
    """The centres of pixels, from -1 to 1: f32[1, 1, W] along rows, f32[1, H, 1] along columns."""
    height, width = (int(side) for side in x.shape[2:])  # type: ignore[arg-type]
    rows, columns = ((2 * np.arange(n) + 1) / n - 1 for n in (height, width))
    return b.constant(columns[None, None], "f32", out="across"), b.constant(rows[None, :, None], "f32", out="down")


def _read(b: Builder, x: Var, across: Var, down: Var, out: str) -> Var:
    """x at points between its pixels."""
    batch, _, height, width = x.shape
    both = [
        b.reshape(b.broadcast_to(one, shape=(batch, height, width)), shape=(batch, height, width, 1))
        for one in (across, down)
    ]
    return b.grid_sample(x, b.concat(*both, axis=3, out="grid"), outside="border", out=out)  # type: ignore[no-any-return]


_CROP = ("area", "ratio", "left", "top", "mirror", "jitter", "brightness", "contrast", "saturation", "grey")
WAYS: dict[View, _Way] = {
    "turned": _Way((Draw("turns", "integers", {"high": 4}),), turned),
    "cropped": _Way(tuple(Draw(name, "uniform") for name in _CROP), cropped),
}
