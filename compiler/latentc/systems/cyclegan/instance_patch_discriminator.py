"""The PatchGAN discriminator of CycleGAN.

Not `patch_discriminator`, whose norms have weights and statistics. Symbols: B batch, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.pix2pixhd.parts import conv, normed

SIDE, SLOPE = 4, 0.2
"""Side of every kernel, slope of the leaky ReLUs."""


class InstancePatchDiscriminator(Backbone):
    """Scores each patch of an image (CycleGAN, Zhu et al. 2017, arXiv:1703.10593, section 4).

    Takes x f32[B, C, H, W]; returns `score` f32[B, 1, h, w]. Stride-2 convolutions, then two of stride 1, with leaky
    ReLU and instance norms between them.
    """

    kind: Literal["instance_patch_discriminator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution")
    depth: int = Field(3, gt=0, le=12, description="number of stride-2 convolutions")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "instance_patch_discriminator", "width": 4, "depth": 1}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif min(shape[1:]) >> self.depth < 3:
            message = f"after {self.depth} convolutions of stride 2 fewer than 3 of {min(shape[1:])} pixels are left"
            yield Problem(("depth",), message, "use fewer")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        static = {"channels": spec.data.shape[0], "width": self.width}
        forward = add_method(mb, name, "forward", _forward(self.depth), [x], static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"depth": self.depth})


@cache
def _forward(depth: int) -> BlockBody:
    @module_class("InstancePatchDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, width: int) -> Var:
        """A score for each patch of images x."""
        h = b.leaky_relu(conv(b, "layers.0", x, width, SIDE, stride=2, padding=1), slope=SLOPE, out="h")
        for i in range(1, depth + 1):
            features, stride = min(2**i, 8) * width, 2 if i < depth else 1
            h = normed(b, conv(b, f"layers.{i}", h, features, SIDE, stride=stride, padding=1))
            h = b.leaky_relu(h, slope=SLOPE, out="h")
        return conv(b, f"layers.{depth + 1}", h, 1, SIDE, "score", padding=1)

    return forward
