"""Parts that generators and discriminators of self-conditioned GANs share.

A class enters a generator as an embedding beside the noise, and chooses one of the discriminator's linear scores.
Symbols: B batch, K classes, D features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.unet.layers import separable
from latentc.components.capabilities import Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_class, problems_of_dropping
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

INIT = "linear_default"  # as torch.nn initialises convolutions and linear layers
Multipliers = tuple[Size, ...]


class OfImages(Backbone):
    """A network of square images whose sides double from level to level."""

    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `channel_multipliers`")
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    @abstractmethod
    def doublings(self) -> int:
        """How many times the side of the last feature map is doubled."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} needs images [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            times = 2 ** self.doublings()
            if height != width or height % times:
                message = f"images of {height} by {width} are no squares whose side {times} divides"
                yield Problem(("channel_multipliers",), message, "give as many multipliers as the side allows")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)
        yield from problems_of_dropping(self, spec)

    def first_side(self, spec: Spec) -> int:
        """The side of the smallest feature map."""
        assert spec.data.shape is not None
        return spec.data.shape[1] // 2 ** self.doublings()


class Generator(OfImages):
    """Makes f32[B, C, S, S] between -1 and 1 out of z f32[B, Z] and, if the spec has one, a class y i64[B].

    The embedding of the class has length 1.
    """

    channel_multipliers: Multipliers
    """Channels of each feature map from the smallest to the largest, as a multiple of `width`."""
    latent_dim: int = Field(gt=0, le=65_536, description="dimension of the latent z (Z)")
    embedding: int = Field(256, gt=0, le=65_536, description="dimension of the class embedding beside z")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "width": 4,
        "channel_multipliers": [2, 1],
        "latent_dim": 6,
        "embedding": 5,
    }

    def doublings(self) -> int:
        return len(self.channel_multipliers) - 1

    @abstractmethod
    def decoder(self, b: Builder, h: Var, width: Any, channels: Any, side: int) -> Var:
        """The image, of z and the embedding h f32[B, Z + E]; the smallest feature map has this side."""

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries, side = self.entries(spec), self.first_side(spec)
        static = {"latent_dim": self.latent_dim, **self.condition_sizes(spec)}
        static |= {"embedding": self.embedding} if entries else {}
        static |= {"width": self.width, "channels": spec.data.shape[0]}
        ports = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        forward = add_method(mb, name, "forward", self._body(side, bool(entries)), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, self.counts())

    def counts(self) -> dict[str, int]:
        """Numbers for name maps."""
        return {"levels": self.doublings()}

    def _body(self, side: int, labelled: bool) -> BlockBody:
        @module_class("Generator", z="B latent_dim")
        def forward(b: Builder, z: Var, *given: Var, width: int, channels: int, **sizes: Any) -> Var:
            """Makes images out of noise z."""
            h = z
            if labelled:
                rows, dim = sizes["classes"], sizes["embedding"]
                c = layers.embedding(b, "embedding", given[0], rows, dim, "unit_normal", out="c")
                length = b.sqrt(b.sum(c * c, axes=(1,), keepdims=True, out="squared"), out="length")
                h = b.concat(z, b.div(c, length, out="c"), axis=1, out="h")
            return self.decoder(b, h, width, channels, side)

        return forward


class Discriminator(OfImages):
    """Scores how realistic x f32[B, C, S, S] is: f32[B, 1], for a class y i64[B] by the weights of that class."""

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate", "describe"})
    TRAINING_ONLY: ClassVar[bool] = True

    @abstractmethod
    def encoder(self, b: Builder, x: Var, width: Any) -> Var:
        """The last feature map of images x, after its activation."""

    @abstractmethod
    def last(self) -> int:
        """Channels of the last feature map, as a multiple of `width`."""

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("score",)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries, state = self.entries(spec), Port("x", f32(B, *spec.data.shape), "state")
        static = {"channels": spec.data.shape[0], "width": self.width, **self.condition_sizes(spec)}
        side = self.first_side(spec)
        body, features = self._bodies(side, bool(entries))
        forward = add_method(mb, name, "forward", body, (state, *ports_of(entries)), static)
        described = add_method(mb, name, "features", features, (state,), static)
        return Network(name, {"forward": forward, "features": described}, self.PROVIDES, self.counts())

    def counts(self) -> dict[str, int]:
        """Numbers for name maps."""
        return {"levels": self.doublings()}

    def _bodies(self, side: int, labelled: bool) -> tuple[BlockBody, BlockBody]:
        """Methods `forward` and `features`."""

        def described(b: Builder, x: Var, width: Any) -> Var:
            size = self.last() * width * side**2
            return b.reshape(self.encoder(b, x, width), shape=(x.shape[0], size), out="features")

        @module_class("Discriminator", x="B channels H W")
        def forward(b: Builder, x: Var, *given: Var, channels: int, width: int, **sizes: Any) -> Var:
            """Scores how much images x look like data of a class."""
            h = described(b, x, width)
            if not labelled:
                return layers.linear(b, "score", h, 1, INIT, out="score")
            scores = layers.linear(b, "score", h, sizes["classes"], INIT, out="scores")
            return b.take_along(scores, b.reshape(given[0], shape=(x.shape[0], 1)), axis=1, out="score")

        @module_class("Discriminator", "features", x="B channels H W")
        def features(b: Builder, x: Var, *, channels: int, width: int, **sizes: Any) -> Var:
            """The features of images x that the scores are linear in."""
            return described(b, x, width)

        return forward, features


def halved(b: Builder, x: Var) -> Var:
    """Means of overlapping 3 x 3 pixels, every second one, with zeros around: f32[B, C, H / 2, W / 2]."""
    weight = separable(b, x, (1.0, 1.0, 1.0), 1.0)
    return b.conv(x, weight, stride=2, padding=1, groups=x.shape[1], out="x")
