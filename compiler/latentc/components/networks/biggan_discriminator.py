"""BigGAN's discriminator: residual blocks that halve the image, spectral norms, a projection of the class.

Symbols: B batch, C channels of the image, D channels of a block, S side.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.self_attention_2d import self_attention_2d
from latentc.components.contract import Capability, Network, Port
from latentc.components.parts import Backbone, Form, Problem, add_method, ports_of
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class BigganDiscriminator(Backbone):
    """Scores how far an image is data of its class (BigGAN, Brock et al. 2019, arXiv:1809.11096).

    Takes x f32[B, C, S, S], y i64[B]; returns scores f32[B, 1]: a linear layer plus the class embedding's projection
    (Miyato and Koyama 2018, arXiv:1802.05637) of the last block's sum over pixels.
    """

    kind: Literal["biggan_discriminator"]
    width: int = Field(gt=0, description="channels that the multipliers multiply (96 in the paper)")
    multipliers: tuple[int, ...] = Field(min_length=1, description="channels of each block's output, over `width`")
    halvings: int = Field(ge=0, description="how many blocks, from the first on, halve the side of their feature map")
    attention: tuple[int, ...] = Field((), description="sides of feature maps that self-attention follows")
    weights: Literal["orthogonal", "normal"] = Field("orthogonal", description="how weights start")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    CLASS: ClassVar[bool] = True
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "biggan_discriminator",
        "width": 16,
        "multipliers": [1, 2],
        "halvings": 1,
        "attention": [4],
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a biggan_discriminator takes arrays [C, H, W], but the data has {spec.data.words}")
            return
        yield from self.problems_of_conditions(spec)
        _, side, columns = spec.data.shape
        if side != columns:
            yield Problem((), f"a biggan_discriminator takes square inputs, not {side} by {columns}")
            return
        if self.halvings > len(self.multipliers):
            yield Problem(("halvings",), f"{self.halvings} blocks cannot halve: there are {len(self.multipliers)}")
            return
        if side % 2**self.halvings:
            most = max(n for n in range(self.halvings) if side % 2**n == 0)
            message = f"a side of {side} cannot be halved {self.halvings} times"
            yield Problem(("halvings",), message, f"{most} times is most")
            return
        sides = self.sides(side)
        for i, wanted in enumerate(self.attention):
            widths = [m * self.width for m, found in zip(self.multipliers, sides, strict=True) if found == wanted]
            if not widths:
                message = f"no block makes feature maps of {wanted} by {wanted}"
                yield Problem(("attention", i), message, f"they are of {', '.join(map(str, dict.fromkeys(sides)))}")
            elif wanted % 2:
                yield Problem(("attention", i), f"self-attention pools squares of two, which do not tile {wanted}")
            elif any(width % 8 for width in widths):
                yield Problem(("attention", i), "self-attention divides its channels by 8", "choose another `width`")

    def sides(self, side: int) -> list[int]:
        """Sides of the feature maps that the blocks make of images of this side."""
        return [side >> min(i + 1, self.halvings) for i in range(len(self.multipliers))]

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        static = {"channels": channels, "width": self.width, **self.condition_sizes(spec)}
        ports = (Port("x", f32(B, channels, side, side), "state"), *ports_of(self.entries(spec)))
        forward = add_method(mb, name, "forward", _network(self, side), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: BigganDiscriminator, side: int) -> BlockBody:
    attention, sides = self_attention_2d(config.weights, True), config.sides(side)

    @module_class("Discriminator", x="B channels H W")
    def forward(b: Builder, x: Var, y: Var, *, channels: int, width: int, classes: int) -> Var:
        """Scores how far images x are data of class y."""
        for i, multiplier in enumerate(config.multipliers):
            block = _block(i > 0, i < config.halvings, config.weights)
            features = multiplier * width
            x = b.sub(f"blocks.{i}", block, x, channels=x.shape[1], features=features)
            if sides[i] in config.attention:
                x = b.sub(f"attention.{i}", attention, x, channels=features)
        h = b.sum(b.relu(x), axes=(2, 3), keepdims=False, out="h")
        score = layers.linear(b, "linear", h, 1, config.weights, spectral=True, out="score")
        projected = (
            layers.embedding(b, "embed", y, classes, h.shape[1], config.weights, spectral=True, out="embedded") * h
        )
        return score + b.sum(projected, axes=(1,), keepdims=True, out="projection")

    return forward


@cache
def _block(activates: bool, halves: bool, init: str) -> BlockBody:
    """A residual block; the first of a network (`activates` false) starts without a ReLU."""

    @module_class("FirstBlock" if not activates else "DownBlock" if halves else "FlatBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """Two convolutions beside a shortcut; down blocks, and most first ones, halve the side."""
        h = b.relu(x, out="h") if activates else x
        h = layers.conv(b, "conv1", h, features, 3, init, spectral=True, out="h")
        h = layers.conv(b, "conv2", b.relu(h), features, 3, init, spectral=True, out="h")
        if halves:
            h = b.avg_pool(h, size=2, out="h")
        if halves and not activates:
            x = b.avg_pool(x, size=2, out="x")
        if halves or int(channels) != int(features):
            x = layers.conv(b, "conv_sc", x, features, 1, init, spectral=True, out="x")
        if halves and activates:
            x = b.avg_pool(x, size=2, out="x")
        return h + x  # type: ignore[no-any-return]

    return forward
