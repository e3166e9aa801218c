"""A discriminator that reads the features of a frozen vision transformer: DINO's.

Not `transformer_discriminator`, which trains its blocks and scores one token: here small convolutions along the patches
score each of them at several depths. Symbols: B batch, T patches, D width, L depths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Index, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches
from latentc.components.networks._gan import with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

RATIO, EPS, SLOPE, INIT = 4, 1e-6, 0.2, "linear_default"


class FeatureDiscriminator(Backbone):
    """Scores each patch at several depths of DINO (Caron et al. 2021, arXiv:2104.14294), as used by tokenizers.

    Takes x f32[B, 3, H, W] in [-1, 1], resized to the transformer's input; returns `score` f32[B, (L + 1) T], from the
    embedded patches and from `levels`. Weights `vision.*` are loaded from a file and stay frozen: `frozen_weights:
    ["vision.*"]`. The heads' norms always use batch statistics (Sauer et al. 2023, arXiv:2301.09515).
    """

    kind: Literal["feature_discriminator"]
    width: int = Field(384, gt=0, le=65_536, description="channels of a token (D); ViT-S: 384")
    depth: int = Field(12, gt=0, le=512, description="blocks; ViT-S: 12")
    heads: int = Field(6, gt=0, le=1_024, description="heads of each attention; ViT-S: 6")
    patch: int = Field(16, gt=0, le=1_024, description="side of a patch, in pixels")
    side: int = Field(14, gt=0, le=4_096, description="patches per side of the resized image")
    levels: tuple[Index, ...] = Field(
        (2, 5, 8, 11),
        min_length=1,
        max_length=64,
        description="indices of blocks whose outputs the heads read, from 0, ascending",
    )
    crops: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of taking a random crop of a larger image instead of resizing it (VFMTok: 0.5, "
        "there for a whole batch at once)",
    )
    kernel: int = Field(9, gt=0, le=255, description="kernel size of a head's second convolution, in patches, odd")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "feature_discriminator",
        "width": 8,
        "depth": 1,
        "heads": 2,
        "patch": 4,
        "side": 2,
        "levels": [0],
        "kernel": 3,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[0] != 3:
            yield Problem((), f"a {self.kind} takes images of 3 channels, but the data has {spec.data.words}")
        elif self.crops and min(shape[1:]) <= self.side * self.patch:
            message = (
                f"images of {shape[1]} by {shape[2]} are too small to crop: sides must exceed "
                f"{self.side * self.patch} pixels"
            )
            yield Problem(("crops",), message, "leave `crops` out, or use larger images")
        if self.width % self.heads:
            yield Problem(("heads",), f"{self.heads} heads do not divide a width of {self.width}")
        if list(self.levels) != sorted(set(self.levels)):
            yield Problem(("levels",), f"{list(self.levels)} must be in ascending order")
        elif self.levels[-1] >= self.depth:
            yield Problem(
                ("levels",), f"block {self.levels[-1]} is out of range: there are blocks 0 to {self.depth - 1}"
            )
        if self.kernel % 2 == 0 or self.kernel // 2 > self.side**2:
            message = f"`kernel` must be odd and at most {2 * self.side**2 + 1}, not {self.kernel}"
            yield Problem(("kernel",), message)
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        x = Port("x", f32(B, *spec.data.shape), "state")
        static = {"width": self.width}
        crop = [Port("crop", f32(B, 3), "noise", distribution="uniform")] if self.crops else []
        forward = add_method(mb, name, "forward", _forward(self), [x, *crop], static)
        methods = with_averages(mb, name, spec, "FeatureDiscriminator", forward, static)
        return Network(name, methods, self.provides(spec), sizes={"depth": self.depth})


@cache
def _forward(config: FeatureDiscriminator) -> BlockBody:
    vision, head = _vision(config), _head(config.kernel)

    @module_class("FeatureDiscriminator", x="B 3 H W")
    def forward(b: Builder, x: Var, *crop: Var, width: int) -> Var:
        """A score for each patch at each depth of images x [B, 3, H, W] in [-1, 1]."""
        size, whole = config.side * config.patch, x
        if tuple(map(int, x.shape[2:])) != (size, size):
            mode = "area" if int(x.shape[2]) > size else "bicubic"
            x = b.resize(x, size=(size, size), mode=mode, out="x")
        if crop:
            x = _cropped(b, whole, x, crop[0], config.crops)
        names = " ".join(f"level_{i}" for i in range(len(config.levels) + 1))
        seen = b.sub("vision", vision, x, out=names, width=width, heads=config.heads, hidden=RATIO * config.width)
        scores = [b.sub(f"heads.{i}", head, h, out="scores", width=width) for i, h in enumerate(seen)]
        return b.concat(*scores, axis=1, out="score")

    return forward


def _cropped(b: Builder, x: Var, resized: Var, u: Var, share: float) -> Var:
    """A part of each of images x that is as large as the `resized` ones, or the resized image.

    u f32[B, 3], uniform in [0, 1): whether it is a part, and where the first of its rows and columns is.
    """
    batch, size = x.shape[0], int(resized.shape[2])
    which, *firsts = b.split(u, axis=1, sizes=(1, 1, 1), out="which row column")
    picks = []
    for first, length in zip(firsts, x.shape[2:], strict=True):
        first = b.cast(b.mul(first, float(int(length) - size + 1)), to="i64", out="first")
        place = b.reshape(b.add(first, b.reshape(b.arange(size), shape=(1, size))), shape=(batch, 1, size, 1))
        picks.append(b.cast(b.equal(place, b.reshape(b.arange(int(length)), shape=(1, 1, 1, length))), to="f32"))
    rows, columns = picks
    part = b.matmul(b.matmul(rows, x), b.transpose(columns, perm=(0, 1, 3, 2)), out="part")
    return b.where(b.less(b.reshape(which, shape=(batch, 1, 1, 1)), share), part, resized, out="x")


@cache
def _vision(config: FeatureDiscriminator) -> BlockBody:
    norm = LayerNorm(kind="layer_norm", eps=EPS, affine=True)
    mixer = Attention(kind="attention", heads=config.heads)
    feed_forward = GeluMlp(kind="gelu_mlp", ratio=RATIO)
    block = InContext(kind="in_context").block(mixer, feed_forward, norm, "normal")
    tokens = config.side**2

    @module_class("VisionTransformer", x="B 3 H W")
    def forward(b: Builder, x: Var, *, width: int, heads: int, hidden: int) -> tuple[Var, ...]:
        """The patches of images x in [-1, 1] plus the class token, [B, width, T] at each depth."""
        x = embedded_patches(b, "x_embedder", layers.standardised(b, x), width, config.patch, "normal", tokens)
        first = b.param("cls_token", f32(1, 1, width), "normal", std=0.02)
        first = b.broadcast_to(first, x, shape=(x.shape[0], 1, width), out="first")
        x = b.concat(first, x, axis=1, out="x")
        x = b.add(x, b.param("positions", f32(1, tokens + 1, width), "normal", std=0.02), out="x")
        found = [_read(b, x, tokens)]
        for i, name in enumerate(items("blocks", config.levels[-1] + 1)):
            x = b.sub(name, block, x, dim=width, heads=heads, hidden=hidden)
            if i in config.levels:
                found.append(_read(b, x, tokens))
        return tuple(found)

    return forward


def _read(b: Builder, x: Var, tokens: int) -> Var:
    """The patches of tokens x f32[B, 1 + T, D], each plus the class token: f32[B, D, T]."""
    first, patches = b.split(x, axis=1, sizes=(1, tokens), out="first patches")
    return b.transpose(patches + first, perm=(0, 2, 1), out="level")


@cache
def _part(kernel: int) -> BlockBody:
    @module_class("FeatureRing" if kernel > 1 else "FeatureBlock", x="B width T")
    def forward(b: Builder, x: Var, *, width: int) -> Var:
        """A convolution along the patches of x [B, width, T], which are a ring, and a norm by the batch."""
        reach, tokens = kernel // 2, int(x.shape[2])
        if reach:
            last = b.slice(x, axis=2, start=tokens - reach, stop=tokens, out="last")
            x = b.concat(last, x, b.slice(x, axis=2, start=0, stop=reach, out="first"), axis=2, out="ring")
        h = layers.conv(b, "conv", x, width, kernel, INIT, spectral=True, padded=False, out="h")
        centred = b.op("sub", h, b.mean(h, axes=(0, 2), keepdims=True), out="centred")
        variance = b.mean(centred * centred, axes=(0, 2), keepdims=True, out="variance")
        weight, bias = b.param("norm_weight", f32(width, 1), "ones"), b.param("norm_bias", f32(width, 1), "zeros")
        return b.leaky_relu(centred / b.sqrt(variance + EPS) * weight + bias, slope=SLOPE, out="h")

    return forward


@cache
def _head(kernel: int) -> BlockBody:
    @module_class("FeatureHead", x="B width T")
    def forward(b: Builder, x: Var, *, width: int) -> Var:
        """A score for each patch of features x [B, width, T]."""
        h = b.sub("enter", _part(1), x, out="h", width=width)
        h = b.mul(b.sub("ring", _part(kernel), h, out="around", width=width) + h, 1 / math.sqrt(2), out="h")
        scores = layers.conv(b, "score", h, 1, 1, INIT, spectral=True, padded=False, out="scores")
        return b.reshape(scores, shape=(x.shape[0], x.shape[2]), out="scores")

    return forward
