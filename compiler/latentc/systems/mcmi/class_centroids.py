"""Averages of class probabilities over the samples of each class.

Symbols: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B


class ClassCentroids(Backbone):
    """Centroid of each label i64[B]: the average f32[B, K] of class probabilities f32[B, K] of earlier samples.

    Every pass of training moves the sums of a class's probabilities towards those of its batch; a centroid is their
    share of the whole. At first all centroids are uniform.
    """

    kind: Literal["class_centroids"]
    decay: float = Field(0.99, ge=0, lt=1, description="decay per step of the sums that centroids are computed from")
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it takes labels")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"class_centroids"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_centroids"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_labels(self.kind, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        classes = classes_of(spec)
        ports = (Port("p", f32(B, classes), "state"), Port("y", i64(B), "token", classes))
        forward = add_method(mb, name, "forward", _centroids(self.decay), ports, {"classes": classes})
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _centroids(decay: float) -> BlockBody:
    @module_class("ClassCentroids", p="B classes")
    def forward(b: Builder, p: Var, y: Var, *, classes: int) -> Var:
        """The centroids of labels y, before the probabilities p move them."""
        sums = b.param("sums", f32(classes, classes), "ones", "state")
        same = b.equal(b.reshape(y, shape=(y.shape[0], 1)), b.arange(classes))
        one = b.cast(same, to="f32", out="one")
        now = b.matmul(b.transpose(one, perm=(1, 0)), p, out="now")
        kept = b.running_mean(b.reshape(now, shape=(1, classes, classes)), sums, momentum=decay, out="kept")
        centroids = b.div(kept, b.sum(kept, axes=(1,), keepdims=True), out="centroids")
        return b.take(centroids, y, axis=0, out="of_label")

    return forward
