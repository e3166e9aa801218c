"""Multi-scale residual binary spherical quantisation as a bottleneck.

A file of its own because its codes are the encoder's output itself: a model of the bits needs it in training, to find
the bits that correct others.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B, TensorType, f32
from latentc.systems.infinity.bits import BitScales

SMALLEST = 1e-12
"""Smallest length that a vector is divided by."""


class MultiScaleBits(Bottleneck):
    """Each scale takes the signs of the mean residual over its areas, divided by sqrt(Z), and adds their bilinear
    enlargement to the latents (Infinity, Han et al. 2024, arXiv:2412.04431, after BSQ, Zhao et al. 2024,
    arXiv:2406.07548).

    `encode` returns the encoder's output before this, and `decode` takes sums of such maps. Gradients pass to the unit
    vectors of which signs are taken. The penalty is a mean over the scales.
    """

    kind: Literal["multi_scale_bits"]
    channels: int = Field(gt=0, le=1_024, description="bits of a position (Z)")
    scales: tuple[Size, ...] = Field(
        min_length=1, max_length=64, description="sides of the maps; the last is that of the latents"
    )
    commitment: float = Field(
        0.0, ge=0, description="weight of the squared distance between unit vectors and their codes"
    )
    entropy: float = Field(
        0.0,
        ge=0,
        description="weight of the entropy of each bit, sigmoid(4 z / sqrt(Z)) for a number z of a unit vector, less "
        "that of its mean over batch and positions, in nats per position",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "multi_scale_bits",
        "channels": 4,
        "scales": [1, 2, 4],
        "commitment": 0.25,
        "entropy": 0.1,
    }

    @property
    def square(self) -> int | None:
        return self.scales[-1]

    def of_scales(self) -> BitScales:
        """The parts that scales share."""
        return BitScales(self.scales, self.channels)

    @property
    def coded(self) -> int:
        return 2

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return Gaussian(kind="gaussian", channels=self.channels, variational=False).codes(b, h, static)

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        return codes

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        scales, found = self.of_scales(), None
        for k in range(len(self.scales)):
            rest = h if found is None else b.op("sub", h, found, out="rest")
            added = scales.enlarged(b, scales.signs(b, scales.shrunk(b, rest, k)), k)
            found = added if found is None else b.add(found, added, out="found")
        assert found is not None
        return found

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        scales, found, rest, penalties = self.of_scales(), None, h, []
        for k in range(len(self.scales)):
            x = scales.shrunk(b, rest, k)
            length = b.sqrt(b.maximum(b.sum(x * x, axes=(1,), keepdims=True), SMALLEST**2), out="length")
            unit = b.div(x, length, out="unit")
            codes = scales.signs(b, x)
            penalties.append(self._penalty(b, unit, codes))
            added = scales.enlarged(b, unit + b.stop_gradient(codes - unit), k)
            found = added if found is None else b.add(found, added, out="found")
            rest = b.op("sub", rest, b.stop_gradient(added), out="rest")
        assert found is not None
        return found, b.mul(summed(b, "penalty", penalties), 1 / len(penalties), out="penalty")

    def _penalty(self, b: Builder, unit: Var, codes: Var) -> Var:
        """f32[B]: of unit vectors f32[B, Z, n, n] and their codes."""
        pull = unit - codes
        penalty = b.mean(pull * pull * self.commitment, axes=(1, 2, 3), keepdims=False, out="penalty")
        if not self.entropy:
            return penalty
        p = b.sigmoid(unit * (4 / self.channels**0.5), out="p")
        each = b.mean(b.sum(_entropy(b, p), axes=(1,), keepdims=False), axes=(1, 2), keepdims=False, out="each")
        mean = b.mean(p, axes=(0, 2, 3), keepdims=False, out="mean")
        of_mean = b.sum(_entropy(b, mean), axes=(0,), keepdims=False, out="of_mean")
        return b.add(penalty, (each - of_mean) * self.entropy, out="penalty")

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return f32(B, self.channels, rows, columns)


def _entropy(b: Builder, p: Var) -> Var:
    """The entropy in nats of bits that are 1 with probability p, which is far from 0 and 1."""
    q = b.op("sub", 1.0, p)
    return b.neg(p * b.log(p) + q * b.log(q), out="entropy")
