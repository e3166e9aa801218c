"""Fields and checks shared by generators and discriminators of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.unet.layers import binomial
from latentc.components.capabilities import Role
from latentc.components.contract import Method, Port
from latentc.components.layers import EPS
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class

Blur = Literal[3, 4, 5]
"""Sides of the kernels that discriminators blur by."""
ConditionKind = Literal["class", "vector"]
"""A condition of a network: the class i64[B], a vector f32[B, D]."""
SLICED = (
    "additional output `sliced`, the score as a function of the last layer's direction alone, which the term `slicing` "
    "trains (SAN)"
)
"""Description of the field of discriminators."""


def problems_of_class(network: Backbone, spec: Spec, vectors: int = 0) -> Iterator[Problem]:
    """Its conditions are the class, as an index, and at most so many vectors."""
    taken = "the class" if not vectors else "the class and one vector"
    yield from problems_of_index(network, spec)
    for name, condition in network.takes(spec).items():
        ports = condition.ports(name, spec)
        vector = len(ports) == 1 and ports[0].type.is_float and ports[0].type.rank == 2
        if name == "class":
            continue
        if not vector or vectors == 0:
            message = f"a {network.kind} takes only {taken}, not condition `{name}`"
            yield Problem(("conditions",), message, "list its conditions: `conditions: [class]`, or `[]` for none")
        else:
            vectors -= 1


def problems_of_index(network: Backbone, spec: Spec) -> Iterator[Problem]:
    """The class, if it takes one, is an index, as objectives draw it."""
    condition = network.takes(spec).get("class")
    if condition is not None and condition.ports("class", spec)[0].type.is_float:
        message = f"a {network.kind} takes the class as an index, but `conditioning.class` gives a vector"
        yield Problem((), message, "write `conditioning.class: {kind: label, dropout: 0}`")


def problems_of_dropping(network: Backbone, spec: Spec) -> Iterator[Problem]:
    """Its conditions are never dropped, since nothing makes samples without them."""
    for name, condition in network.takes(spec).items():
        if condition.nullable:
            message = f"a {network.kind} always knows the {name}, but `conditioning.{name}` is dropped in training"
            yield Problem((), message, f"set `conditioning.{name}.dropout: 0`")


def with_averages(
    mb: ModuleBuilder, name: str, spec: Spec, of_class: str, forward: Method, static: Mapping[str, Any]
) -> dict[str, Method]:
    """The methods of a discriminator: `forward`, and `averages` of its scores, if the objective asks for them."""
    decay = asked(spec, name, "averages")
    if decay is None:
        return {"forward": forward}
    ports = [Port(side, forward.outputs[0].type, "state") for side in ("real", "fake")]
    body = _averages(of_class, decay)
    averages = add_method(mb, name, "averages", body, ports, static, ("output", "output"))
    return {"forward": forward, "averages": averages}


def predicted_augmentations(spec: Spec) -> tuple[tuple[str, int], ...]:
    """(name, number of parameters) of the augmentations that the discriminator must predict."""
    return asked(spec, "discriminator", "augmentations", ())


def augmentation_heads(
    mb: ModuleBuilder,
    name: str,
    of_class: str,
    heads: tuple[tuple[str, int], ...],
    features: Port,
    static: Any,
    **how: Any,
) -> Method:
    """Method `augmentations` of a discriminator: linear heads [B, P] of the difference of its features [B, D]."""
    body = _augmentations(of_class, heads, **how)
    ports = [Port("difference", features.type, "state")]
    roles: list[Role] = ["output" for _ in heads]
    return add_method(mb, name, "augmentations", body, ports, static, roles)


@cache
def _augmentations(
    of_class: str, heads: tuple[tuple[str, int], ...], multiplier: int, init: str, spectral: bool
) -> BlockBody:
    @module_class(of_class, "augmentations")
    def augmentations(b: Builder, difference: Var, *, width: int, **static: Any) -> Any:
        """Parameters of augmentations, by the difference of features of augmented and original images."""
        size = multiplier * width
        params = [layers.linear_params(b, f"augmented.{kind}", size, count, init, spectral) for kind, count in heads]
        found = tuple(b.linear(difference, *two, out=kind) for two, (kind, _) in zip(params, heads, strict=True))
        return found if len(found) > 1 else found[0]

    return augmentations


@cache
def _averages(of_class: str, decay: float) -> BlockBody:
    @module_class(of_class, "averages")
    def averages(b: Builder, real: Var, fake: Var, **static: Any) -> tuple[Var, ...]:
        """Averages [1] of earlier scores of data and of samples, which training then moves towards these."""
        kept = {name: b.param(f"average_of_{name}", f32(1), "zeros", "state") for name in ("real", "fake")}
        return tuple(
            b.running_mean(score, kept[name], momentum=decay, out=f"{name}_average")
            for name, score in (("real", real), ("fake", fake))
        )

    return averages


def sliced(b: Builder, h: Var, weight: Var, bias: Var) -> tuple[Var, Var]:
    """The score [B, 1] of features h [B, D], split by what its gradients reach, as SAN trains it.

    The weight f32[B, D] or f32[1, D] is a direction of unit length times a scale, which multiplies the features. The
    gradient of the score reaches the scale and the features; that of `sliced`, equal but for the bias, the direction.
    """
    squared = b.sum(weight * weight, axes=(1,), keepdims=True, out="squared")
    length = b.maximum(b.sqrt(squared), EPS, out="length")
    direction, scaled = b.div(weight, length, out="direction"), b.mul(h, length, out="scaled")
    product = b.sum(scaled * b.stop_gradient(direction, out="fixed"), axes=(1,), keepdims=True, out="product")
    along = b.stop_gradient(scaled, out="fixed_features") * direction
    return b.add(product, bias, out="score"), b.sum(along, axes=(1,), keepdims=True, out="sliced")


def blurred(b: Builder, x: Var, side: Blur, out: str = "h") -> Var:
    """Every second pixel f32[B, C, H / 2, W / 2] of x f32[B, C, H, W], blurred by a binomial kernel."""
    weight = binomial(b, x, 1.0, side)
    if side % 2:  # one more pixel below and to the right
        for axis in (2, 3):
            x = b.pad(x, axis=axis, before=0, after=1, value=0.0, out="padded")
    return b.conv(x, weight, stride=2, padding=(side - 2) // 2, groups=x.shape[1], out=out)
