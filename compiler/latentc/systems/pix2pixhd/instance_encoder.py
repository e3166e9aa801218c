"""The feature encoder of pix2pixHD, by which one map gets several looks.

Symbols: B batch, C channels of the image, F features, H rows, W columns, K instances, P pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.labels import one_hot
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.pix2pixhd.generators import trunk
from latentc.systems.pix2pixhd.parts import reflected_conv


class InstanceEncoder(Backbone):
    """Features f32[B, F, H, W] of images x and their instances i64[B, H, W], the same for all pixels of an instance
    (pix2pixHD, Wang et al. 2018, arXiv:1711.11585, section 3.4).

    For a condition `kind: encoded, form: map` of the generator; it is trained with it.
    """

    kind: Literal["instance_encoder"]
    width: int = Field(16, gt=0, le=65_536, description="channels of the first convolution, doubled at each level")
    depth: int = Field(4, gt=0, le=12, description="number of convolutions that halve the sides")
    features: int = Field(3, gt=0, le=1_024, description="number of features (F)")
    instances: str = Field("instances", description="data field with the number of the instance of each pixel")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "instance_encoder", "width": 4, "depth": 1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, factor, field = spec.data.shape, 1 << self.depth, spec.data.fields.get(self.instances)
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif any(side % factor or side < max(2 * factor, 4) for side in shape[1:]):
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {self.depth} times, to at least 2"
            yield Problem(("depth",), message, "use fewer")
        if field is None or not field.classes or shape is None or field.shape != shape[1:]:
            message = f"`{self.instances}` is no map of instances, one for each pixel of an image"
            yield Problem(("instances",), message, f"give the data a field `{self.instances}` [H, W] with `classes`")
        yield from self.problems_of_conditions(spec)

    def _ports(self, spec: Spec) -> tuple[Port, ...]:
        shape, field = spec.data.shape, spec.data.fields.get(self.instances)
        if shape is None or field is None or len(shape) != 3:  # which `problems` refuses
            shape, classes = (0, 0, 0), 0
        else:
            classes = field.classes or 0
        return (
            Port("x", f32(B, *shape), "state"),
            Port(self.instances, i64(B, *shape[1:]), "state", classes),
        )

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        ports = self._ports(spec)
        return ports, f32(B, self.features, *ports[0].type.shape[2:])

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        ports = self._ports(spec)
        static = {
            "channels": ports[0].type.shape[1],
            "width": self.width,
            "features": self.features,
            "instances": ports[1].values,
        }
        encode = add_method(mb, name, "encode", _encode(self.depth), ports, static)
        return Network(name, {"encode": encode}, self.PROVIDES, sizes={"depth": self.depth})


@cache
def _encode(depth: int) -> BlockBody:
    body = trunk(depth, 0)

    @module_class("InstanceEncoder", "encode", x="B channels H W")
    def encode(b: Builder, x: Var, *maps: Var, channels: int, width: int, features: int, instances: int) -> Var:
        """Features of images x, averaged over the pixels of each instance."""
        h = b.sub("trunk", body, x, out="h", width=width, maps=channels)
        h = b.tanh(reflected_conv(b, "leave", h, features, 7), out="h")
        batch, _, rows, columns = h.shape
        pixels = rows * columns
        inside = b.reshape(one_hot(b, maps[0], instances, "hot"), shape=(batch, instances, pixels), out="inside")
        h = b.reshape(h, shape=(batch, features, pixels), out="h")
        total = b.matmul(h, b.transpose(inside, perm=(0, 2, 1)), out="total")
        count = b.maximum(b.reshape(b.sum(inside, axes=(2,), keepdims=False), shape=(batch, 1, instances)), 1.0)
        means = b.matmul(b.div(total, count, out="means"), inside, out="h")
        return b.reshape(means, shape=(batch, features, rows, columns), out="h")  # type: ignore[no-any-return]

    return encode
