"""The probabilistic U-Net: one image, many masks.

Symbols: B batch, C channels of a mask, D channels of the image, F channels of features, H and W sides, Z latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

CLASS = "ProbabilisticUnet"


class ProbabilisticUnet(Backbone):
    """A U-Net whose last layers also take latents, and the latents' prior and posterior (Kohl et al. 2018,
    arXiv:1806.05034).

    Images are conditions that enter as maps. Both distributions of the latents f32[B, Z] are normal with diagonal
    covariance, given the image, or the image and a mask from -1 to 1. `decode` gives logits f32[B, C, H, W].
    """

    kind: Literal["probabilistic_unet"]
    widths: tuple[Size, ...] = Field(
        (32, 64, 128, 192), min_length=1, max_length=10, description="channels at each resolution, the highest first"
    )
    convs: int = Field(3, gt=0, le=64, description="number of convolutions at each resolution")
    latent_dim: int = Field(6, gt=0, le=65_536, description="dimension of the latents (Z)")
    combining: int = Field(
        4, gt=1, le=64, description="number of 1 × 1 convolutions that combine features of the image and latents"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"segment"})
    TAKES: ClassVar[tuple[Form, ...]] = ("map",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "probabilistic_unet",
        "widths": [4, 6],
        "convs": 1,
        "latent_dim": 2,
        "combining": 2,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, factor = spec.data.shape, 1 << len(self.widths) - 1
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} makes masks [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % factor or shape[2] % factor:
            message = f"sides of {shape[1]} and {shape[2]} cannot be halved {len(self.widths) - 1} times"
            yield Problem(("widths",), message, f"use fewer widths, or sides that are multiples of {factor}")
        yield from self.problems_of_conditions(spec)
        if not self.takes(spec):
            message = f"a {self.kind} makes masks of images, but takes none"
            yield Problem((), message, "add a condition `kind: map`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        entries = self.entries(spec)
        images, sizes = ports_of(entries), self.condition_sizes(spec)
        static = {"channels": channels, "latent_dim": self.latent_dim, **sizes}
        mask = Port("x", f32(B, channels, height, width), "state")
        features = Port("features", f32(B, self.widths[0], height, width), "state")
        z = Port("z", f32(B, self.latent_dim), "noise")
        bodies = _methods(self.widths, self.convs, self.combining, entries, height)
        two: tuple[Role, ...] = ("output", "output")
        methods = {
            "prior": add_method(mb, name, "prior", bodies["prior"], images, static, two),
            "posterior": add_method(mb, name, "posterior", bodies["posterior"], (mask, *images), static, two),
            "features": add_method(mb, name, "features", bodies["features"], images, static),
            "decode": add_method(mb, name, "decode", bodies["decode"], (features, z), static),
        }
        counts = {"levels": len(self.widths), "convs": self.convs, "combining": self.combining}
        return Network(name, methods, self.PROVIDES, sizes=counts)


def _conv(b: Builder, name: str, x: Var, features: Any, kernel: int = 3, init: str = "kaiming_normal") -> Var:
    return layers.conv(b, name, x, features, kernel, init, out="h")


def _block(b: Builder, x: Var, features: Any, convs: int) -> Var:
    """Convolutions convs.0, convs.1, …, each before a ReLU."""
    for name in items("convs", convs):
        x = b.relu(_conv(b, name, x, features), out="h")
    return x


@cache
def _level(convs: int) -> BlockBody:
    @module_class("Level", x="B channels H W")
    def level(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """Convolutions at one resolution, each before a ReLU."""
        return _block(b, x, features, convs)

    return level


def _levels(b: Builder, name: str, x: Var, widths: tuple[int, ...], convs: int) -> list[Var]:
    """The outputs at all resolutions, each from means of 2 x 2 values of the previous."""
    found = []
    for i, features in enumerate(widths):
        x = b.avg_pool(x, size=2, out="h") if i else x
        x = b.sub(f"{name}.{i}", _level(convs), x, channels=x.shape[1], features=features, out="h")
        found.append(x)
    return found


@cache
def _latents(widths: tuple[int, ...], convs: int) -> BlockBody:
    @module_class("LatentEncoder", x="B channels H W")
    def encoder(b: Builder, x: Var, *, channels: int, latent_dim: int) -> tuple[Var, Var]:
        """Mean and logarithm of the standard deviation of latents."""
        h = _levels(b, "levels", x, widths, convs)[-1]
        h = b.mean(h, axes=(2, 3), keepdims=True, out="h")
        h = b.reshape(_conv(b, "leave", h, 2 * latent_dim, 1), shape=(x.shape[0], 2 * latent_dim), out="moments")
        mean, log_std = b.split(h, axis=1, sizes=(latent_dim, latent_dim), out="mean log_std")
        return mean, log_std

    return encoder


@cache
def _unet(widths: tuple[int, ...], convs: int) -> BlockBody:
    @module_class("Unet", x="B channels H W")
    def unet(b: Builder, x: Var, *, channels: int) -> Var:
        """Features of an image, at its resolution."""
        skips = _levels(b, "down", x, widths, convs)
        h = skips.pop()
        for i, features in enumerate(reversed(widths[:-1])):
            size = tuple(2 * int(side) for side in h.shape[2:])
            h = b.concat(b.resize(h, size=size, mode="aligned", out="up"), skips.pop(), axis=1, out="h")
            h = b.sub(f"up.{i}", _level(convs), h, channels=h.shape[1], features=features, out="h")
        return h

    return unet


@cache
def _combine(combining: int) -> BlockBody:
    @module_class("Combine", x="B width H W", z="B latent_dim")
    def combine(b: Builder, x: Var, z: Var, *, width: int, latent_dim: int, channels: int) -> Var:
        """Logits of a mask, of features of an image and latents."""
        batch, _, height, wide = x.shape
        z = b.reshape(z, shape=(batch, latent_dim, 1, 1), out="z")
        h = b.concat(x, b.broadcast_to(z, shape=(batch, latent_dim, height, wide)), axis=1, out="h")
        for name in items("layers", combining - 1):
            h = b.relu(_conv(b, name, h, width, 1, "orthogonal"), out="h")
        return _conv(b, "leave", h, channels, 1, "orthogonal")

    return combine


@cache
def _methods(
    widths: tuple[int, ...], convs: int, combining: int, entries: tuple[Entry, ...], height: int
) -> dict[str, BlockBody]:
    def joined(b: Builder, operands: tuple[Var, ...], sizes: dict[str, Any], *more: Var) -> Var:
        """The images of all conditions, and more maps after them."""
        maps = [entry.map(b, own, sizes, height) for entry, own in with_operands(entries, operands)]
        return b.concat(*maps, *more, axis=1, out="maps") if len(maps) + len(more) > 1 else maps[0]

    def moments(b: Builder, name: str, x: Var, latent_dim: Any) -> Any:
        body = _latents(widths, convs)
        return b.sub(name, body, x, channels=x.shape[1], latent_dim=latent_dim, out="mean log_std")

    @module_class(CLASS, "prior")
    def prior(b: Builder, *images: Var, latent_dim: int, **sizes: Any) -> Any:
        """Mean and logarithm of the standard deviation of the latents of an image."""
        return moments(b, "prior_net", joined(b, images, sizes), latent_dim)

    @module_class(CLASS, "posterior", x="B channels H W")
    def posterior(b: Builder, x: Var, *images: Var, channels: int, latent_dim: int, **sizes: Any) -> Any:
        """The same of an image and a mask."""
        mask = b.mul(x + 1.0, 0.5, out="mask")
        return moments(b, "posterior_net", joined(b, images, sizes, mask), latent_dim)

    @module_class(CLASS, "features")
    def features(b: Builder, *images: Var, **sizes: Any) -> Var:
        """Features of an image."""
        x = joined(b, images, sizes)
        return b.sub("unet", _unet(widths, convs), x, channels=x.shape[1], out="features")  # type: ignore[no-any-return]

    @module_class(CLASS, "decode", features="B F H W", z="B latent_dim")
    def decode(b: Builder, features: Var, z: Var, *, channels: int, latent_dim: int, **sizes: Any) -> Var:
        """Logits of a mask."""
        own = {"width": features.shape[1], "latent_dim": latent_dim, "channels": channels}
        return b.sub("combine", _combine(combining), features, z, **own, out="logits")  # type: ignore[no-any-return]

    return {"prior": prior, "posterior": posterior, "features": features, "decode": decode}
