"""A network that spreads a vector over a map: the deconvolutional network of a location-dependent condition.

A file of its own: other networks that encode return vectors, or begin with a map.

Symbols: B batch, D size of the vector, W channels of the map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Form
from latentc.components.contract import Network, Port
from latentc.components.fields import AxisName
from latentc.components.layers import INITS
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType


class Deconvolution(Backbone):
    """Upsamples a data vector f32[B, D] to a map f32[B, W, H, W] of the samples' size.

    A linear layer outputs the smallest map; 4 x 4 transposed convolutions with ReLUs between them double its sides (van
    den Oord et al. 2016, arXiv:1606.05328, section 2.3).
    """

    kind: Literal["deconvolution"]
    field: AxisName = Field(description="data field of the vector")
    widths: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="channels of the feature maps, smallest map first"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    TAKES: ClassVar[tuple[Form, ...]] = ()
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "deconvolution", "field": "place", "widths": [4, 4]}

    @property
    def factor(self) -> int:
        """How much larger the last map's sides are than those of the first."""
        return 1 << (len(self.widths) - 1)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        field, shape = spec.data.fields.get(self.field), spec.data.shape
        if field is None:
            known = ", ".join(spec.data.fields) or "none"
            yield Problem(("field",), f"the data has no field `{self.field}`", f"fields of the data: {known}")
        elif field.shape is None or len(field.shape) != 1 or field.classes:
            yield Problem(("field",), f"field `{self.field}` is not a vector, as a deconvolution needs")
        if shape is None or len(shape) != 3:
            yield Problem((), f"a deconvolution makes maps [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % self.factor or shape[2] % self.factor:
            message = f"{len(self.widths) - 1} doublings do not lead to {shape[1]} by {shape[2]}"
            yield Problem(("widths",), message, "use fewer `widths`")

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        field, shape = spec.data.fields.get(self.field), spec.data.shape
        size = field.shape if field is not None and field.shape else (1,)
        sides = shape[1:] if shape is not None and len(shape) == 3 else (1, 1)
        return (Port(self.field, f32(B, *size), "state"),), f32(B, self.widths[-1], *sides)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        ports, of = self.encoding(spec)
        height, wide = of.shape[2:]
        static = {"size": ports[0].type.shape[1], "height": height, "width": wide}
        return Network(name, {"encode": add_method(mb, name, "encode", _network(self), ports, static)}, self.PROVIDES)


@cache
def _network(config: Deconvolution) -> BlockBody:
    kind, args = INITS["xavier_relu"]

    @module_class("Deconvolution", "encode", x="B size")
    def encode(b: Builder, x: Var, *, size: int, height: int, width: int) -> Var:
        """The map of a vector x."""
        first, *others = config.widths
        shape = (x.shape[0], first, height // config.factor, width // config.factor)
        x = dense(b, "enter", x, shape[1] * shape[2] * shape[3], True, "xavier")
        x = b.reshape(x, shape=shape, out="x")
        for i, channels in enumerate(others):
            weight = b.param(f"layers.{i}.weight", f32(x.shape[1], channels, 4, 4), kind, **args)
            bias = b.param(f"layers.{i}.bias", f32(channels), "zeros")
            x = b.conv_transpose(b.relu(x, out="x"), weight, bias, stride=2, padding=1, out="x")
        return x

    return encode
