"""StyleGAN-XL's generator: alias-free layers, grown from stage to stage, and a style of latent and class features.

Symbols: B batch, C channels, K classes, L styles per sample, S side, W dimension of styles, Z of the latent z, E of the
features of a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method, asked, asks
from latentc.components.capabilities import TRAINING, Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import problems_of_class, problems_of_dropping
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.stylegan2.style_blocks import (
    activated,
    fully_connected,
    mapping_layer,
    mixed_styles,
    normalized,
    spread,
)
from latentc.systems.stylegan_xl.alias_free_layers import alias_free_layer, fourier_input
from latentc.systems.stylegan_xl.filters import LayerPlan, plans

OUTPUT = 0.25  # scale of the image


class AliasFreeGenerator(Backbone):
    """StyleGAN-XL's generator (Sauer et al. 2022, arXiv:2202.00273), with the layers of StyleGAN3, arXiv:2106.12423.

    `map`: z f32[B, Z] and y i64[B] -> styles f32[B, W] and the average style of the class f32[B, 1, W];
    `synthesize`: styles f32[B, L, W] -> images f32[B, C, S, S]; `forward`: both, without truncation. The class enters
    as a row of `embedding.weight` [K, E], mean features of a pretrained network, which is trained on. To grow a
    generator, train it at `sides[0]`, then with one side and number of layers more from its weights:
    `pretrained: FILE, fresh_weights: [layers that follow], frozen_weights: [mapping.*, input.*, layers of the file]`.
    """

    kind: Literal["alias_free_generator"]
    layers: tuple[Size, ...] = Field(
        (10,), min_length=1, max_length=8, description="layers of each stage, without the one that makes its image"
    )
    sides: tuple[Size, ...] = Field(
        (),
        max_length=7,
        description="sides of the images of the stages before the last: powers of 2, ascending; the critically sampled "
        "layers of these stages are left out",
    )
    critical: int = Field(2, gt=0, le=16, description="critically sampled layers at the end of a stage")
    margin: int = Field(10, ge=0, le=64, description="pixels around feature maps, which the last layers crop")
    kernel: Literal[1, 3] = Field(
        3, description="kernel size: 3 for equivariance to shifts (StyleGAN3-T), 1 to rotations (StyleGAN3-R)"
    )
    radial: bool = Field(False, description="filters without a preferred direction (StyleGAN3-R)")
    channel_base: int = Field(
        65_536, gt=0, le=16_777_216, description="channels of a layer times twice its cutoff, if below `channel_max`"
    )
    channel_max: int = Field(1_024, gt=0, le=65_536, description="maximum number of channels of a layer")
    latent_dim: int = Field(64, gt=0, le=65_536, description="dimension of the latent z (Z)")
    style_dim: int = Field(512, gt=0, le=65_536, description="dimension of styles (W)")
    class_features: int = Field(
        320, gt=0, le=65_536, description="dimension of the features of a class (E); EfficientNet-lite0: 320"
    )
    mapping_layers: int = Field(2, gt=0, le=64, description="number of layers of the mapping network")
    mapping_rate: float = Field(0.01, gt=0, description="learning rate of the mapping network relative to the rest")
    mixing: Fraction = Field(
        0.0,
        description="probability that layers from a random one on have the style of another latent, in training: "
        "style mixing, drawn for each sample",
    )
    style_decay: Fraction = Field(0.998, description="decay of the average style of a class, per sample of it")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate_by_style", "generate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "alias_free_generator",
        "layers": [3],
        "margin": 1,
        "kernel": 1,
        "channel_base": 16,
        "channel_max": 4,
        "latent_dim": 5,
        "style_dim": 6,
        "class_features": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} makes square images [C, S, S], but the data has {spec.data.words}")
        else:
            sides = (*self.sides, shape[1])
            if any(side < 8 or side & (side - 1) for side in sides) or list(sides) != sorted(set(sides)):
                message = f"stages have sides of {', '.join(map(str, sides))}, not ascending powers of 2 from 8 on"
                yield Problem(("sides",) if self.sides else (), message, "the last side is that of the data")
        if len(self.layers) != len(self.sides) + 1:
            message = f"{len(self.layers)} stages have `layers`, but `sides` and the data give {len(self.sides) + 1}"
            yield Problem(("layers",), message, "give one number per stage")
        for i, count in enumerate(self.layers):
            if count <= self.critical:
                message = f"{count} layers are no more than the {self.critical} critically sampled ones"
                yield Problem(("layers", i), message, f"use at least {self.critical + 1}")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)
        yield from problems_of_dropping(self, spec)

    def plans(self, channels: int, side: int) -> list[LayerPlan]:
        """The layers of images of these channels and side."""
        return plans(
            self.layers,
            (*self.sides, side),
            channels,
            self.channel_base,
            self.channel_max,
            self.critical,
            self.margin,
        )

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        layers = self.plans(channels, side)
        entries = self.entries(spec)
        static = {"latent_dim": self.latent_dim, "style_dim": self.style_dim, **self.condition_sizes(spec)}
        static |= {"class_features": self.class_features} if entries else {}
        z = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        ws = Port("ws", f32(B, len(layers) + 1, self.style_dim), "state")
        bodies = _methods(self, tuple(layers), bool(entries))
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], z, static),
            "map": add_method(mb, name, "map", bodies["map"], z, static, ("output", "output")),
            "synthesize": add_method(mb, name, "synthesize", bodies["synthesize"], (ws,), static),
        }
        if asks(spec, name, "generate"):
            mix = Port("mix", f32(B, 2), "noise", None, None, "uniform")
            other = (Port("z_other", f32(B, self.latent_dim), "noise"), mix) if self.mixing else ()
            drawn = (z[0], *other, *z[1:])
            methods["styles"] = add_method(mb, name, "styles", bodies["styles"], drawn, static)
            methods[TRAINING] = add_method(mb, name, TRAINING, bodies[TRAINING], drawn, static)
        if (decay := asked(spec, name, "path_average")) is not None:
            lengths = (Port("lengths", f32(B), "state"),)
            methods["path_average"] = add_method(mb, name, "path_average", _path_average(decay), lengths, static)
        sizes: dict[str, Any] = {
            "layers": len(layers),
            "side_of": tuple(float(layer.after.side) for layer in layers),
            "width_of": tuple(float(layer.after.channels) for layer in layers),
        }
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@cache
def _path_average(decay: float) -> BlockBody:
    @module_class("AliasFreeGenerator", "path_average")
    def path_average(b: Builder, lengths: Var, **static: Any) -> Var:
        """The average [1] of earlier lengths of paths, which training then moves towards these."""
        return b.running_mean(lengths, b.param("path_length", f32(1), "zeros", "state"), momentum=decay, out="average")

    return path_average


@module_class("ClassFeatures", y="B")
def class_features(b: Builder, y: Var, *, classes: int, class_features: int, features: int) -> Var:
    """Features of classes, projected and divided by their root mean square."""
    table = b.param("weight", f32(classes, class_features), "normal")
    rows = b.embedding(table, y, out="rows")
    h = b.sub("projection", fully_connected, rows, out="h", in_features=class_features, out_features=features)
    return normalized(b, activated(b, h), "embedded")


@cache
def _mapping(layers: int, rate: float, decay: float, labelled: bool) -> tuple[BlockBody, BlockBody]:
    """The mapping network with the average styles, which training moves, and without."""

    @module_class("MappingNetwork", z="B latent_dim")
    def mapping(b: Builder, z: Var, y: Var | None = None, *, style_dim: int, **sizes: Any) -> tuple[Var, Var]:
        """Styles of latents z and classes y, and the average style of the class."""
        h = styles(b, z, y, style_dim, sizes)
        if y is None:
            average = b.param("w_avg", f32(style_dim), "zeros", "state")
            return h, b.running_mean(h, average, momentum=decay, out="average")
        table = b.param("w_avg", f32(sizes["classes"], style_dim), "zeros", "state")
        kept = b.running_mean(_moved(b, table, h, y, sizes["classes"], decay), table, momentum=0.0, out="kept")
        rows = b.embedding(kept, y, out="average")
        return h, b.reshape(rows, shape=(y.shape[0], 1, style_dim), out="average")

    @module_class("MappingNetwork", "styles", z="B latent_dim")
    def alone(b: Builder, z: Var, y: Var | None = None, *, style_dim: int, **sizes: Any) -> Var:
        """Styles of latents z and classes y."""
        return styles(b, z, y, style_dim, sizes)

    def styles(b: Builder, z: Var, y: Var | None, style_dim: int, sizes: dict[str, Any]) -> Var:
        h = normalized(b, z, "h")
        if y is not None:
            known = b.sub("embedding", class_features, y, out="embedded", features=z.shape[1], **_of_class(sizes))
            h = b.concat(h, known, axis=1, out="h")
        for name in items("layers", layers):
            h = b.sub(name, mapping_layer(rate), h, out="h", in_features=h.shape[1], out_features=style_dim)
        return h

    return mapping, alone


def _of_class(sizes: dict[str, Any]) -> dict[str, Any]:
    return {name: sizes[name] for name in ("classes", "class_features")}


def _moved(b: Builder, table: Var, styles: Var, y: Var, classes: Any, decay: float) -> Var:
    """f32[1, K, W]: average styles of classes, moved towards those of their samples as one after another would.

    Samples of one class count alike.
    """
    rows = b.reshape(y, shape=(y.shape[0], 1))
    hot = b.cast(b.equal(rows, b.reshape(b.arange(classes), shape=(1, classes))), to="f32", out="hot")
    counts = b.reshape(b.sum(hot, axes=(0,), keepdims=False), shape=(classes, 1), out="counts")
    means = b.matmul(b.transpose(hot, perm=(1, 0)), styles) / b.maximum(counts, 1.0)
    left = b.exp(counts * math.log(decay), out="left")
    moved = b.add(table * left, means * (1.0 - left), out="moved")
    return b.reshape(moved, shape=(1, *table.shape), out="moved")


@cache
def _methods(config: AliasFreeGenerator, layers: tuple[LayerPlan, ...], labelled: bool) -> dict[str, BlockBody]:
    mapping, alone = _mapping(config.mapping_layers, config.mapping_rate, config.style_decay, labelled)
    count = len(layers) + 1

    @module_class("AliasFreeGenerator", "forward", z="B latent_dim")
    def forward(b: Builder, z: Var, *y: Var, **sizes: Any) -> Var:
        """Images of latents z, without truncation."""
        w, _ = b.sub("mapping", mapping, z, *y, out="w average", **sizes)
        return b.sub("", synthesize, spread(b, w, count), out="image", **sizes)

    @module_class("AliasFreeGenerator", "map", z="B latent_dim")
    def map_(b: Builder, z: Var, *y: Var, **sizes: Any) -> tuple[Var, Var]:
        """Styles of latents z, and the average style of the class."""
        return b.sub("mapping", mapping, z, *y, out="w average", **sizes)

    @module_class("AliasFreeGenerator", "synthesize", ws="B L style_dim")
    def synthesize(b: Builder, ws: Var, **sizes: Any) -> Var:
        """Images of a style for the input and for each layer."""
        styles = b.unbind(ws, axis=1, out=" ".join(f"w{i}" for i in range(count)))
        width = layers[0].before.channels
        x = b.sub("input", fourier_input(layers[0].before), styles[0], out="x", channels=width, style_dim=ws.shape[2])
        for i, (plan, style) in enumerate(zip(layers, styles[1:], strict=True)):
            given = {"channels": x.shape[1], "features": plan.after.channels, "style_dim": ws.shape[2]}
            x = b.sub(f"layers.{i}", alias_free_layer(plan, config.kernel, config.radial), x, style, out="x", **given)
        return b.mul(x, OUTPUT, out="image")

    def mixed(b: Builder, given: tuple[Var, ...], sizes: dict[str, Any]) -> Var:
        """Styles f32[B, L, W] of the latents z; from a random layer on perhaps those of other latents."""
        z, *others = given[:3] if config.mixing else given[:1]
        y = given[1 + len(others) :]
        own = spread(b, b.sub("mapping", mapping, z, *y, out="w average", **sizes)[0], count)
        if not others:
            return own
        other = spread(b, b.sub("mapping", alone, others[0], *y, out="w_other", **sizes), count)
        return mixed_styles(b, own, other, others[1], config.mixing)

    @module_class("AliasFreeGenerator", "styles")
    def styles(b: Builder, *given: Var, **sizes: Any) -> Var:
        """Styles for training, a mixture of those of two latents."""
        return mixed(b, given, sizes)

    @module_class("AliasFreeGenerator", TRAINING)
    def train_forward(b: Builder, *given: Var, **sizes: Any) -> Var:
        """Images for training, of mixed styles."""
        return b.sub("", synthesize, mixed(b, given, sizes), out="image", **sizes)

    return {body.method: body for body in (forward, map_, synthesize, styles, train_forward)}
