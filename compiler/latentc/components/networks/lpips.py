"""A perceptual distance: differences of the features of a classifier, weighted by channel.

A network of its own, as no other has the layers of VGG-16, whose weights it takes from a file and does not train.
Symbols: B batch, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.frames import as_images
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of VGG-16 (Simonyan and Zisserman 2014, arXiv:1409.1556) up to its last feature map."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
EPS = 1e-10
"""Added to the length of a feature vector."""


class Lpips(Backbone):
    """LPIPS with VGG-16 (Zhang et al. 2018, arXiv:1801.03924).

    Takes x and y f32[B, 3, H, W] in [-1, 1]; returns their distance f32[B]: at five depths, the squared difference of
    per-pixel features normalised to length 1, weighted by channel and averaged over pixels. Single-channel images are
    treated as grey. The distance of video f32[B, 3, F, H, W] is the mean over frames.
    """

    kind: Literal["lpips"]
    frozen: bool | None = Field(True, description="always true: its weights come from the `pretrained` file")
    width: int = Field(64, gt=0, le=1_024, description="channels of its first stage (VGG-16: 64)")
    resize: int | None = Field(
        None,
        gt=0,
        le=4_096,
        description="size to which images are first resized, bilinearly (Song et al. 2023, arXiv:2303.01469: 224 for "
        "smaller images); null: not resized",
    )
    pooling: Literal["max", "average"] = Field(
        "max", description="pooling between stages; average: as in consistency models"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"compare"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "lpips", "width": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4) or shape[0] not in (1, 3):
            yield Problem((), f"lpips compares images of 1 or 3 channels, but the data has {spec.data.words}")
        elif any((self.resize or side) % 16 for side in shape[-2:]):
            rows, columns = (self.resize or side for side in shape[-2:])
            message = f"images of {rows} by {columns} pixels cannot be halved four times"
            yield Problem((), message, "use sides that are multiples of 16, or set `resize`")
        if not self.frozen:
            yield Problem(("frozen",), "lpips has fixed weights, so it cannot be trained", "leave `frozen` out")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        of = f32(B, *spec.data.shape)
        ports = [Port("x", of, "state"), Port("y", of, "state")]
        body = _forward(len(spec.data.shape) == 4, self.resize, self.pooling)
        forward = add_method(mb, name, "forward", body, ports, {"width": self.width})
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward(video: bool, side: int | None, pooling: str) -> BlockBody:
    of = "B C F H W" if video else "B C H W"

    @module_class("Lpips", x=of, y=of)
    def forward(b: Builder, x: Var, y: Var, *, width: int) -> Var:
        """The distance [B] of images x and y [B, 3, H, W], or of video."""
        images = x.shape[0] if x.type.rank == 4 else x.shape[0] * int(x.shape[2])
        both = as_images(b, b.concat(x, y, axis=0, out="both"), "both")
        both = both if side is None else b.resize(both, size=side, mode="bilinear", out="both")
        shift, scale = (
            b.constant([[[v]] for v in values], "f32", out=n) for n, values in (("shift", SHIFT), ("scale", SCALE))
        )
        h = b.div(both - shift, scale, out="h")
        total: Var | None = None
        for i, (channels, count) in enumerate(STAGES):
            features = width * (channels // STAGES[0][0])
            if i:
                h = b.max_pool(h, size=2, out="h") if pooling == "max" else b.avg_pool(h, size=2, out="h")
            for j in range(count):
                h = b.relu(layers.conv(b, f"stages.{i}.{j}", h, features, 3, "linear_default", out="h"), out="h")
            length = b.sqrt(b.sum(h * h, axes=(1,), keepdims=True), out="length")
            of_x, of_y = b.split(b.div(h, length + EPS), axis=0, sizes=(images, images), out="of_x of_y")
            difference = b.op("sub", of_x, of_y, out="difference")
            weight = b.param(f"weights.{i}", f32(1, features, 1, 1), "ones")
            term = b.sum(difference * difference * weight, axes=(1,), keepdims=False)
            term = b.mean(term, axes=(1, 2), keepdims=False, out="term")
            total = term if total is None else b.add(total, term, out="total")
        assert total is not None
        if video:
            frames = b.reshape(total, shape=(x.shape[0], x.shape[2]), out="frames")
            total = b.mean(frames, axes=(1,), keepdims=False, out="total")
        return total

    return forward
