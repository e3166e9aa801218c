"""Blurring the data in a state, for guidance away from blurred states.

Symbols: B batch, C channels, H and W sides of an image, T tokens of an attention map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field

from latentc.components.guidance.guidance import (
    GuidanceTerm,
    ScheduledGuidance,
    left_out_problems,
    settings_problems,
)
from latentc.components.kit.methods import ATTENTION
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class BlurredGuidance(ScheduledGuidance, GuidanceTerm):
    """Adds (scale - 1) (p - q): q is the same network's prediction where the data in the state is blurred."""

    OF_SCORE: ClassVar[bool] = True

    sigma: float = Field(
        1.0, gt=0, le=64, description="standard deviation of the Gaussian blur, in pixels of the state"
    )
    kernel: int = Field(9, gt=0, le=255, description="kernel size of the blur in pixels, odd")
    absent: tuple[str, ...] = Field((), description="conditions left out of both predictions")

    @property
    def runs(self) -> int:
        return 2 if self.absent else 1

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from settings_problems(self, spec)
        yield from left_out_problems(self.absent, "absent", spec)
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"only images [C, H, W] can be blurred, but the data has {spec.data.words}")
            return
        if self.kernel % 2 == 0:
            message = f"a kernel of {self.kernel} pixels has no centre: it must be odd"
            yield Problem(("kernel",), message, f"set it to {self.kernel + 1}")
        elif self.kernel // 2 >= min(spec.data.shape[1:]):
            most = 2 * min(spec.data.shape[1:]) - 1
            message = (
                f"a kernel of {self.kernel} pixels is too wide to reflect at the border of an image "
                f"of {min(spec.data.shape[1:])}"
            )
            yield Problem(("kernel",), message, f"set it to {most} or less")


@dataclass(frozen=True)
class Blurred:
    """A `Degrade`: the data in the state is blurred, everywhere."""

    METHOD: ClassVar[str] = "forward"
    sigma: float
    kernel: int

    def __call__(self, b: Builder, x: Var, data: Var, shown: Sequence[Var]) -> Var:
        return b.add(x, self.change(b, data), out="blurred_x")  # type: ignore[no-any-return]

    def change(self, b: Builder, data: Var) -> Var:
        """What the blur adds to the data [B, C, H, W]: one product along the columns, one along the rows."""
        rows, columns = (int(d) for d in data.shape[2:])
        down = b.constant(blur_matrix(rows, self.sigma, self.kernel), out="blur_rows")
        across = b.constant(blur_matrix(columns, self.sigma, self.kernel).T, out="blur_columns")
        smooth = b.matmul(b.matmul(down, data, out="blurred"), across, out="blurred")
        return b.op("sub", smooth, data, out="change")  # type: ignore[no-any-return]


@dataclass(frozen=True)
class BlurredWhereAttended(Blurred):
    """A `Degrade`: the data is blurred at the tokens that get more attention than `threshold`."""

    METHOD: ClassVar[str] = ATTENTION
    threshold: float
    softness: float

    def __call__(self, b: Builder, x: Var, data: Var, shown: Sequence[Var]) -> Var:
        (attention,) = shown
        batch, _, height, width = data.shape
        factor = patch_of(int(attention.shape[1]), int(height), int(width))
        rows, columns = int(height) // factor, int(width) // factor
        extra = int(attention.shape[1]) - rows * columns  # tokens of the time and of conditions come first
        if extra:
            attention = b.slice(attention, axis=1, start=extra, stop=extra + rows * columns, out="attention")
        if self.softness:
            mask = b.mul(attention - (self.threshold - self.softness / 2), 1.0 / self.softness, out="mask")
            mask = b.clamp(mask, low=0.0, high=1.0, out="mask")
        else:
            mask = b.cast(b.greater(attention, self.threshold), to="f32", out="mask")
        mask = b.reshape(mask, shape=(batch, 1, rows, columns), out="mask")
        mask = b.upsample_nearest(mask, factor=factor, out="mask") if factor > 1 else mask
        return b.add(x, b.mul(mask, self.change(b, data), out="change"), out="blurred_x")  # type: ignore[no-any-return]


def patch_of(tokens: int, height: int, width: int) -> int:
    """The side in pixels of what one of `tokens` sees: the least power of 2 that leaves no more patches than tokens.

    ValueError: the tokens are no grid of patches of the image.
    """
    factor = 1
    while (height // factor) * (width // factor) > tokens and factor < min(height, width):
        factor *= 2
    if height % factor or width % factor or (height // factor) * (width // factor) > tokens:
        raise ValueError(f"attention over {tokens} tokens is not a map over an image of {height} by {width}")
    return factor


def blur_matrix(size: int, sigma: float, kernel: int) -> np.ndarray:
    """f64[size, size]: a product with it blurs along one axis, mirrored at the ends without repeating the border."""
    reach = kernel // 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for row in range(size):
        for offset, tap in zip(range(-reach, reach + 1), taps, strict=True):
            place = abs(row + offset)
            place = place if place < size else 2 * (size - 1) - place
            matrix[row, place] += tap
    return matrix
