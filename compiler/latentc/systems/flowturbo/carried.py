"""An array that samplers carry from one evaluation of a network to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from latentc.components.condition import Derived, Form
from latentc.components.contract import Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B


class Carried(Derived):
    """An array of the state's shape computed by the objective and the sampler, such as the velocity that a network
    corrects. It enters as channels concatenated to the state. Neither data nor requests provide it, and it is never
    dropped.
    """

    kind: Literal["carried"]
    FORMS: ClassVar[tuple[Form, ...]] = ("map", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "carried"}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None:
            yield Problem(
                (), f"condition `{name}` has the shape of the sampler's state, but the data has {spec.data.words}"
            )

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        return (Port(name, f32(B, *(spec.data.shape or ())), "condition"),)

    def map(self, b: Builder, name: str, operands: tuple[Var, ...], sizes: Mapping[str, Any], side: Any) -> Var:
        return operands[0]
