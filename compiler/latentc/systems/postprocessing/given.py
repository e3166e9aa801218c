"""A flow from a condition itself to the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.coupling import Coupling
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var


class Given(Coupling):
    """x0 = condition + std noise, for an array of the data's shape, such as another model's sample to be corrected.

    If the condition has a prior, one program draws that sample and corrects it (the flow-matching postprocessing of
    Zhao and Schwing 2025, arXiv:2503.10638).
    """

    kind: Literal["given"]
    condition: str = Field("generated", description="condition that the path starts from")
    std: float = Field(0.05, gt=0, description="standard deviation of the noise, in units of the data")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "given"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        found = list(super().problems(spec))
        yield from found
        if found or spec.data.shape is None:
            return
        ports = spec.conditions[self.condition].ports(self.condition, spec)
        shape = [tuple(map(int, port.type.shape[1:])) for port in ports if port.type.is_float]  # type: ignore[arg-type]
        if shape != [spec.data.shape]:
            message = f"condition `{self.condition}` is not an array of the data's shape {list(spec.data.shape)}"
            yield Problem(("condition",), message, f"use `conditioning.{self.condition}: {{kind: map}}`")

    def base(self, b: Builder, noise: Var, operands: Mapping[str, Var]) -> Var:
        return weighted_sum(b, "base", (1.0, operands[self.condition]), (self.std, noise))
