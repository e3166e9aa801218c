"""The size of a step, embedded by how often it is halved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.conditions.span import Span
from latentc.ir.builder import Builder, Var


class StepSize(Span):
    """The length of a step, d, embedded as log2(1 / d) (Frans et al. 2024, arXiv:2410.12557).

    It is a second time input: losses and samplers supply it. By default it is 1 / `finest`, the least size.
    """

    kind: Literal["step_size"]  # type: ignore[assignment]
    finest: int = Field(128, gt=1, le=65_536, description="steps of the least size from noise to data, a power of two")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "step_size", "finest": 8}

    def vector(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> Var:
        size = b.maximum(operands[0], 1.0 / self.finest, out="size")
        halvings = b.mul(b.log(size, out="log"), -1.0 / math.log(2.0), out="halvings")
        return super().vector(b, prefix, name, (halvings,), width, sizes)
