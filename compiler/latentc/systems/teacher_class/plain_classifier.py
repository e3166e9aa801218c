"""A convolutional classifier of plain layers, such as the teacher.

Symbols: B batch, C channels, F features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import conv
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

Stage = Annotated[tuple[Size, ...], Field(min_length=1, max_length=16)]
INIT = "xavier"  # Keras's default


class Plain(Backbone):
    """Fields of classifiers of plain convolutions: stages of 3 × 3 convolutions, each followed by max pooling."""

    stages: Annotated[tuple[Stage, ...], Field(min_length=1, max_length=8)] = Field(
        description="channels of the convolutions of each stage, after which the side is halved"
    )
    padded: bool = Field(False, description="convolutions keep the side; false: each shortens it by 2")
    hidden: Annotated[tuple[Size, ...], Field(max_length=16)] = Field(
        (), description="widths of the hidden linear layers after the last stage"
    )
    dropout: float = Field(0.25, ge=0, lt=1, description="dropout after the last stage")
    hidden_dropout: float = Field(0.5, ge=0, lt=1, description="dropout before the last layer")
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify", "see"})

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes images [C, H, W], but the data has {spec.data.words}")
        elif min(self.side(size) for size in spec.data.shape[1:]) < 1:
            message = f"nothing is left of images of {spec.data.shape[1]} × {spec.data.shape[2]} after the stages"
            yield Problem(("stages",), message, "use fewer stages or convolutions, or `padded: true`")
        yield from problems_of_labels(self.kind, spec)

    def side(self, size: int) -> int:
        """The side of the last feature map for images of that side; below 1 if nothing is left."""
        for stage in self.stages:
            size = (size if self.padded else size - 2 * len(stage)) // 2
        return size

    def map_seen(self, spec: Spec) -> tuple[int, ...] | None:
        seen = self.features_seen(spec)
        return None if seen is None else (seen,)

    def sizes(self) -> dict[str, int]:
        """Static arguments of `maps` and `hidden_layers`."""
        found = {f"channels_{i}_{j}": n for i, stage in enumerate(self.stages) for j, n in enumerate(stage)}
        return found | {f"hidden_{i}": n for i, n in enumerate(self.hidden)}

    def trunk(self, b: Builder, x: Var, static: dict[str, Any], dropout: float) -> Var:
        """Stages and hidden layers of x f32[B, C, H, W], and dropout of these: f32[B, F]."""
        for i, stage in enumerate(self.stages):
            for j, _ in enumerate(stage):
                channels = static[f"channels_{i}_{j}"]
                x = conv(b, f"stages.{i}.{j}", x, channels, 3, INIT, padded=self.padded, out="x")
                x = b.relu(x, out="x")
            x = halved(b, x)
        x = b.dropout(x, p=self.dropout, out="x") if self.dropout else x
        x = b.reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]), out="x")
        for i, _ in enumerate(self.hidden):
            x = b.relu(dense(b, f"hidden.{i}", x, static[f"hidden_{i}"], True, INIT, out="x"), out="x")
        return b.dropout(x, p=dropout, out="x") if dropout else x


def halved(b: Builder, x: Var) -> Var:
    """Maxima of squares of 2 × 2 pixels of x [B, C, H, W]; a last row or column of an odd side is left out."""
    height, width = (int(side) // 2 for side in x.shape[2:])
    for axis, side in ((2, height), (3, width)):
        x = x if 2 * side == int(x.shape[axis]) else b.slice(x, axis=axis, start=0, stop=2 * side, out="x")
    squares = b.reshape(x, shape=(x.shape[0], x.shape[1], height, 2, width, 2), out="squares")
    return b.max(squares, axes=(3, 5), keepdims=False, out="x")


class PlainClassifier(Plain):
    """Classifies images by plain convolutions and linear layers: logits f32[B, K].

    Its features f32[B, F] are those of the last hidden layer.
    """

    kind: Literal["plain_classifier"]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "plain_classifier",
        "stages": [[4], [4]],
        "padded": True,
        "hidden": [8],
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not self.hidden:
            yield Problem(("hidden",), "there is no hidden layer that features could be read from", "give its width")

    def features_seen(self, spec: Spec) -> int | None:
        return self.hidden[-1] if self.hidden else None

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {**self.sizes(), "classes": classes_of(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"),)
        forward = add_method(mb, name, "forward", _network(self, False), ports, static, ("logits",))
        see = add_method(mb, name, "see", _network(self, True), ports, static)
        return Network(name, {"forward": forward, "see": see}, self.PROVIDES)


@cache
def _network(config: PlainClassifier, sees: bool) -> BlockBody:
    @module_class("PlainClassifier", "see" if sees else "forward", x="B C H W")
    def forward(b: Builder, x: Var, *, classes: int, **static: Any) -> Var:
        """Logits of the classes of x, or the features that they are computed from."""
        x = config.trunk(b, x, static, 0.0 if sees else config.hidden_dropout)
        return x if sees else dense(b, "fc", x, classes, True, INIT, out="logits")

    return forward
