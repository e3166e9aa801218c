"""A discriminator of residual blocks that blur, as StyleGAN2 has it: MaskGIT's, ViTok's and LlamaGen's.

Not `resnet_discriminator`, whose blocks have their ReLU first and pool what is left: here blocks blur before they halve
the resolution, and two linear layers read what is left. Symbols: B batch, C channels, S side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.frames import as_images
from latentc.components.networks._gan import SLICED, Blur, blurred, sliced, with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

SLOPE, LAST = 0.2, 4
"""Slope of the leaky ReLU, and side of the feature map that linear layers read."""


class StyleDiscriminator(Backbone):
    """Scores an image with StyleGAN2's discriminator (Karras et al. 2020, arXiv:1912.04958) in a simplified form.

    Takes x f32[B, C, S, S]; returns `score` f32[B, 1], or for video x f32[B, C, F, S, S] f32[B F, 1], frame by frame.
    Without equalised weights and minibatch standard deviation, as used by tokenizers (MaskGIT, Chang et al. 2022,
    arXiv:2202.04200; ViTok, Hansen-Estruch et al. 2025, arXiv:2501.09755; LlamaGen, Sun et al. 2024, arXiv:2406.06525).
    """

    kind: Literal["style_discriminator"]
    channel_base: int = Field(
        16_384, gt=0, le=1_048_576, description="channels of a feature map times its side, if below the maximum"
    )
    channel_max: int = Field(512, gt=0, le=65_536, description="maximum number of channels")
    blur: Blur | None = Field(
        4, description="kernel size of the blur before downsampling; null: means of 2 x 2 pixels instead"
    )
    sliced: bool = Field(False, description=SLICED)
    INIT: ClassVar[str] = "xavier"
    """How its layers start."""
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "style_discriminator", "channel_base": 64, "channel_max": 8}

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("score", "sliced") if self.sliced else ("score",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4) or shape[-1] != shape[-2]:
            message = f"a {self.kind} takes square images [C, S, S] or video, but the data has {spec.data.words}"
            yield Problem((), message)
        elif shape[-1] < LAST or shape[-1] & (shape[-1] - 1):
            yield Problem((), f"a {self.kind} takes sides that are powers of 2 of at least {LAST}, not {shape[-1]}")
        elif self.channel_base < shape[-1]:
            message = f"`channel_base: {self.channel_base}` leaves no channels at a side of {shape[-1]}"
            yield Problem(("channel_base",), message)
        yield from self.problems_of_conditions(spec)

    def block(self) -> BlockBody:
        """A block f32[B, channels, H, W] -> f32[B, features, H / 2, W / 2]."""
        return halving_block(self.blur)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        sides = [spec.data.shape[-1]]
        while sides[-1] > LAST:
            sides.append(sides[-1] // 2)
        channels = tuple(min(self.channel_base // side, self.channel_max) for side in sides)
        static = {"channels": spec.data.shape[0]}
        body = _forward(channels, self.block(), self.INIT, len(spec.data.shape) == 4, self.sliced)
        roles = ("output",) * len(self.outputs(spec))
        forward = add_method(mb, name, "forward", body, [x], static, roles)  # type: ignore[arg-type]
        methods = with_averages(mb, name, spec, "StyleDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": len(channels) - 1})


@cache
def _forward(widths: tuple[int, ...], block: BlockBody, init: str, video: bool, slices: bool) -> BlockBody:
    @module_class("StyleDiscriminator", x="B channels F H W" if video else "B channels H W")
    def forward(b: Builder, x: Var, *, channels: int) -> Any:
        """The score [B, 1] of images x [B, C, S, S], or of every frame."""
        h = layers.conv(b, "conv_in", as_images(b, x), widths[0], 3, init, out="h")
        h = b.leaky_relu(h, slope=SLOPE, out="h")
        for i, features in enumerate(widths[1:]):
            h = b.sub(f"blocks.{i}", block, h, out="h", channels=h.shape[1], features=features)
        h = b.leaky_relu(layers.conv(b, "conv_out", h, widths[-1], 3, init, out="h"), slope=SLOPE, out="h")
        flat = b.reshape(h, shape=(h.shape[0], widths[-1] * LAST * LAST), out="flat")
        h = b.leaky_relu(layers.linear(b, "hidden", flat, widths[-1], init, out="h"), slope=SLOPE, out="h")
        if slices:
            return sliced(b, h, *layers.linear_params(b, "score", widths[-1], 1, init))
        return layers.linear(b, "score", h, 1, init, out="score")

    return forward


@cache
def halving_block(blur: Blur | None, widens_first: bool = False) -> BlockBody:
    """Images f32[B, channels, H, W] -> f32[B, features, H / 2, W / 2].

    Its second convolution widens them, or the first.
    """
    init = StyleDiscriminator.INIT

    def halved(b: Builder, x: Var, out: str) -> Var:
        return b.avg_pool(x, size=2, out=out) if blur is None else blurred(b, x, blur, out)

    @module_class("StyleDiscriminatorBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """A residual block that halves the resolution after a blur."""
        first = features if widens_first else channels
        h = b.leaky_relu(layers.conv(b, "conv1", x, first, 3, init, out="h"), slope=SLOPE, out="h")
        h = layers.conv(b, "conv2", halved(b, h, "h"), features, 3, init, out="h")
        h = b.leaky_relu(h, slope=SLOPE, out="h")
        shortcut = layers.conv(b, "shortcut", halved(b, x, "x"), features, 1, init, bias=False, out="shortcut")
        return b.mul(b.add(shortcut, h), 1 / math.sqrt(2), out="h")

    return forward
