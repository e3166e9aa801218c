"""The style-based generator of StyleGAN2.

Symbols: B batch, C channels, L layers with a style of their own, W dimension of styles, Z dimension of the latent z.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked, asks
from latentc.components.capabilities import TRAINING, Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_class
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.stylegan2.style_blocks import (
    class_embedding,
    first_block,
    mapping_layer,
    mixed_styles,
    normalized,
    spread,
    synthesis_block,
)

FIRST_SIDE = 4
SYNTHESIS = ("ws", "noise")


class StyleGenerator(Backbone):
    """StyleGAN2's generator with skip connections (Karras et al. 2020, arXiv:1912.04958).

    `map`: z f32[B, Z] and y i64[B] -> styles f32[B, W] and their average f32[W]; `synthesize`: styles f32[B, L, W] and
    a noise image f32[B, 1, H, W] per convolution -> images f32[B, C, H, W]; `synthesize_const`: with the generator's
    own noise; `forward`: both, without truncation. Training draws the noise images, mixes styles of two latents and
    moves the average style.
    """

    kind: Literal["style_generator"]
    channel_base: int = Field(
        32768, gt=0, le=16_777_216, description="channels of a level times its side, if below `channel_max`"
    )
    channel_max: int = Field(512, gt=0, le=65_536, description="maximum number of channels of a level")
    latent_dim: int = Field(512, gt=0, le=65_536, description="dimension of the latent z (Z)")
    style_dim: int = Field(512, gt=0, le=65_536, description="dimension of styles (W)")
    mapping_layers: int = Field(8, gt=0, le=64, description="number of layers of the mapping network")
    mapping_rate: float = Field(0.01, gt=0, description="learning rate of the mapping network relative to the rest")
    mixing: Fraction = Field(
        0.9,
        description="probability that layers from a random one on have the style of another latent, in training: "
        "style mixing, drawn for each sample",
    )
    style_decay: Fraction = Field(
        0.995, description="decay of the average style, per training pass (StyleGAN2: 0.995, StyleGAN3: 0.998)"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate_by_style", "generate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "style_generator",
        "channel_base": 64,
        "channel_max": 8,
        "latent_dim": 8,
        "style_dim": 6,
        "mapping_layers": 2,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} makes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            if height != width or height < FIRST_SIDE or height & (height - 1):
                yield Problem(
                    (),
                    f"a {self.kind} starts from {FIRST_SIDE} by {FIRST_SIDE} pixels and doubles them, "
                    f"which never gives {height} by {width}",
                    f"use square images whose side is a power of 2, at least {FIRST_SIDE}",
                )
            elif self.channel_base < height:
                yield Problem(
                    ("channel_base",),
                    f"`channel_base: {self.channel_base}` leaves no channels at {height} by {height}",
                    f"use at least {height}",
                )
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)
        if any(condition.nullable for condition in self.takes(spec).values()):
            message = f"a {self.kind} always knows the class, but `conditioning.class` is dropped in training"
            yield Problem((), message, "write `conditioning.class: {kind: label, dropout: 0}`")

    def channels(self, side: int) -> int:
        """Channels of the feature maps of this side."""
        return min(self.channel_base // side, self.channel_max)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        sides = tuple(FIRST_SIDE << i for i in range((side // FIRST_SIDE).bit_length()))
        static = {
            "latent_dim": self.latent_dim,
            "style_dim": self.style_dim,
            **self.condition_sizes(spec),
            "channels": channels,
        }
        z = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(self.entries(spec)))
        ws = Port("ws", f32(B, 2 * len(sides), self.style_dim), "state")
        maps = [s for s in sides for _ in range(1 if s == FIRST_SIDE else 2)]
        noises = tuple(Port(f"noise_{i}", f32(B, 1, s, s), "noise") for i, s in enumerate(maps))
        bodies = _methods(self, sides)
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], z, static),
            "map": add_method(mb, name, "map", bodies["map"], z, static, ("output", "output")),
            "synthesize": add_method(mb, name, "synthesize", bodies["synthesize"], (ws, *noises), static),
            "synthesize_const": add_method(mb, name, "synthesize_const", bodies["synthesize_const"], (ws,), static),
        }
        if asks(spec, name, "generate"):
            other = (
                Port("z_other", f32(B, self.latent_dim), "noise"),
                Port("mix", f32(B, 2), "noise", None, None, "uniform"),
            )
            drawn = (z[0], *(other if self.mixing else ()))
            methods["styles"] = add_method(mb, name, "styles", bodies["styles"], (*drawn, *z[1:]), static)
            drawn = (*drawn, *noises, *z[1:])
            methods[TRAINING] = add_method(mb, name, TRAINING, bodies[TRAINING], drawn, static)
        if (decay := asked(spec, name, "path_average")) is not None:
            lengths = (Port("lengths", f32(B), "state"),)
            methods["path_average"] = add_method(mb, name, "path_average", _path_average(decay), lengths, static)
        return Network(name, methods, self.PROVIDES, sizes={"levels": len(sides)})


@cache
def _path_average(decay: float) -> BlockBody:
    @module_class("StyleGenerator", "path_average")
    def path_average(b: Builder, lengths: Var, **static: Any) -> Var:
        """The average [1] of earlier lengths of paths, which training then moves towards these."""
        return b.running_mean(lengths, b.param("path_length", f32(1), "zeros", "state"), momentum=decay, out="average")

    return path_average


@cache
def _mapping(layers: int, rate: float, decay: float) -> tuple[BlockBody, BlockBody]:
    """The mapping network with the average style, which training moves, and without."""

    @module_class("MappingNetwork", z="B latent_dim")
    def mapping(b: Builder, z: Var, y: Var | None = None, *, style_dim: int, **sizes: Any) -> tuple[Var, Var]:
        """Styles of latents z and classes y, and the average style."""
        h = styles(b, z, y, style_dim, sizes)
        return h, b.running_mean(h, b.param("w_avg", f32(style_dim), "zeros", "state"), momentum=decay, out="w_avg")

    @module_class("MappingNetwork", "styles", z="B latent_dim")
    def alone(b: Builder, z: Var, y: Var | None = None, *, style_dim: int, **sizes: Any) -> Var:
        """Styles of latents z and classes y."""
        return styles(b, z, y, style_dim, sizes)

    def styles(b: Builder, z: Var, y: Var | None, style_dim: int, sizes: dict[str, Any]) -> Var:
        h = normalized(b, z, "h")
        if y is not None:
            known = b.sub("embed", class_embedding, y, out="embedded", classes=sizes["classes"], features=style_dim)
            h = b.concat(h, known, axis=1, out="h")
        for name in items("layers", layers):
            h = b.sub(name, mapping_layer(rate), h, out="h", in_features=h.shape[1], out_features=style_dim)
        return h

    return mapping, alone


@cache
def _methods(config: StyleGenerator, sides: tuple[int, ...]) -> dict[str, BlockBody]:
    mapping, alone = _mapping(config.mapping_layers, config.mapping_rate, config.style_decay)
    layers = 2 * len(sides)

    def mapped(b: Builder, z: Var, y: tuple[Var, ...], sizes: dict[str, Any]) -> tuple[Var, Var]:
        cond = {name: size for name, size in sizes.items() if name != "channels"}
        return b.sub("mapping", mapping, z, *y, out="w w_avg", **cond)

    def synthesized(b: Builder, ws: Var, noises: tuple[Var, ...], channels: int) -> Var:
        styles = b.unbind(ws, axis=1, out=" ".join(f"w{i}" for i in range(2 * len(sides))))
        first = config.channels(FIRST_SIDE)
        const = b.param("const", f32(first, FIRST_SIDE, FIRST_SIDE), "normal")
        x = b.broadcast_to(const, ws, shape=(ws.shape[0], *const.shape), out="x")
        sizes = {"channels": first, "features": first, "image_channels": channels, "style_dim": ws.shape[2]}
        image: Var
        x, image = b.sub("blocks.0", first_block, x, *styles[:2], noises[0], out="x image", **sizes)
        for i, side in enumerate(sides[1:], 1):
            sizes |= {"channels": x.shape[1], "features": config.channels(side)}
            own = (*styles[2 * i - 1 : 2 * i + 2], *noises[2 * i - 1 : 2 * i + 1])
            x, image = b.sub(f"blocks.{i}", synthesis_block, x, image, *own, out="x image", **sizes)
        return image

    def const_noise(b: Builder) -> tuple[Var, ...]:
        maps = [s for s in sides for _ in range(1 if s == FIRST_SIDE else 2)]
        return tuple(b.param(f"noise_{i}", f32(s, s), "normal", "state") for i, s in enumerate(maps))

    @module_class("StyleGenerator", "forward", z="B latent_dim")
    def forward(b: Builder, z: Var, *y: Var, channels: int, **sizes: Any) -> Var:
        """Images of latents z, without truncation, with the generator's own noise."""
        w, _ = mapped(b, z, y, sizes)
        return b.sub("", synthesize_const, spread(b, w, layers), out="image", channels=channels, **sizes)

    @module_class("StyleGenerator", "map", z="B latent_dim")
    def map_(b: Builder, z: Var, *y: Var, channels: int, **sizes: Any) -> tuple[Var, Var]:
        """Styles of latents z, and the average style."""
        return mapped(b, z, y, sizes)

    @module_class("StyleGenerator", "synthesize", ws="B L style_dim")
    def synthesize(b: Builder, ws: Var, *noises: Var, channels: int, **sizes: Any) -> Var:
        """Images of a style for each layer and a noise image for each convolution."""
        return synthesized(b, ws, noises, channels)

    @module_class("StyleGenerator", "synthesize_const", ws="B L style_dim")
    def synthesize_const(b: Builder, ws: Var, *, channels: int, **sizes: Any) -> Var:
        """Images of a style for each layer, with the generator's own noise."""
        return synthesized(b, ws, const_noise(b), channels)

    def mixed(b: Builder, noise: tuple[Var, ...], y: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        """Styles f32[B, L, W] of the latents z; from a random layer on perhaps those of other latents."""
        own = spread(b, mapped(b, noise[0], y, sizes)[0], layers)
        if not config.mixing:
            return own
        _, z_other, mix = noise
        cond = {name: size for name, size in sizes.items() if name != "channels"}
        other = spread(b, b.sub("mapping", alone, z_other, *y, out="w_other", **cond), layers)
        return mixed_styles(b, own, other, mix, config.mixing)

    count = 3 if config.mixing else 1

    @module_class("StyleGenerator", "styles")
    def styles(b: Builder, *given: Var, channels: int, **sizes: Any) -> Var:
        """Styles for training, a mixture of those of two latents."""
        return mixed(b, given[:count], given[count:], sizes)

    @module_class("StyleGenerator", TRAINING)
    def train_forward(b: Builder, *given: Var, channels: int, **sizes: Any) -> Var:
        """Images for training: of mixed styles, with a noise image for each convolution."""
        noises = given[count : count + layers - 1]
        ws = mixed(b, given[:count], given[count + len(noises) :], sizes)
        return b.sub("", synthesize, ws, *noises, out="image", channels=channels, **sizes)

    bodies = (forward, map_, synthesize, synthesize_const, styles, train_forward)
    return {body.method: body for body in bodies}
