"""Convolutions that compress a sample to a vector: the encoder of the PixelCNN auto-encoder.

A file of its own, the way back of `deconvolution.py`: other networks that encode samples return maps.

Symbols: B batch, C channels and H, W sides of the sample, D size of the vector.
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
from latentc.components.layers import conv
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType


class Convolution(Backbone):
    """Encodes samples x f32[B, C, H, W] as a vector f32[B, D]. 4 x 4 convolutions with ReLUs halve the sides, then a
    linear layer outputs the vector (van den Oord et al. 2016, arXiv:1606.05328, section 2.4).
    """

    kind: Literal["convolution"]
    size: int = Field(gt=0, le=65_536, description="dimension of the vector (D)")
    widths: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="channels of the feature maps, largest map first"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    TAKES: ClassVar[tuple[Form, ...]] = ()
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "convolution", "size": 3, "widths": [4, 4]}

    @property
    def factor(self) -> int:
        """How much smaller the last map's sides are than those of the sample."""
        return 1 << len(self.widths)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a convolution takes samples [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % self.factor or shape[2] % self.factor:
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {len(self.widths)} times"
            yield Problem(("widths",), message, "use fewer")

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        shape = spec.data.shape if spec.data.shape is not None and len(spec.data.shape) == 3 else (1, 1, 1)
        return (Port("x", f32(B, *shape), "state"),), f32(B, self.size)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        ports, _ = self.encoding(spec)
        static = {"channels": ports[0].type.shape[1], "size": self.size}
        return Network(name, {"encode": add_method(mb, name, "encode", _network(self), ports, static)}, self.PROVIDES)


@cache
def _network(config: Convolution) -> BlockBody:
    @module_class("Convolution", "encode", x="B channels H W")
    def encode(b: Builder, x: Var, *, channels: int, size: int) -> Var:
        """The vector of a sample x."""
        for i, features in enumerate(config.widths):
            x = b.relu(conv(b, f"layers.{i}", x, features, 4, "xavier_relu", stride=2), out="x")
        x = b.reshape(x, shape=(x.shape[0], x.shape[1] * x.shape[2] * x.shape[3]), out="x")
        return dense(b, "leave", x, size, True, "xavier", out="z")

    return encode
