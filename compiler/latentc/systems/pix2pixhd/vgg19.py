"""VGG-19 up to its last stage, whose features pix2pixHD compares.

Not `lpips`, a distance of its own with the weights of VGG-16. Symbols: B batch, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

STAGES = ((1, 2), (2, 2), (4, 4), (8, 4), (8, 1))
"""Channels as a multiple of the width, and convolutions, of each stage."""


class Vgg19(Backbone):
    """Features of x f32[B, 3, H, W] after the first ReLU of each of VGG-19's five stages (Simonyan and Zisserman 2014,
    arXiv:1409.1556).
    """

    kind: Literal["vgg19"]
    frozen: bool | None = Field(True, description="always true: its weights come from the `pretrained` file")
    width: int = Field(64, gt=0, le=1_024, description="channels of its first stage (VGG-19: 64)")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"perceive"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vgg19", "width": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[0] != 3:
            yield Problem((), f"a {self.kind} sees images [3, H, W], but the data has {spec.data.words}")
        elif any(side % 16 for side in shape[1:]):
            message = f"images of {shape[1]} by {shape[2]} pixels cannot be halved four times"
            yield Problem((), message, "use sides that are multiples of 16")
        if not self.frozen:
            yield Problem(("frozen",), f"a {self.kind} has fixed weights, so it cannot be trained", "leave it out")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        ports, roles = [Port("x", f32(B, *spec.data.shape), "state")], list[Role](["output"] * len(STAGES))
        forward = add_method(mb, name, "forward", _forward, ports, {"width": self.width}, roles)
        return Network(name, {"forward": forward}, self.PROVIDES)


@module_class("Vgg19", x="B C H W")
def _forward(b: Builder, x: Var, *, width: int) -> tuple[Var, ...]:
    """Features of x after the first ReLU of each stage."""
    h, found, number = x, list[Var](), 0
    for stage, (multiple, count) in enumerate(STAGES):
        h = b.max_pool(h, size=2, out="h") if stage else h
        for place in range(count):
            h = b.relu(layers.conv(b, f"convs.{number}", h, multiple * width, 3, "linear_default", out="h"), out="h")
            number += 1
            if not place:
                found.append(h)
    return tuple(found)
