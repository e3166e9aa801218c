"""VQGAN+'s discriminator: a score per patch of an image, whose resolution is halved after a blur.

Not `patch_discriminator`: its convolutions keep the resolution, norms are over groups, and a head of its own scores.
Symbols: B batch, C channels.
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
from latentc.components.networks._gan import Blur, blurred, with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

INIT, SLOPE, EPS = "linear_default", 0.1, 1e-5


class BlurredDiscriminator(Backbone):
    """Scores each patch of an image as in VQGAN+ and MaskBit (Weber et al. 2024, arXiv:2409.16211).

    Takes x f32[B, C, H, W]; returns `score` f32[B, 1, h, w], or for video x f32[B, C, F, H, W] f32[B F, 1, h, w], frame
    by frame. A 5 x 5 convolution, then `depth` times a 3 x 3 convolution, downsampling by 2, group norm and leaky ReLU,
    doubling the channels each time but the first; 1 x 1 and 5 x 5 convolutions compute the scores.
    """

    kind: Literal["blurred_discriminator"]
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution")
    depth: int = Field(3, gt=0, le=12, description="number of times the resolution is halved")
    blur: Blur | None = Field(
        4, description="kernel size of the blur before downsampling; null: means of 2 x 2 pixels instead"
    )
    groups: int = Field(32, gt=0, le=1_024, description="groups of each GroupNorm")
    side: int = Field(16, gt=0, le=1_024, description="largest side of the score map: larger maps are max-pooled")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "blurred_discriminator", "width": 8, "depth": 2, "groups": 4}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4):
            message = f"a {self.kind} takes images [C, H, W] or video, but the data has {spec.data.words}"
            yield Problem((), message)
        elif any(size % 2**self.depth for size in shape[-2:]):
            message = f"{self.depth} halvings need sides that are multiples of {2**self.depth}, not {shape[-2:]}"
            yield Problem(("depth",), message)
        else:
            for size in shape[-2:]:
                left = size // 2**self.depth
                if left > self.side and left % self.side:
                    message = f"feature maps have a side of {left}, which cannot be pooled to {self.side}"
                    yield Problem(("side",), message, f"choose a divisor of {left}")
        if self.width % self.groups:
            message = f"{self.width} channels do not divide into {self.groups} groups"
            yield Problem(("width",), message, "change `width` or `groups`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        static = {"channels": spec.data.shape[0], "width": self.width}
        body = _forward(self, len(spec.data.shape) == 4)
        forward = add_method(mb, name, "forward", body, [x], static)
        methods = with_averages(mb, name, spec, "BlurredDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": self.depth})


@cache
def _forward(config: BlurredDiscriminator, video: bool) -> BlockBody:
    block = _block(config.blur, config.groups)

    @module_class("BlurredDiscriminator", x="B channels F H W" if video else "B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, width: int) -> Var:
        """A score for each patch of images x [B, C, H, W], or of every frame."""
        h = layers.conv(b, "conv_in", as_images(b, x), width, 5, INIT, out="h")
        h = b.leaky_relu(h, slope=SLOPE, out="h")
        for i in range(config.depth):
            h = b.sub(f"blocks.{i}", block, h, out="h", channels=h.shape[1], features=2**i * width)
        pools = tuple(max(int(size) // config.side, 1) for size in h.shape[2:])
        if pools != (1, 1):
            h = b.max_pool(h, size=pools, out="h")
        h = b.leaky_relu(layers.conv(b, "conv_out", h, h.shape[1], 1, INIT, out="h"), slope=SLOPE, out="h")
        return layers.conv(b, "score", h, 1, 5, INIT, out="score")

    return forward


@cache
def _block(blur: Blur | None, groups: int) -> BlockBody:
    """Images f32[B, channels, H, W] -> f32[B, features, H / 2, W / 2]."""

    @module_class("BlurredBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """A convolution, half the resolution after a blur, and a norm."""
        h = layers.conv(b, "conv", x, features, 3, INIT, out="h")
        h = b.avg_pool(h, size=2, out="h") if blur is None else blurred(b, h, blur)
        return b.leaky_relu(layers.group_norm(b, "norm", h, groups, EPS, out="h"), slope=SLOPE, out="h")

    return forward
