"""The class of students.

Symbols: B batch, N students, F features of all together, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.teacher_class.plain_classifier import INIT, Plain


class StudentClass(Plain):
    """N students of one architecture, each of which predicts F / N of F features, and a linear layer over all of them.

    The features f32[B, F] are those of the students in order; the linear layer computes logits f32[B, K] of their ReLU.
    """

    kind: Literal["student_class"]
    students: int = Field(gt=0, le=256, description="number of students, N")
    features: int = Field(gt=0, le=65_536, description="features of all students together, F; N divides it")
    student_dropout: float = Field(0.3, ge=0, lt=1, description="dropout before the last layer of each student")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "student_class",
        "stages": [[4], [4]],
        "padded": True,
        "students": 2,
        "features": 8,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.features % self.students:
            message = f"{self.students} students cannot share {self.features} features evenly"
            yield Problem(("students",), message, "use a divisor of `features`")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("students", "chunk")  # the last layer's inputs are their product

    def features_seen(self, spec: Spec) -> int | None:
        return self.features

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {**self.sizes(), "students": self.students, "chunk": self.features // self.students}
        static |= {"classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self, False), ports, static, ("logits",))
        see = add_method(mb, name, "see", _network(self, True), ports, static)
        return Network(name, {"forward": forward, "see": see}, self.PROVIDES)


@cache
def _network(config: StudentClass, sees: bool) -> BlockBody:
    @module_class("StudentClass", "see" if sees else "forward", x="B C H W")
    def forward(b: Builder, x: Var, *, students: int, chunk: int, classes: int, **static: Any) -> Var:
        """Logits of the classes of x, or the features that the students predict."""
        chunks = [b.sub(name, _student(config), x, chunk=chunk, **static) for name in items("students", students)]
        x = b.concat(*chunks, axis=1, out="features") if len(chunks) > 1 else chunks[0]
        if sees:
            return x
        x = b.relu(x, out="x")
        x = b.dropout(x, p=config.hidden_dropout, out="x") if config.hidden_dropout else x
        return dense(b, "fc", x, classes, True, INIT, out="logits")

    return forward


@cache
def _student(config: StudentClass) -> BlockBody:
    @module_class("Student", x="B C H W")
    def forward(b: Builder, x: Var, *, chunk: int, **static: Any) -> Var:
        """A chunk of the features of x."""
        return dense(b, "chunk", config.trunk(b, x, static, config.student_dropout), chunk, True, INIT, out="chunk")

    return forward
