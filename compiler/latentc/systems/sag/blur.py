"""Blur guidance: away from the prediction at a state whose data is blurred.

Symbols: B batch, C channels, H and W sides of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance.guidance import Contrast, ContrastTerm
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var

if TYPE_CHECKING:
    from latentc.components.samplers.guided import Predictions


class BlurredGuidance(ContrastTerm):
    """Adds (scale - 1) (p - q): q is the same network's prediction where the data in the state is blurred."""

    OF_SCORE: ClassVar[bool] = True
    METHOD: ClassVar[str | None] = None
    """The network's method by which p is made; None: `forward`."""

    sigma: float = Field(
        1.0, gt=0, le=64, description="standard deviation of the Gaussian blur, in pixels of the state"
    )
    kernel: int = Field(9, gt=0, le=255, description="kernel size of the blur in pixels, odd")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
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

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        absent, name = frozenset(self.absent), self.INPUT.removesuffix("_scale")

        def pair(e: Predictions) -> tuple[Var, Var]:
            better, *others = e.outputs(absent)
            x, data = e.data(better)
            state = e.b.add(x, self.blur(e.b, data, others), out="blurred_x")
            return better, e(absent, state=state, at=name)

        method = None if self.METHOD is None else (absent, self.METHOD)
        return Contrast(pair, self.channels, of_data=True, method=method)

    def blur(self, b: Builder, data: Var, others: Sequence[Var]) -> Var:
        """The change of the data [B, C, H, W] by the blur: one product along the columns, one along the rows.

        `others` are the outputs of `METHOD` besides the prediction.
        """
        rows, columns = (int(d) for d in data.shape[2:])
        down = b.constant(blur_matrix(rows, self.sigma, self.kernel), out="blur_rows")
        across = b.constant(blur_matrix(columns, self.sigma, self.kernel).T, out="blur_columns")
        smooth = b.matmul(b.matmul(down, data, out="blurred"), across, out="blurred")
        return b.op("sub", smooth, data, out="change")


class BlurGuidance(BlurredGuidance):
    """Adds (scale - 1) (p - q), with q computed after blurring all of the predicted data (Hong et al. 2023,
    arXiv:2210.00939, 4.1). It needs neither a condition nor condition dropout. The paper's s is scale - 1.
    """

    SETTING: ClassVar[str] = "blur_guidance"
    INPUT: ClassVar[str] = "blur_scale"

    kind: Literal["blur"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "blur", "scale": 1.5, "kernel": 3}


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
