"""Alignment of a network's features with those of a frozen encoder, which are data fields (REPA), and of predictions.

Symbols: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.backbone import Backbone
from latentc.components.kit import per_sample_mean
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var

LEAST = 1e-8
"""Least length that vectors of a prediction are divided by."""


def feature_problems(spec: Spec, names: tuple[str, ...]) -> Iterator[Problem]:
    """Data fields of features that are not there, or do not fit the projections of `main`."""
    network = spec.networks.get("main")
    shapes = network.feature_shapes(spec) if isinstance(network, Backbone) else ()
    if len(shapes) != len(names):
        message = f"{len(names)} feature fields, but the network has {len(shapes)} feature projections"
        yield Problem(("features",), message, "name one field for each entry of the network's `alignment.features`")
        return
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        field = spec.data.fields.get(name)
        if field is None or field.shape != shape:
            what = "no such field" if field is None else f"of shape {list(field.shape)}"
            message = f"feature field `{name}`: {what}"
            yield Problem(("features", i), message, f"declare `data.fields.{name}: {{shape: {list(shape)}}}`")


def mean_cosine(b: Builder, theirs: Var, ours: Var) -> Var:
    """f32[B]: the cosine between features f32[B, T, C] and ours, its mean over the tokens."""

    def unit(x: Var, out: str) -> Var:
        length = b.sqrt(b.sum(x * x, axes=(2,), keepdims=True), out="length")
        return b.div(x, b.maximum(length, 1e-12), out=out)

    product = b.op("mul", unit(theirs, "theirs"), unit(ours, "ours"), out="product")
    return b.mean(b.sum(product, axes=(2,), keepdims=False), axes=(1,), keepdims=False, out="cosine")


def misdirection(b: Builder, x: Var, y: Var) -> Var:
    """f32[B]: 1 - cosine of the channel vectors [C] of x and y f32[B, C, ...], its mean over the positions."""

    def length(x: Var, out: str) -> Var:
        # Bounded inside the root, which has no derivative at 0, where networks predict when training starts.
        return b.sqrt(b.maximum(b.sum(x * x, axes=(1,), keepdims=True), LEAST**2), out=out)

    lengths = length(x, "length") * length(y, "target_length")
    cosine = b.div(b.sum(x * y, axes=(1,), keepdims=True), lengths, out="cosine")
    return per_sample_mean(b, 1.0 - cosine, out="direction")
