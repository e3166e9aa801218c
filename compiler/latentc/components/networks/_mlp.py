"""Shared by multilayer perceptrons of vectors and small images: hidden layers, and how conditions join.

Symbols: B batch, D numbers of a sample, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone
from latentc.components.condition import Entry, Form, with_operands
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import Builder, Var

SLOPE = 0.2  # of leaky ReLUs

Widths = Annotated[tuple[Size, ...], Field(max_length=64)]


class Mlp(Backbone):
    """Fields of networks that join a vector with conditions and pass it through hidden layers."""

    widths: Widths = Field(description="widths of the hidden layers")
    condition_width: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="width of a layer of its own of each condition, before they join; null: vectors join as they are",
    )
    activation: Literal["relu", "leaky_relu"] = Field(
        "relu", description="nonlinearity of hidden layers; leaky_relu has slope 0.2"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout after every hidden layer")
    weights: Literal["linear_default", "normal", "xavier"] = Field(
        "linear_default", description="initialisation of the layers; linear_default: as PyTorch's; normal: std 0.02"
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None:
            yield Problem((), f"a {self.kind} is of arrays, but the data has {spec.data.words}")
        yield from self.problems_of_conditions(spec)
        for name, condition in self.takes(spec).items():
            ports = condition.ports(name, spec)
            if self.condition_width is None and not (len(ports) == 1 and ports[0].type.is_float):
                message = f"condition `{name}` is no vector that could join as it is"
                yield Problem(("condition_width",), message, "give `condition_width`")

    def size(self, spec: Spec) -> int:
        """D: numbers of a sample."""
        assert spec.data.shape is not None
        return math.prod(spec.data.shape)

    def static(self, spec: Spec) -> dict[str, Any]:
        """Static arguments of `joined` and `hidden`."""
        own = {f"width_{i}": width for i, width in enumerate(self.widths, 1)}
        if self.condition_width is not None and self.takes(spec):
            own["condition_width"] = self.condition_width
        return {**own, **self.condition_sizes(spec)}

    def layer(self, b: Builder, name: str, x: Var, width: Any, static: dict[str, Any]) -> Var:
        """A hidden layer of x f32[B, C]: f32[B, width]."""
        return self.active(b, dense(b, name, x, width, True, self.weights, out="h"))

    def active(self, b: Builder, h: Var) -> Var:
        """The nonlinearity and dropout of a hidden layer."""
        h = b.relu(h, out="h") if self.activation == "relu" else b.leaky_relu(h, slope=SLOPE, out="h")
        return b.dropout(h, p=self.dropout, out="h") if self.dropout else h

    def joined(
        self, b: Builder, x: Var, entries: tuple[Entry, ...], operands: Sequence[Var], static: dict[str, Any]
    ) -> Var:
        """x f32[B, C] and the conditions after it, each by a layer of its own if there is a `condition_width`."""
        parts = [x]
        for entry, own in with_operands(entries, operands):
            if self.condition_width is None:
                parts.append(own[0])
            else:
                parts.append(self.active(b, self.embedded(b, entry, own, static)))
        return b.concat(*parts, axis=1, out="h") if len(parts) > 1 else x

    def embedded(self, b: Builder, entry: Entry, operands: tuple[Var, ...], static: dict[str, Any]) -> Var:
        """The layer of a condition before its nonlinearity: f32[B, condition_width]."""
        return entry.vector(b, entry.prefix, operands, static["condition_width"], static)

    def hidden(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """The hidden layers."""
        for i in range(len(self.widths)):
            h = self.layer(b, f"hidden.{i}", h, static[f"width_{i + 1}"], static)
        return h


def flat(b: Builder, x: Var, size: Any) -> Var:
    """Samples x [B, ...] as vectors f32[B, size]."""
    return x if x.type.rank == 2 else b.reshape(x, shape=(x.shape[0], size), out="h")
