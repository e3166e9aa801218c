"""A flow from a low-resolution image to the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.low_resolution import LowResolution
from latentc.components.coupling import Coupling
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class Upsampled(Coupling):
    """x0 = U(low resolution) + std noise: super-resolution (Albergo et al. 2023, section 4.2)."""

    kind: Literal["upsampled"]
    condition: str = Field("low", description="name of the condition of kind `low_resolution`")
    std: float = Field(0.2, gt=0, description="standard deviation of the noise, in units of the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "upsampled"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not isinstance(spec.conditions.get(self.condition, None), LowResolution | None):
            message = f"condition `{self.condition}` is not a low-resolution image"
            yield Problem(("condition",), message, f"use `conditioning.{self.condition}: {{kind: low_resolution}}`")

    def base(self, b: Builder, noise: Var, operands: Mapping[str, Var]) -> Var:
        low = operands[self.condition]
        factor = int(noise.shape[2]) // int(low.shape[2])
        return weighted_sum(b, "base", (1.0, b.upsample_nearest(low, factor=factor)), (self.std, noise))
