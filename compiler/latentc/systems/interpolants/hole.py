"""A flow that fills a hole of an image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.coupling import Coupling
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.systems.interpolants.masked_image import MaskedImage


class Hole(Coupling):
    """x0 is the image where it is known, and noise in the hole: inpainting (Albergo et al. 2023, section 4.1).

    The velocity is 0 where the image is known.
    """

    kind: Literal["hole"]
    condition: str = Field("known", description="name of the condition of kind `masked_image`")
    std: float = Field(1.0, gt=0, description="standard deviation of the noise in the hole")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "hole"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not isinstance(spec.conditions.get(self.condition, None), MaskedImage | None):
            message = f"condition `{self.condition}` is not a masked image"
            yield Problem(("condition",), message, f"use `conditioning.{self.condition}: {{kind: masked_image}}`")

    def base(self, b: Builder, noise: Var, operands: Mapping[str, Var]) -> Var:
        hole = self._hole(b, operands)
        image = operands[self.condition]  # 0 in the hole
        return weighted_sum(b, "base", (1.0, image), (self.std, b.op("mul", hole, noise, out="filling")))

    def confined(self, b: Builder, velocity: Var, operands: Mapping[str, Var]) -> Var:
        return b.op("mul", self._hole(b, operands), velocity, out=velocity.value.name)

    def _hole(self, b: Builder, operands: Mapping[str, Var]) -> Var:
        """f32[B, 1, H, W]: 1 in the hole."""
        return b.op("sub", 1.0, operands[f"{self.condition}_mask"], out="hole")
