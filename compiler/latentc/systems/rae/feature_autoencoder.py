"""An autoencoder whose latents are the features of a frozen vision model: RAE's first stage.

Symbols: B batch, H side of an image, h side of the square of patches, T = h h patches, C channels of a feature, D width
of the decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.kit.bicubic import scaled_image
from latentc.components.layers import MEAN, STD
from latentc.components.networks._query_parts import from_patches
from latentc.components.parts import Problem, Spec, Weights, dense, under
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.vfmtok.vision import Vision, problem_of_images, vision_transformer

EPS = 1e-5
"""Added to the variance of the features."""


class UnscaledVision(Vision):
    """DINOv2 whose features are normalised, without the scale and shift that it learned for them."""

    @property
    def final_norm(self) -> LayerNorm:
        return LayerNorm(kind="layer_norm", eps=1e-6, affine=False)


class FeatureAutoencoder(Backbone):
    """The patches' features of a frozen vision model as latents, and a transformer that decodes them (RAE, Zheng et al.
    2025, arXiv:2510.11690).

    Takes images x f32[B, 3, H, H] in [-1, 1]. Latents f32[B, C, h, h] are the features of the last block, less the mean
    over the data and divided by its deviation, number by number. Training adds noise to the features, with a deviation
    drawn uniformly per sample, so that the decoder stands latents that a generator misses by a little.
    """

    kind: Literal["feature_autoencoder"]
    vision: UnscaledVision = Field(description="the vision model, which stays frozen")
    width: int = Field(gt=0, le=65_536, description="channels of a token of the decoder (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the decoder")
    patch: int = Field(16, gt=0, le=1_024, description="side of the patch that the decoder makes of a token, in pixels")
    block: Block = Field(description="block of the decoder")
    noise: float = Field(
        0.0, ge=0, le=1_000, description="largest standard deviation of the noise that training adds to the features"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    frozen_weights: tuple[str, ...] = Field(("vision.*",), description="patterns of weights that stay frozen")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "feature_autoencoder",
        "vision": {"width": 8, "depth": 2, "heads": 2, "patch": 4, "side": 3, "registers": 1, "levels": [1]},
        "width": 8,
        "depth": 1,
        "patch": 4,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm", "eps": 1e-12, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "noise": 0.8,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if (problem := problem_of_images(spec)) is not None:
            yield problem
            return
        size = self._size(spec)
        yield from under("vision", problems=self.vision.problems(size))
        if len(self.vision.levels) > 1:
            yield Problem(("vision", "levels"), "latents are the features of one block", "name the last block alone")
        cells = self.vision.cells(size)
        if cells * self.patch != size:
            message = f"{cells} × {cells} patches of {self.patch} pixels are no images of a side of {size}"
            yield Problem(("patch",), message, f"use a side of {cells * self.patch}, or another `vision.image`")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    @property
    def bottleneck(self) -> Gaussian:
        """The form of its codes: latents as they are."""
        return Gaussian(kind="gaussian", channels=self.vision.width, variational=False)

    def _size(self, spec: Spec) -> int:
        """Side of the images, in pixels."""
        assert spec.data.shape is not None
        return spec.data.shape[1]

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        size = self._size(spec)
        side = self.vision.cells(size)
        return (Port("x", f32(B, 3, size, size), "state"),), self.bottleneck.code_type(side, side)

    def codes(self, spec: Spec) -> Codes:
        side = self.vision.cells(self._size(spec))
        return Codes(self.bottleneck.decoded_type(side, side), None, self.patch)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        size, latents = self._size(spec), self.codes(spec).type
        static = {
            "size": size,
            **{f"vision_{key}": number for key, number in self.vision.static().items()},
            **({} if self.vision.image is None else {"seen": self.vision.image}),
            "side": self.vision.cells(size),
            "width": self.width,
            "depth": self.depth,
            "patch": self.patch,
            **self.block.static(self.width),
        }
        x, z = Port("x", f32(B, 3, size, size), "state"), Port("z", latents, "state")
        noise = (
            [
                Port("noise", latents, "noise", distribution="normal"),
                Port("level", f32(B), "noise", distribution="uniform"),
            ]
            if self.noise
            else []
        )
        bodies = _methods(self)
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[list[Port], tuple[Role, ...]]] = {
            "forward": ([x], plain),
            "encode": ([x], plain),
            "decode": ([z], plain),
            "regularized": ([x, *noise], ("output", "penalty")),
        }
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        return Network(name, methods, self.PROVIDES, sizes={"position_side": self.vision.side})


@cache
def _decoder(config: FeatureAutoencoder) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("FeatureDecoder", x="B features side side")
    def forward(b: Builder, x: Var, *, side: int, features: int, width: int, depth: int, patch: int, **own: Any) -> Var:
        """Standardised images [B, 3, H, H] of the features x [B, C, h, h] of patches."""
        batch, count = x.shape[0], side * side
        x = b.transpose(b.reshape(x, shape=(batch, features, count)), perm=(0, 2, 1), out="x")
        x = dense(b, "embedder", x, width, True, config.weights, out="x")
        x = b.add(x, b.param("positions", f32(1, count, width), "sincos_2d", "state", width=width, grid=side), out="x")
        first = b.param("cls_token", f32(1, 1, width), "normal", std=0.02)
        x = b.concat(b.broadcast_to(first, x, shape=(batch, 1, width), out="cls"), x, axis=1, out="x")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **own)
        x = LayerNorm(kind="layer_norm", eps=1e-12, affine=True).apply(b, "norm", x)
        x = b.slice(x, axis=1, start=1, stop=1 + int(count), out="x")
        return from_patches(b, x, 3, (1, side, side), (1, patch, patch), (side * patch, side * patch))

    return forward


@cache
def _methods(config: FeatureAutoencoder) -> dict[str, BlockBody]:
    vision, bottleneck = config.vision, config.bottleneck

    def statistics(b: Builder, static: dict[str, Any]) -> tuple[Var, Var]:
        """Mean and standard deviation of the features over the data, f32[C, h, h]."""
        each = f32(static["vision_width"], static["side"], static["side"])
        variance = b.param("latent_variance", each, "ones", "state")
        return b.param("latent_mean", each, "zeros", "state"), b.sqrt(b.add(variance, EPS), out="deviation")

    def features(b: Builder, x: Var, static: dict[str, Any]) -> Var:
        """Features [B, C, h, h] of images, without gradients."""
        batch, side, channels = x.shape[0], static["side"], static["vision_width"]
        size = static.get("seen", static["size"])
        sizes = {key: static[f"vision_{key}"] for key in vision.static()}
        seen = scaled_image(b, x, size, "plain")
        h = b.sub("vision", vision_transformer(vision), seen, out="h", size=size, **sizes)
        h = b.transpose(b.stop_gradient(h, out="h"), perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, channels, side, side), out="h")

    def image(b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """Images [B, 3, H, H] in [-1, 1] of features."""
        sizes = {key: static[key] for key in ("side", "width", "depth", "patch", *config.block.static(config.width))}
        x = b.sub("decoder", _decoder(config), h, out="x", features=static["vision_width"], **sizes)
        scale = b.constant([[[2 * s]] for s in STD], out="scale")
        return b.add(b.mul(x, scale), b.constant([[[2 * m - 1]] for m in MEAN], out="shift"), out="x")

    picture = "B 3 size size"

    @module_class("FeatureAutoencoder", "forward", x=picture)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Images x [B, 3, H, H] encoded and decoded."""
        return image(b, features(b, x, static), static)

    @module_class("FeatureAutoencoder", "encode", x=picture)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """Latents of images x [B, 3, H, H] as means, and log-variances of no noise: [B, 2 C, h, h]."""
        mean, deviation = statistics(b, static)
        z = b.div(b.op("sub", features(b, x, static), mean), deviation, out="z")
        return bottleneck.codes(b, z, static)

    @module_class("FeatureAutoencoder", "decode", z="B vision_width side side")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, 3, H, H] of latents z."""
        mean, deviation = statistics(b, static)
        return image(b, b.add(b.mul(z, deviation), mean, out="h"), static)

    @module_class("FeatureAutoencoder", "regularized", x=picture)
    def regularized(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, Var]:
        """Images x [B, 3, H, H] encoded and decoded with noise on their features, and a penalty [B] of 0."""
        h = features(b, x, static)
        if noise:
            normal, level = noise
            spread = b.reshape(b.mul(level, config.noise), shape=(h.shape[0], 1, 1, 1), out="spread")
            h = b.add(h, b.mul(normal, spread), out="h")
        h, penalty = bottleneck.regularized(b, h, None, static)
        return image(b, h, static), penalty

    return {body.method: body for body in (forward, encode, decode, regularized)}
