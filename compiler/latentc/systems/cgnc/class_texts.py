"""Features of a text about each class.

Symbols: B batch, E features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_classifier import classes_of
from latentc.components.parts import Problem, Spec, table
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, TensorType


class ClassTexts(Backbone):
    """A table of one feature f32[E] per class: of class y i64[B], f32[B, E].

    CGNC (arXiv:2407.10179) has those of CLIP's ViT-B/16 for "a photo of a NAME", of unit length, in the weight `table`
    of `pretrained`. Without a file the features are trained with the other networks.
    """

    kind: Literal["class_texts"]
    width: int = Field(512, gt=0, le=65_536, description="number of features per class (E)")
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it encodes the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_texts", "width": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not classes_of(spec):
            yield Problem((), f"a {self.kind} encodes classes, but the data has none", "add `data.classes`")

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        return (Port("y", i64(B), "state", classes_of(spec)),), f32(B, self.width)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        ports, _ = self.encoding(spec)
        static = {"classes": classes_of(spec), "width": self.width}
        return Network(name, {"encode": add_method(mb, name, "encode", _encode, ports, static)}, self.PROVIDES)


@module_class("ClassTexts", "encode")
def _encode(b: Builder, y: Var, *, classes: int, width: int) -> Var:
    """Features of a text about class y."""
    return b.embedding(table(b, "table", classes, width, "unit_normal"), y, out="text")  # type: ignore[no-any-return]
