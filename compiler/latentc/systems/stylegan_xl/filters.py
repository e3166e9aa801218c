"""Low-pass filters of alias-free layers, and the layers' rates, bands and sizes (Karras et al. 2021, arXiv:2106.12423).

Frequencies are in cycles per image side, rates in samples per side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TAPS = 6
"""Length of a filter, in samples of its lower rate."""
FIRST_CUTOFF, FIRST_STOPBAND, LAST_STOPBAND = 2.0, 2**2.1, 2**0.3
"""Band of the first layer, and the last layer's stopband as a multiple of its cutoff."""


@dataclass(frozen=True)
class Band:
    """A layer's output: the rate, the cutoff and half the width of the transition band, side and channels."""

    rate: int
    cutoff: float
    half_width: float
    side: int
    channels: int


@dataclass(frozen=True)
class LayerPlan:
    """A layer from one band to another. `critical`: sampled at twice the cutoff; `last` makes the image."""

    before: Band
    after: Band
    critical: bool
    last: bool


def plans(
    layers: Sequence[int],
    sides: Sequence[int],
    channels: int,
    base: float,
    most: int,
    critical: int,
    margin: int,
) -> list[LayerPlan]:
    """The layers of a generator of images of `channels`, stage by stage.

    Stage i makes images of `sides[i]` with `layers[i]` layers and one that makes the image. The critically sampled
    layers of all stages but the last are left out, as further stages replace them (section 3.3, progressive growing).
    """
    found: list[LayerPlan] = []
    for stage, (count, side) in enumerate(zip(layers, sides, strict=True)):
        if stage:
            found = [plan for plan in found if not plan.critical]
        bands = _bands(found[-1].after if found else None, count, side, channels, base, most, critical, margin)
        found += [
            LayerPlan(bands[max(i - 1, 0)], band, i >= count - critical, i == count) for i, band in enumerate(bands)
        ]
    return found


def _bands(
    before: Band | None, count: int, side: int, channels: int, base: float, most: int, critical: int, margin: int
) -> list[Band]:
    """Those of the layers of one stage, which goes on from `before`."""
    first, stop = (
        (FIRST_CUTOFF, FIRST_STOPBAND) if before is None else (before.cutoff, before.cutoff + before.half_width)
    )
    exponents = np.minimum(np.arange(count + 1) / (count - critical), 1.0)
    cutoffs = first * (side / 2 / first) ** exponents
    stopbands = stop * (side / 2 * LAST_STOPBAND / stop) ** exponents
    rates = np.exp2(np.ceil(np.log2(np.minimum(stopbands * 2, side))))
    if before is not None:
        rates[0] = before.rate
    half_widths = np.maximum(stopbands, rates / 2) - cutoffs
    sizes = rates + 2 * margin
    sizes[-2:] = side
    widths = np.rint(np.minimum(base / 2 / cutoffs, most))
    if before is not None:
        widths[0] = before.channels
    widths[-1] = channels
    return [
        Band(int(rate), float(cutoff), float(half), int(size), int(width))
        for rate, cutoff, half, size, width in zip(rates, cutoffs, half_widths, sizes, widths, strict=True)
    ]


def low_pass(taps: int, cutoff: float, width: float, rate: float) -> Array:
    """f64[taps]: a windowed sinc filter that sums to 1, by Kaiser's window."""
    place = np.arange(taps) - (taps - 1) / 2
    taper = _kaiser(taps, width, rate)
    taps_of = np.sinc(2 * cutoff / rate * place) * taper
    return np.asarray(taps_of / taps_of.sum())


def radial_low_pass(taps: int, cutoff: float, width: float, rate: float) -> Array:
    """f64[taps, taps]: the same without a preferred direction, by a jinc filter; `taps` is even."""
    place = (np.arange(taps) - (taps - 1) / 2) / rate
    radius = np.hypot(*np.meshgrid(place, place))
    taper = _kaiser(taps, width, rate)
    taps_of = _bessel(2 * cutoff * math.pi * radius) / (math.pi * radius) * np.outer(taper, taper)
    return np.asarray(taps_of / taps_of.sum())


def _kaiser(taps: int, width: float, rate: float) -> Array:
    """The window for a transition band of this width (Kaiser's rule for the attenuation in dB)."""
    attenuation = 2.285 * (taps - 1) * math.pi * (2 * width / rate) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return np.kaiser(taps, beta)


def _bessel(x: Array) -> Array:
    """The Bessel function J1, by its integral over half a period; the midpoint rule is exact to rounding."""
    angle = (np.arange(256) + 0.5) * (math.pi / 256)
    return np.asarray(np.cos(angle - x[..., None] * np.sin(angle)).mean(-1))
