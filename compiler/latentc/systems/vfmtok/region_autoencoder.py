"""An autoencoder of the features of a frozen vision model, whose codes are those of regions: VFMTok's tokenizer.

A network of its own: its encoder reads maps of several depths of another model by deformable attention, and its decoder
predicts that model's features beside the image. The convolutions, the codebook and the blocks are those of others. The
vision model is a part of it, as everything that encodes an image needs it; training leaves its weights as they are
(`frozen_weights`).

Symbols: B batch, H side of the image, N tokens (regions), D width, Z channels of the latents, F channels of the vision
model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOf, Size
from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.autoencoder import Blocks, Half, decoder
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.parts import Problem, Spec, Weights, dense, under
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.vfmtok.deformable import region_block
from latentc.systems.vfmtok.feature_decoder import feature_decoder
from latentc.systems.vfmtok.resizing import resized_image
from latentc.systems.vfmtok.vision import Vision, problem_of_images, vision_transformer

VISION = "vision.*"
"""The weights of the vision model."""


class Regions(Closed):
    """How queries read the maps of the vision model: blocks of deformable attention."""

    depth: int = Field(6, gt=0, le=512, description="blocks")
    heads: int = Field(8, gt=0, le=1_024, description="heads of both attentions")
    points: int = Field(4, gt=0, le=256, description="points that each head of a query reads per feature map")
    hidden: int = Field(1024, gt=0, le=1_048_576, description="hidden width of the feed-forwards")
    causal: bool = Field(True, description="causal: a query sees only itself and earlier queries")
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="dropout of both attentions, their weights, and both feed-forward layers, in training",
    )


class Pixels(Closed):
    """The convolutional decoder of images: that of `autoencoder`, without attention at its levels."""

    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `multipliers` (128 as published)")
    multipliers: tuple[Size, ...] = Field(
        min_length=1,
        max_length=16,
        description="channels of each level as a multiple of `width`, from the highest resolution down",
    )
    blocks: int = Field(2, gt=0, le=64, description="residual blocks per level")
    groups: int = Field(32, gt=0, le=1_024, description="groups of each GroupNorm")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second convolution of a residual block, in training"
    )

    @property
    def factor(self) -> int:
        """Pixels per cell of the map along each side."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def half(self) -> Half:
        blocks = Blocks(self.groups, 1e-6, self.dropout)
        return Half(self.multipliers, self.blocks, (), True, blocks)


class RegionAutoencoder(Backbone):
    """Tokenizer of a vision model's features (VFMTok, Zheng et al. 2025, arXiv:2507.08441).

    Takes images x f32[B, 3, H, H] in [-1, 1]. N learned queries, forming a square, read feature maps from several
    depths of the vision model and are quantised. The decoder reconstructs the image and, in training, the features of
    the vision model's last block; the penalty is that of the codes plus `alignment` times (1 - cosine of both).
    """

    kind: Literal["region_autoencoder"]
    vision: Vision = Field(description="the vision model, which stays frozen")
    tokens: int = Field(256, gt=0, le=1_048_576, description="number of regions of an image (N), a square number")
    width: int = Field(gt=0, le=65_536, description="channels of a query, and of the decoder (D)")
    regions: Regions = Field(default_factory=lambda: Regions(), description="how queries read the vision model")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="type of the codes")
    depth: int = Field(6, gt=0, le=512, description="blocks of the feature decoder")
    block: Block = Field(description="block of the feature decoder; its mixer is causal")
    registers: int = Field(4, ge=0, le=1_024, description="additional learned tokens after the decoder's queries")
    pixels: Pixels = Field(description="decoder from features to images")
    decoded: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size to which `decode` resizes images, in pixels, bicubically (VFMTok's figures are at 256); "
        "null: not resized",
    )
    alignment: float = Field(1.0, ge=0, description="weight of 1 - cosine similarity between decoded and true features")
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    frozen_weights: tuple[str, ...] = Field((VISION,), description="patterns of weights that stay frozen")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "region_autoencoder",
        "vision": {"width": 8, "depth": 2, "heads": 2, "patch": 4, "side": 3, "registers": 1, "levels": [0, 1]},
        "tokens": 4,
        "width": 8,
        "regions": {"depth": 1, "heads": 2, "points": 2, "hidden": 8},
        "depth": 1,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "swiglu", "hidden": 8, "bias": True},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "registers": 1,
        "pixels": {"width": 4, "multipliers": [1, 1, 1], "blocks": 1, "groups": 2},
        "bottleneck": {"kind": "codebook", "size": 16, "channels": 4, "normalize": True},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("side", "tokens", "queries")

    @property
    def side(self) -> int:
        """Side of the square of regions."""
        return round(self.tokens**0.5)

    @property
    def output_kernel(self) -> int:
        """Side of the kernel of the last convolution."""
        return 3

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if (problem := problem_of_images(spec)) is not None:
            yield problem
            return
        assert spec.data.shape is not None
        size = spec.data.shape[1]
        yield from under("vision", problems=self.vision.problems(size))
        if size % self.pixels.factor:
            message = f"{len(self.pixels.multipliers)} levels need a side that is a multiple of {self.pixels.factor}"
            yield Problem(("pixels", "multipliers"), f"{message}, not {size}")
        if self.side**2 != self.tokens:
            yield Problem(("tokens",), f"{self.tokens} regions are not a square", f"use {self.side**2}")
        if self.width % self.regions.heads:
            yield Problem(("regions", "heads"), f"{self.regions.heads} heads do not divide a width of {self.width}")
        for i, multiplier in enumerate(self.pixels.multipliers):
            if multiplier * self.pixels.width % self.pixels.groups:
                message = f"{multiplier * self.pixels.width} channels do not divide into {self.pixels.groups} groups"
                yield Problem(("pixels", "multipliers", i), message, "change `width` or `groups`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        if not self.block.parts()[0].ordered:
            message = "queries of the decoder follow the regions in one sequence and must see only what precedes them"
            yield Problem(("block", "mixer"), message, "set `causal: true`")
        if self.bottleneck.square is not None:
            yield Problem(("bottleneck",), "regions are a sequence", "use `{kind: codebook}`")
        yield from self.problems_of_conditions(spec)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        assert spec.data.shape is not None
        return (Port("x", f32(B, *spec.data.shape), "state"),), self.bottleneck.code_type(self.tokens, 1)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self.bottleneck.decoded_type(self.tokens, 1), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        size = spec.data.shape[1]
        static = {
            "size": size,
            **{f"vision_{key}": number for key, number in self.vision.static().items()},
            **({} if self.vision.image is None else {"seen": self.vision.image}),
            "side": self.vision.cells(size),
            "tokens": self.tokens,
            "queries": self.side,
            "width": self.width,
            "region_depth": self.regions.depth,
            "region_heads": self.regions.heads,
            "points": self.regions.points,
            "region_hidden": self.regions.hidden,
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": self.tokens, "columns": 1} if self.bottleneck.discrete else {}),
            "grid": size // self.pixels.factor,
            "depth": self.depth,
            **self.block.static(self.width),
            "channels": self.pixels.width,
        }
        x = Port("x", f32(B, *spec.data.shape), "state")
        values = self.bottleneck.vocabulary
        z = Port("z", self.bottleneck.decoded_type(self.tokens, 1), "state", values)
        noise = self.bottleneck.noise_ports(self.tokens, 1)
        bodies = _methods(self)
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[list[Port], tuple[Role, ...]]] = {
            "forward": ([x], plain),
            "encode": ([x], plain),
            "decode": ([z], plain),
            "decode_features": ([z], ("output", "features")),
            "regularized": ([x, *noise], ("output", "penalty")),
        }
        if asked(spec, name, "features"):
            wanted["regularized_features"] = ([x, *noise], ("output", "features", "penalty"))
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        if self.bottleneck.discrete:
            of_encode = methods["encode"].outputs
            methods["encode"] = replace(
                methods["encode"], outputs=tuple(replace(port, values=values) for port in of_encode)
            )
        sizes = {
            "levels": len(self.pixels.multipliers),
            "maps": len(self.vision.levels),
            "position_side": self.vision.side,
        }
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@cache
def _level(config: RegionAutoencoder) -> BlockBody:
    norm = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)

    @module_class("LevelProjection", x="B S features")
    def project(b: Builder, x: Var, *, features: int, dim: int) -> Var:
        """Patches of one depth of the vision model as what queries read."""
        x = b.relu(norm.apply(b, "norm1", dense(b, "fc1", x, dim, False, config.weights)), out="x")
        return norm.apply(b, "norm3", norm.apply(b, "norm2", dense(b, "fc2", x, dim, False, config.weights)))

    return project


@cache
def _methods(config: RegionAutoencoder) -> dict[str, BlockBody]:
    bottleneck, weights, vision = config.bottleneck, config.weights, config.vision
    maps = len(vision.levels)
    norm = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)
    dropout = config.regions.dropout
    mixer = Attention(
        kind="attention",
        heads=config.regions.heads,
        causal=config.regions.causal,
        dropout=dropout,
        weight_dropout=dropout,
    )

    def encoded(b: Builder, x: Var, static: dict[str, Any]) -> tuple[Var, Var]:
        """The input of the bottleneck, f32[B, Z, N, 1], and the features of the vision model's last block."""
        batch, width, tokens = x.shape[0], static["width"], static["tokens"]
        sizes = {key: static[f"vision_{key}"] for key in vision.static()}
        names = " ".join("level" for _ in range(maps))
        wanted = static.get("seen", static["size"])
        seen = b.clamp(resized_image(b, x, wanted), low=-1.0, high=1.0, out="seen")
        levels = b.sub("vision", vision_transformer(vision), seen, out=names, size=wanted, **sizes)
        levels = [b.stop_gradient(v, out="level") for v in (levels if isinstance(levels, tuple) else (levels,))]
        read = [
            b.sub(name, _level(config), level, features=level.shape[2], dim=width, out="map")
            for name, level in zip(items("levels", maps), levels, strict=True)
        ]
        values = read[0] if maps == 1 else b.concat(*read, axis=1, out="maps")
        x = norm.apply(b, "query_norm", b.param("queries", f32(1, tokens, width), "normal", std=0.02))
        x = b.broadcast_to(x, values, shape=(batch, tokens, width), out="x")
        places = b.param("query_positions", f32(1, tokens, width), "normal", std=0.02)
        of_blocks = {
            "dim": width,
            "heads": static["region_heads"],
            "hidden": static["region_hidden"],
            "maps": maps,
            "points": static["points"],
            "grid": static["queries"],
            "side": static["side"],
        }
        for name in items("regions", static["region_depth"]):
            x = b.sub(name, region_block(mixer, dropout), x, places, values, **of_blocks)
        wanted = bottleneck.encoded * static["latent"]
        h = b.transpose(dense(b, "to_latents", x, wanted, True, weights), perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, wanted, tokens, 1), out="h"), levels[-1]

    def regions(b: Builder, z: Var, static: dict[str, Any]) -> tuple[Var, dict[str, Any]]:
        """Latents [B, Z, N, 1] as what the decoder of features takes, and the sizes of that."""
        tokens, width = static["tokens"], static["width"]
        z = b.transpose(b.reshape(z, shape=(z.shape[0], static["latent"], tokens)), perm=(0, 2, 1), out="z")
        own = {"regions": tokens, "dim": width, **{key: static[key] for key in ("grid", "side", "depth")}}
        own |= {"features": static["vision_width"]}
        own |= {key: static[key] for key in config.block.static(int(width))}
        return dense(b, "from_latents", z, width, True, weights, out="x"), own

    def feature_maps(b: Builder, z: Var, static: dict[str, Any], both: bool) -> Any:
        x, own = regions(b, z, static)
        body = feature_decoder(config.block, config.registers, weights, both)
        return b.sub("decoder", body, x, out="map like" if both else "map", **own)

    def image(b: Builder, cells: Var, static: dict[str, Any], features: bool = False) -> Any:
        sizes = {"latent": static["width"], "channels": static["channels"], "outputs": 3}
        return b.sub(
            "pixels", decoder(config.pixels.half, features), cells, out="x features" if features else "x", **sizes
        )

    def trained(b: Builder, x: Var, noise: tuple[Var, ...], static: dict[str, Any], features: bool) -> tuple[Var, ...]:
        h, true = encoded(b, x, static)
        z, penalty = bottleneck.regularized(b, h, noise[0] if noise else None, static)
        cells, like = feature_maps(b, z, static, True)
        made = image(b, cells, static, features)
        far = b.mean(1.0 - _cosine(b, like, true), axes=(1,), keepdims=False, out="far")
        penalty = b.add(penalty, far * config.alignment, out="penalty")
        return (*made, penalty) if features else (made, penalty)

    picture = "B 3 size size"

    @module_class("RegionAutoencoder", "forward", x=picture)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Images x [B, 3, H, H] encoded and decoded, without randomness."""
        z = bottleneck.mode(b, encoded(b, x, static)[0], static)
        return image(b, feature_maps(b, z, static, False), static)

    @module_class("RegionAutoencoder", "encode", x=picture)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes of the regions of images x [B, 3, H, H]."""
        return bottleneck.codes(b, encoded(b, x, static)[0], static)

    @module_class("RegionAutoencoder", "decode")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, 3, H, H] of latents or tokens z of regions."""
        x = image(b, feature_maps(b, bottleneck.latents(b, z, static), static, False), static)
        return x if config.decoded is None else b.resize(x, size=config.decoded, mode="bicubic", out="x")

    @module_class("RegionAutoencoder", "decode_features")
    def decode_features(b: Builder, z: Var, **static: Any) -> tuple[Var, ...]:
        """The map [B, D, h, h] that an image is decoded from, and features [B, S, F] like the vision model's."""
        return feature_maps(b, bottleneck.latents(b, z, static), static, True)

    @module_class("RegionAutoencoder", "regularized", x=picture)
    def regularized(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, ...]:
        """Images x encoded and decoded as in training, and the penalty [B] on their codes and decoded features."""
        return trained(b, x, noise, static, False)

    @module_class("RegionAutoencoder", "regularized_features", x=picture)
    def regularized_features(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, ...]:
        """The same, and the features [B, C, H, H] that the last convolution maps to the images."""
        return trained(b, x, noise, static, True)

    bodies = (forward, encode, decode, decode_features, regularized, regularized_features)
    return {body.method: body for body in bodies}


def _cosine(b: Builder, x: Var, y: Var) -> Var:
    """f32[B, S]: the cosines of features f32[B, S, F], their lengths at least 1e-6."""

    def length(v: Var) -> Var:
        return b.maximum(b.sqrt(b.sum(v * v, axes=(2,), keepdims=False)), 1e-6)

    return b.div(b.sum(x * y, axes=(2,), keepdims=False), length(x) * length(y), out="cosine")
