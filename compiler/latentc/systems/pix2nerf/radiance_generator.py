"""A generator that renders a neural field: that of pi-GAN, as Pix2NeRF uses it.

Not `resnet_generator`: no convolutions; an MLP maps points of rays to colours and densities, which are composited along
the rays. Symbols: B batch, C colours, P rays (one per pixel), N points per ray, M points, Z dimension of the latent z.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.capabilities import TRAINING, Capability
from latentc.components.condition import Entry, Form, Pair, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit import rays
from latentc.components.networks._gan import problems_of_dropping, problems_of_index
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.pix2nerf.camera import Camera

MAPPING_LAYERS, SLOPE = 4, 0.2
"""Layers of the mapping network, and the slope of its leaky ReLUs."""
SCALE, SHIFT = 15.0, 30.0
"""Scale and shift of the frequencies."""
SHARP: dict[str, Any] = {"init": "kaiming_uniform", "gain": math.sqrt(2) / 25}
"""Initial weights of layers of sines: uniform up to sqrt(6 / inputs) / 25."""


CHUNK = "chunk"
"""The sampler's request: the rays of a call of `render_at`, and the points of a call of `field_at`."""


class RadianceGenerator(Backbone):
    """FiLM-SIREN, whose sines get frequencies and phases from a latent, rendered along rays (pi-GAN, Chan et al. 2021,
    arXiv:2012.00926; Pix2NeRF, Cai et al. 2022, arXiv:2202.13162).

    z f32[B, Z], a camera and conditions -> x f32[B, C, H, H] between -1 and 1. The points of a ray are evenly spaced;
    if `hierarchical`, as many more are where the first show most. In training they are at random places, and noise is
    added to densities.
    """

    kind: Literal["radiance_generator"]
    width: int = Field(256, gt=0, le=65_536, description="channels of the field's layers")
    depth: int = Field(8, gt=0, le=64, description="layers of the field before density and colour")
    latent_dim: int = Field(512, gt=0, le=65_536, description="dimension of the latent z (Z)")
    mapping_width: int = Field(256, gt=0, le=65_536, description="width of the mapping network")
    embedding: int = Field(32, gt=0, le=65_536, description="dimension of each embedded condition, which joins z")
    points: int = Field(12, gt=2, le=1_024, description="points per ray (N)")
    hierarchical: bool = Field(True, description="adds as many points where the first ones show most")
    fov: float = Field(12.0, gt=0, lt=180, description="field of view, in degrees; the camera is at distance 1")
    near: float = Field(0.88, gt=0, description="distance of a ray's first point")
    far: float = Field(1.12, gt=0, description="distance of a ray's last point")
    extent: float | None = Field(
        None, gt=0, description="side of a cube around the origin that is scaled to [-1, 1]; null: not scaled"
    )
    background: Literal["black", "white"] = Field("black", description="what rays show that meet nothing")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"render_views"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "array")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "radiance_generator",
        "width": 6,
        "depth": 2,
        "latent_dim": 4,
        "mapping_width": 5,
        "embedding": 3,
        "points": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} makes square images, but the data has {spec.data.words}")
        if self.far <= self.near:
            yield Problem(("far",), f"`far: {self.far:g}` is not beyond `near: {self.near:g}`", "give a larger one")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_index(self, spec)
        yield from problems_of_dropping(self, spec)
        arrays = [condition for condition in self.takes(spec).values() if self.form_of(condition) == "array"]
        if len(arrays) != 1 or not isinstance(arrays[0], Camera):
            message = f"a {self.kind} takes one camera, but got {len(arrays)} arrays"
            yield Problem((), message, "add `conditioning.camera: {kind: camera}`, and no other array")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        entries = self.entries(spec)
        static = {
            "channels": channels,
            "width": self.width,
            "latent_dim": self.latent_dim,
            "mapping_width": self.mapping_width,
            **({"embedding": self.embedding} if any(entry.form == "vector" for entry in entries) else {}),
            **self.condition_sizes(spec),
        }
        given = ports_of(entries)
        z = Port("z", f32(B, self.latent_dim), "noise", distribution="uniform")
        drawn = []
        for prefix, count in (("", 1), ("further_", 2))[: 1 + self.hierarchical]:
            places, noise = f32(B, side * side, self.points), f32(B, side * side, count * self.points)
            drawn.append(Port(f"{prefix}places", places, "noise", distribution="uniform"))
            drawn.append(Port(f"{prefix}density_noise", noise, "noise", distribution="normal"))
        chunk = asked(spec, name, CHUNK)
        at = [Port(word, f32(B, chunk or self.points, 3), "state") for word in ("points", "directions")]
        forward, train_forward, field_at, render_at = _methods(self, side, entries)
        methods = {
            "forward": add_method(mb, name, "forward", forward, (z, *given), static),
            TRAINING: add_method(mb, name, TRAINING, train_forward, (z, *drawn, *given), static),
            "field_at": add_method(mb, name, "field_at", field_at, (*at, z, *_vectors(entries)), static),
        }
        if chunk is not None:
            pixels = Port("pixels", f32(B, chunk, 2), "state")
            methods["render_at"] = add_method(mb, name, "render_at", render_at, (pixels, z, *given), static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": self.depth})


def _vectors(entries: tuple[Entry, ...]) -> tuple[Port, ...]:
    return tuple(port for entry in entries if entry.form == "vector" for port in entry.ports)


@cache
def _methods(
    config: RadianceGenerator, side: int, entries: tuple[Entry, ...]
) -> tuple[BlockBody, BlockBody, BlockBody, BlockBody]:
    mapping, field = _mapping(), _field(config.depth)
    vectors = tuple(entry for entry in entries if entry.form == "vector")

    def styles(b: Builder, z: Var, given: list[Pair], sizes: dict[str, Any]) -> tuple[Var, ...]:
        """Frequencies and phases [B, (depth + 1) width] of all layers."""
        for entry, operands in given:
            known = entry.vector(b, entry.prefix, operands, sizes["embedding"], sizes)
            z = b.concat(z, known, axis=1, out="latent")
        count = (config.depth + 1) * sizes["width"]
        own = {"latent": z.shape[1], "features": 2 * count, "hidden": sizes["mapping_width"]}
        mapped = b.sub("mapping", mapping, z, out="mapped", **own)
        return b.split(mapped, axis=1, sizes=(count, count), out="frequencies phases")

    def seen(b: Builder, points: Var, directions: Var, style: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        """Colours and density [B, M, C + 1] of the field at points [B, M, 3]."""
        if config.extent is not None:
            points = b.mul(points, 2 / config.extent, out="points")
        own = {"channels": sizes["channels"], "width": sizes["width"]}
        return b.sub("field", field, points, directions, *style, out="seen", **own)  # type: ignore[no-any-return]

    def shown(
        b: Builder,
        of_pixels: Var | None,
        z: Var,
        drawn: tuple[Var, ...],
        conditions: tuple[Var, ...],
        sizes: dict[str, Any],
    ) -> Var:
        """Colours [B, P, C] from 0 to 1 along rays [B, P, 3] in the space of the camera; None: those of an image."""
        batch, n, channels = z.shape[0], config.points, sizes["channels"]
        count = side * side if of_pixels is None else of_pixels.shape[1]
        given = list(with_operands(entries, conditions))
        ((camera,),) = (operands for entry, operands in given if entry.form == "array")
        style = styles(b, z, [pair for pair in given if pair[0].form == "vector"], sizes)
        pitch, yaw = b.split(camera, axis=1, sizes=(1, 1), out="pitch yaw")
        rotation, origin = rays.orbit(b, pitch, yaw)
        if of_pixels is None:
            of_pixels = b.constant(rays.pinhole(side, config.fov)[None], "f32", out="of_pixels")
        directions = b.matmul(of_pixels, rotation, out="directions")  # [B, P, 3]
        each = b.broadcast_to(b.reshape(directions, shape=(batch, count, 1, 3)), shape=(batch, count, n, 3))
        each = b.reshape(each, shape=(batch, count * n, 3), out="directions_of_points")

        def seen_along(depths: Var) -> Var:
            points = rays.along(b, origin, directions, depths)
            at = seen(b, b.reshape(points, shape=(batch, count * n, 3)), each, style, sizes)
            return b.reshape(at, shape=(batch, count, n, channels + 1), out="seen")  # type: ignore[no-any-return]

        even = np.linspace(config.near, config.far, n)
        depths = b.constant(np.tile(even, (1, count, 1)), "f32", out="depths")
        places, noises = drawn[::2], drawn[1::2]
        if places:
            depths = b.add(depths, (places[0] - 0.5) * float(even[1] - even[0]), out="depths")
        at = seen_along(depths)
        if config.hierarchical:
            shares = b.constant((np.arange(n) + 0.5)[None, None] / n, "f32", out="shares")
            found = rays.visible(b, _density(b, at, channels, noises[:1]), depths)
            further = rays.further_depths(b, found, depths, places[1] if places else shares)
            further = b.stop_gradient(further, out="further")
            at = b.concat(seen_along(further), at, axis=2, out="seen")
            depths = depths if places else b.broadcast_to(depths, z, shape=(batch, count, n))
            depths = b.concat(further, depths, axis=2, out="depths")
            order = b.argsort(depths, out="order")
            depths = b.take_along(depths, order, axis=2, out="depths")
            column = b.reshape(order, shape=(batch, count, 2 * n, 1))
            column = b.broadcast_to(column, shape=(batch, count, 2 * n, channels + 1))
            at = b.take_along(at, column, axis=2, out="seen")
        weights = rays.visible(b, _density(b, at, channels, noises[-1:]), depths)
        weights = b.reshape(weights, shape=(*weights.shape, 1), out="weights")
        colours = b.slice(at, axis=3, start=0, stop=int(channels), out="colours")
        pixels = b.sum(weights * colours, axes=(2,), keepdims=False, out="pixels")  # [B, P, C]
        if config.background == "white":
            pixels = b.add(pixels, b.op("sub", 1.0, b.sum(weights, axes=(2,), keepdims=False)), out="pixels")
        return pixels  # type: ignore[no-any-return]

    def rendered(b: Builder, z: Var, drawn: tuple[Var, ...], conditions: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        pixels = shown(b, None, z, drawn, conditions, sizes)
        batch, channels = z.shape[0], sizes["channels"]
        x = b.transpose(b.reshape(pixels, shape=(batch, side, side, channels)), perm=(0, 3, 1, 2))
        return b.add(x * 2.0, -1.0, out="x")  # type: ignore[no-any-return]

    @module_class("RadianceGenerator")
    def forward(b: Builder, z: Var, *conditions: Var, **sizes: Any) -> Var:
        """Images of latents, seen from cameras."""
        return rendered(b, z, (), conditions, sizes)

    @module_class("RadianceGenerator", TRAINING)
    def train_forward(b: Builder, z: Var, *rest: Var, **sizes: Any) -> Var:
        """Images for training, from points at random places of their parts of the rays."""
        count = 4 if config.hierarchical else 2
        return rendered(b, z, rest[:count], rest[count:], sizes)

    @module_class("RadianceGenerator", "field_at", points="B M 3", directions="B M 3")
    def field_at(b: Builder, points: Var, directions: Var, z: Var, *conditions: Var, **sizes: Any) -> Var:
        """Colours and density of the field at points, seen in directions."""
        return seen(b, points, directions, styles(b, z, list(with_operands(vectors, conditions)), sizes), sizes)

    @module_class("RadianceGenerator", "render_at", pixels="B P 2")
    def render_at(b: Builder, pixels: Var, z: Var, *conditions: Var, **sizes: Any) -> Var:
        """Colours from -1 to 1 at places of images (down and right, from -1 to 1), seen from cameras."""
        colours = shown(b, rays.through_pixels(b, pixels, config.fov), z, (), conditions, sizes)
        return b.add(colours * 2.0, -1.0, out="colours")  # type: ignore[no-any-return]

    return forward, train_forward, field_at, render_at


def _density(b: Builder, at: Var, channels: Any, noise: tuple[Var, ...]) -> Var:
    """f32[B, P, N], at least 0, of colours and densities [B, P, N, C + 1]; noise, if any, comes before the ReLU."""
    density = b.slice(at, axis=3, start=int(channels), stop=int(channels) + 1)
    density = b.reshape(density, shape=at.shape[:3], out="density")
    return b.relu(b.add(density, noise[0], out="density") if noise else density, out="density")  # type: ignore[no-any-return]


@cache
def _mapping() -> BlockBody:
    @module_class("MappingNetwork", z="B latent")
    def mapping(b: Builder, z: Var, *, latent: int, features: int, hidden: int) -> Var:
        """Frequencies and phases of all layers, of latents z."""
        gain, last, h = math.sqrt(2 / (1 + SLOPE**2)), MAPPING_LAYERS - 1, z
        for i in range(last):
            h = b.leaky_relu(_dense(b, f"layers.{i}", h, hidden, "kaiming_normal", gain=gain), slope=SLOPE, out="h")
        return _dense(b, f"layers.{last}", h, features, "kaiming_normal", out="mapped", gain=gain / 4)

    return mapping


@cache
def _field(depth: int) -> BlockBody:
    @module_class("Field", points="B M 3", directions="B M 3")
    def field(
        b: Builder, points: Var, directions: Var, frequencies: Var, phases: Var, *, channels: int, width: int
    ) -> Var:
        """Colours and density [B, M, C + 1] at points seen in directions."""
        count = depth + 1
        by_layer = [
            b.split(x, axis=1, sizes=(width,) * count, out=" ".join(f"{word}_{i}" for i in range(count)))
            for x, word in ((frequencies, "frequency"), (phases, "phase"))
        ]
        h = points
        for i in range(depth):
            h = b.sub(
                f"layers.{i}", _layer(i == 0), h, *(of[i] for of in by_layer), out="h", dim=h.shape[2], width=width
            )
        density = _dense(b, "density", h, 1, **SHARP, out="density")
        h = b.concat(directions, h, axis=2, out="h")
        h = b.sub("colour_sine", _layer(False), h, *(of[-1] for of in by_layer), out="h", dim=h.shape[2], width=width)
        colour = b.sigmoid(_dense(b, "colour", h, channels, **SHARP), out="colour")
        return b.concat(colour, density, axis=2, out="seen")  # type: ignore[no-any-return]

    return field


@cache
def _layer(first: bool) -> BlockBody:
    @module_class("FirstSineLayer" if first else "SineLayer", x="B M dim", frequency="B width", phase="B width")
    def layer(b: Builder, x: Var, frequency: Var, phase: Var, *, dim: int, width: int) -> Var:
        """Sines of a linear layer, with a frequency and a phase per channel."""
        h = _dense(b, "layer", x, width, **({"init": "uniform", "bound": 1 / 3} if first else SHARP))
        shape = (x.shape[0], 1, width)
        frequency = b.add(b.reshape(frequency, shape=shape) * SCALE, SHIFT, out="frequency")
        return b.sin(frequency * h + b.reshape(phase, shape=shape), out="h")  # type: ignore[no-any-return]

    return layer


def _dense(b: Builder, name: str, x: Var, features: Any, init: str, out: str = "h", **args: Any) -> Var:
    """A linear layer whose bias starts as PyTorch's."""
    weight = b.param(f"{name}.weight", f32(features, x.shape[-1]), init, **args)
    bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=x.shape[-1])
    return b.linear(x, weight, bias, out=out)
