"""An array that samplers carry from one evaluation of a network to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Condition, Form
from latentc.components.contract import Port
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc_runtime.sources import Condition as Requested

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Carried(Condition):
    """An array of the state's shape computed by the objective and the sampler, such as the velocity that a network
    corrects. It enters as channels concatenated to the state. Neither data nor requests provide it, and it is never
    dropped.
    """

    kind: Literal["carried"]
    field: None = Field(None, description="computed, not read from the data")
    dropout: float = Field(0.0, ge=0, le=0, description="never dropped")
    FORMS: ClassVar[tuple[Form, ...]] = ("map", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "carried"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None:
            yield Problem(
                (), f"condition `{name}` has the shape of the sampler's state, but the data has {spec.data.words}"
            )

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, *(spec.data.shape or ())), "condition"),)

    def inputs(self, name: str, spec: Spec) -> tuple[()]:
        return ()

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        return operands

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        return ()

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        return operands[0]
