"""A classifier of features by those of class names, and the generator of features of classes without images.

Symbols: B batch, D features, K known classes, M new ones, N neighbours, Q and S lengths of sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B

INIT = "linear_default"
FAR = 1e9  # subtracted from a class's likeness to itself, so that it is no neighbour of its own


class ClassExtrapolator(Backbone):
    """Scores features f32[B, D] by their cosine to the features of class names, and makes features of new classes.

    The generator attends from the name of a class to the names and features of its `neighbours` and adds a multilayer
    perceptron of the name. Features of known classes are drawn between their mean and one standard deviation above it.
    """

    kind: Literal["class_extrapolator"]
    new: int = Field(gt=0, le=1_000_000, description="number of new classes, which the data has no samples of")
    neighbours: int = Field(3, gt=0, le=1_024, description="known or new classes that a class is related to")
    heads: int = Field(4, gt=0, le=1_024, description="attention heads of the generator")
    scale: float = Field(100.0, gt=0, description="factor of cosines in logits; CLIP's, after training, is 100")
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify", "extrapolate_classes"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "class_extrapolator", "new": 3, "neighbours": 2, "heads": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_labels(self.kind, spec)
        if spec.data.shape is None or len(spec.data.shape) != 1:
            yield Problem((), f"a {self.kind} takes features [D], but the data has {spec.data.words}")
            return
        if spec.data.shape[0] % self.heads:
            message = f"{self.heads} heads cannot share {spec.data.shape[0]} features evenly"
            yield Problem(("heads",), message, "use a divisor of the number of features")
        least = min(classes_of(spec) - 1, self.new)
        if self.neighbours > least and classes_of(spec):
            message = f"{self.neighbours} neighbours, but {classes_of(spec)} known and {self.new} new classes"
            yield Problem(("neighbours",), message, f"use at most {least}")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        (width,), classes, static = spec.data.shape, classes_of(spec), self.static(spec)
        x, y = Port("x", f32(B, width), "state"), Port("y", i64(B), "token", classes)
        u = Port("u", f32(B, width), "noise", distribution="uniform")
        forward = add_method(mb, name, "forward", _classify(self), (x,), static, ("logits",))
        made = Port("y", i64(B), "token", self.new)
        extrapolate = add_method(mb, name, "extrapolate", _extrapolate(self), (made, u), static)
        roles: tuple[Role, ...] = ("logits",) * 4 + ("token",) * 2 + ("output",) * 4
        reconstruct = add_method(mb, name, "reconstruct", _reconstruct(self), (x, y, u), static, roles)
        methods = {"forward": forward, "extrapolate": extrapolate, "reconstruct": reconstruct}
        return Network(name, methods, self.PROVIDES)

    def static(self, spec: Spec) -> dict[str, int]:
        """Static arguments of its methods."""
        assert spec.data.shape is not None
        return {"width": spec.data.shape[0], "known": classes_of(spec), "new": self.new}

    def names(self, b: Builder, static: dict[str, Any]) -> tuple[Var, Var]:
        """Unit features of the names of known classes f32[K, D] and of new ones f32[M, D]."""
        found = []
        for which in ("known", "new"):
            own = b.param(f"names.{which}", f32(static[which], static["width"]), "normal", std=1.0)
            found.append(unit(b, own, f"of_{which}"))
        return found[0], found[1]

    def statistics(self, b: Builder, static: dict[str, Any]) -> tuple[Var, Var]:
        """Mean and standard deviation f32[K, D] of the features of known classes."""
        shape = f32(static["known"], static["width"])
        return b.param("features.mean", shape, "zeros", "state"), b.param("features.std", shape, "ones", "state")

    def generated(self, b: Builder, name: Var, others: Var, features: Var, width: int, out: str) -> Var:
        """Unit features f32[B, Q, D] of names f32[B, Q, D], from other names and features f32[B, S, D]."""
        return b.sub("generator", _generator(self.heads), name, others, features, width=width, out=out)


def unit(b: Builder, x: Var, out: str) -> Var:
    """x divided by its Euclidean norm over the last axis."""
    squared = b.sum(x * x, axes=(x.type.rank - 1,), keepdims=True, out="squared")
    return b.div(x, b.sqrt(squared), out=out)


def _one(b: Builder, x: Var) -> Var:
    """x [B, D] as a sequence of one, [B, 1, D]."""
    return b.reshape(x, shape=(x.shape[0], 1, x.shape[1]))


@cache
def _classify(config: ClassExtrapolator) -> BlockBody:
    @module_class("ClassExtrapolator", x="B width")
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Logits of the known classes, then of the new ones, of features x."""
        of_all = b.concat(*config.names(b, static), axis=0, out="of_all")
        return b.mul(b.linear(unit(b, x, "x"), of_all), config.scale, out="logits")

    return forward


@cache
def _extrapolate(config: ClassExtrapolator) -> BlockBody:
    @module_class("ClassExtrapolator", "extrapolate")
    def extrapolate(b: Builder, y: Var, u: Var, **static: Any) -> Var:
        """A feature of each new class y, from the known classes whose names are most like its own."""
        known, new = config.names(b, static)
        mean, std = config.statistics(b, static)
        name = b.take(new, y, axis=0, out="name")
        _, closest = b.top_k(b.linear(name, known), k=config.neighbours, out="likeness closest")
        features = b.take(mean, closest, axis=0) + _one(b, u) * b.take(std, closest, axis=0)
        others = b.take(known, closest, axis=0, out="others")
        made = config.generated(b, _one(b, name), others, features, static["width"], "made")
        return b.reshape(made, shape=name.shape, out="made")

    return extrapolate


@cache
def _reconstruct(config: ClassExtrapolator) -> BlockBody:
    @module_class("ClassExtrapolator", "reconstruct", x="B width")
    def reconstruct(b: Builder, x: Var, y: Var, u: Var, **static: Any) -> tuple[Var, ...]:
        """Logits of features x of classes y and of three kinds of made ones, the labels and the made features."""
        known, new = config.names(b, static)
        mean, std = config.statistics(b, static)
        x, count, width, near = unit(b, x, "x"), static["known"], static["width"], config.neighbours
        # Neighbours by the means of images, of which no class is its own.
        places = b.arange(count)
        own = b.cast(b.equal(b.reshape(places, shape=(count, 1)), places), to="f32", out="own")
        _, closest = b.top_k(b.linear(mean, mean) - own * FAR, k=near, out="likeness closest")
        known_labels = b.take(closest, y, axis=0, out="known_labels")
        fixed = b.stop_gradient(known, out="fixed")
        name = b.take(fixed, y, axis=0, out="name")
        others = b.take(fixed, known_labels, axis=0, out="others")
        spread = b.mul(_one(b, u), b.take(std, known_labels, axis=0), out="spread")
        features = b.add(b.take(mean, known_labels, axis=0), spread, out="features")
        one = config.generated(b, _one(b, name), others, features, width, "one")
        same = b.reshape(one, shape=x.shape, out="same")
        around = config.generated(b, others, _one(b, name), _one(b, x), width, "around")
        _, new_labels = b.top_k(b.linear(name, new), k=near, out="likeness new_labels")
        beyond = config.generated(b, b.take(new, new_labels, axis=0), _one(b, name), _one(b, x), width, "beyond")
        logits = [
            b.mul(b.linear(made, of), config.scale, out=out)
            for made, of, out in (
                (x, known, "logits"),
                (same, known, "logits_same"),
                (around, known, "logits_around"),
                (beyond, new, "logits_beyond"),
            )
        ]
        return (*logits, known_labels, new_labels, same, around, beyond, features)

    return reconstruct


@cache
def _generator(heads: int) -> BlockBody:
    @module_class("FeatureGenerator", name="B Q width", others="B S width", features="B S width")
    def forward(b: Builder, name: Var, others: Var, features: Var, *, width: int) -> Var:
        """Attention from names to those of other classes, whose values are their features, plus an MLP of the names."""
        shape = f32(3 * width, width)
        weights = b.split(b.param("attn.in_proj.weight", shape, "xavier_uniform"), axis=0, sizes=(width,) * 3)
        biases = b.split(b.param("attn.in_proj.bias", f32(3 * width), "zeros"), axis=0, sizes=(width,) * 3)
        q, k, v = (
            split_heads(b, b.linear(one, weight, bias, out=out), heads, width // heads, out)
            for one, weight, bias, out in zip((name, others, features), weights, biases, "qkv", strict=True)
        )
        attended = joined_heads(
            b, b.attention(q, k, v, causal=False, scale=None, out="attended"), width, out="attended"
        )
        attended = dense(b, "attn.proj", attended, width, True, INIT, out="attended")
        h = b.relu(dense(b, "mlp.0", name, width, True, INIT, out="h"), out="h")
        h = dense(b, "mlp.1", h, width, True, INIT, out="h")
        return unit(b, b.add(h, attended, out="sum"), "made")

    return forward
