"""A classifier of vectors.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks._mlp import Mlp, flat
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class MlpClassifier(Mlp):
    """Logits f32[B, K] of samples of any shape, by a multilayer perceptron; without `widths`, a softmax classifier."""

    kind: Literal["mlp_classifier"]
    condition_width: None = Field(None, description="always null: it predicts the class")
    conditions: tuple[str, ...] | None = Field((), description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "mlp_classifier", "widths": [8]}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_labels(self.kind, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {"size": self.size(spec), **self.static(spec), "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self), ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: MlpClassifier) -> BlockBody:
    @module_class("MlpClassifier")
    def forward(b: Builder, x: Var, *, size: int, classes: int, **static: Any) -> Var:
        """Logits of the classes of x."""
        h = config.hidden(b, flat(b, x, size), static)
        return dense(b, "output", h, classes, True, config.weights, out="logits")

    return forward
