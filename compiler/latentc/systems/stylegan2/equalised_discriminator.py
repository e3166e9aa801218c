"""StyleGAN2's discriminator, with equalised learning rates and the standard deviation of the batch.

Not `style_discriminator`, the form of it that tokenizers use: that has neither, and other convolutions where it halves
the resolution. Symbols: B batch, C channels, S side, K classes, G samples of a group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.unet.layers import binomial
from latentc.components.capabilities import Capability
from latentc.components.condition import Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import blurred, problems_of_class, with_averages
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.stylegan2.style_blocks import (
    activated,
    class_embedding,
    column,
    conv,
    fully_connected,
    mapping_layer,
)

LAST = 4
"""Side of the feature map that linear layers read."""


class EqualisedDiscriminator(Backbone):
    """Scores an image with StyleGAN2's discriminator (Karras et al. 2020, arXiv:1912.04958).

    Takes x f32[B, C, S, S] and y i64[B], if it is conditional; returns `score` f32[B, 1]: of a class, the product
    of features with its embedding (Karras et al. 2020, arXiv:2006.06676).
    """

    kind: Literal["equalised_discriminator"]
    channel_base: int = Field(
        32_768, gt=0, le=16_777_216, description="channels of a feature map times its side, if below the maximum"
    )
    channel_max: int = Field(512, gt=0, le=65_536, description="maximum number of channels")
    residual: bool = Field(True, description="blocks have a shortcut; false: as for CIFAR-10")
    deviation_group: int | None = Field(
        4,
        gt=1,
        le=65_536,
        description="samples in a row whose mean standard deviation is one more feature (minibatch standard "
        "deviation), of data or of generated ones alone if it divides the batch of each process. null: no such feature",
    )
    mapping_layers: int = Field(8, gt=0, le=64, description="layers of the embedding of the class")
    mapping_rate: float = Field(0.01, gt=0, description="learning rate of these layers relative to the rest")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "equalised_discriminator", "channel_base": 64, "channel_max": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square images [C, S, S], but the data has {spec.data.words}")
        elif shape[1] < LAST or shape[1] & (shape[1] - 1):
            yield Problem((), f"a {self.kind} takes sides that are powers of 2 of at least {LAST}, not {shape[1]}")
        elif self.channel_base < shape[1]:
            message = f"`channel_base: {self.channel_base}` leaves no channels at a side of {shape[1]}"
            yield Problem(("channel_base",), message, f"use at least {shape[1]}")
        seen = spec.train.batch_size // spec.train.accumulate
        if self.deviation_group is not None and seen % self.deviation_group:
            message = (
                f"{seen} samples at a time are no multiple of {self.deviation_group}, so data and generated samples "
            )
            message += "would share a group"
            fits = [n for n in range(2, self.deviation_group) if seen % n == 0]
            mend = f"use {fits[-1]}" if fits else "use null"
            yield Problem(("deviation_group",), message, f"{mend}, or change `train.batch_size`")
        yield from self.problems_of_conditions(spec)
        yield from problems_of_class(self, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, side, _ = spec.data.shape
        sides = [side >> i for i in range((side // LAST).bit_length())]
        widths = tuple(min(self.channel_base // side, self.channel_max) for side in sides)
        static = {"channels": channels, **self.condition_sizes(spec)}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(self.entries(spec)))
        forward = add_method(mb, name, "forward", _forward(self, widths), ports, static)
        methods = with_averages(mb, name, spec, "EqualisedDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, sizes={"depth": len(widths) - 1})


@cache
def _forward(config: EqualisedDiscriminator, widths: tuple[int, ...]) -> BlockBody:
    depth = len(widths) - 1

    @module_class("EqualisedDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *y: Var, channels: int, **sizes: Any) -> Var:
        """The score [B, 1] of images x [B, C, S, S]."""
        h = x
        for i, (width, features) in enumerate(pairwise(widths)):
            # Counted from the coarsest, as a block is named by its side in the authors' code.
            block = _block(config.residual, i == 0)
            h = b.sub(f"blocks.{depth - 1 - i}", block, h, out="h", channels=h.shape[1], width=width, features=features)
        if not depth:
            h = conv(b, "fromrgb", h, widths[0], 1)
        if config.deviation_group is not None:
            h = b.concat(h, _deviation(b, h, config.deviation_group), axis=1, out="h")
        h = conv(b, "conv", h, widths[-1], 3)
        h = b.reshape(h, shape=(h.shape[0], widths[-1] * LAST * LAST), out="h")
        sizes_of = {"in_features": h.shape[1], "out_features": widths[-1]}
        h = activated(b, b.sub("hidden", fully_connected, h, out="h", **sizes_of))
        sizes_of = {"in_features": widths[-1], "out_features": widths[-1] if y else 1}
        score = b.sub("score", fully_connected, h, out="h" if y else "score", **sizes_of)
        if not y:
            return score
        embedded = b.sub("mapping", _mapping(config.mapping_layers, config.mapping_rate), *y, dim=widths[-1], **sizes)
        product = b.sum(score * embedded, axes=(1,), keepdims=True, out="product")
        return b.mul(product, 1 / math.sqrt(widths[-1]), out="score")

    return forward


@cache
def _mapping(layers: int, rate: float) -> BlockBody:
    @module_class("ClassMapping", y="B")
    def mapping(b: Builder, y: Var, *, classes: int, dim: int) -> Var:
        """Embeddings [B, dim] of classes."""
        h = b.sub("embed", class_embedding, y, out="h", classes=classes, features=dim)
        for name in items("layers", layers):
            h = b.sub(name, mapping_layer(rate), h, out="h", in_features=dim, out_features=dim)
        return h

    return mapping


@cache
def _block(residual: bool, first: bool) -> BlockBody:
    @module_class("FirstEqualisedBlock" if first else "EqualisedBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, width: int, features: int) -> Var:
        """Two convolutions; the second is blurred first and has stride 2."""
        x = conv(b, "fromrgb", x, width, 1) if first else x
        h = conv(b, "conv0", x, width, 3)
        h = b.conv(h, binomial(b, h, 1.0), padding=2, groups=h.shape[1], out="h")
        h = conv(b, "conv1", h, features, 3, stride=2)
        if not residual:
            return h
        shortcut = conv(b, "skip", blurred(b, x, 4, "shortcut"), features, 1, active=False)
        return b.mul(b.add(shortcut, h), math.sqrt(0.5), out="h")

    return forward


def _deviation(b: Builder, h: Var, group: int) -> Var:
    """f32[B, 1, H, W]: the standard deviation over groups of samples in a row, as a mean over the features of h."""
    batch, features = h.shape[0], math.prod(int(d) for d in h.shape[1:])
    flat = b.reshape(h, shape=(batch, features), out="flat")
    index = b.op("sub", b.cumsum(b.full(flat, shape=(), value=1, dtype="i64"), axis=0), 1)
    number = b.div(index, group, out="number")
    rows, columns = b.reshape(number, shape=(batch, 1)), b.reshape(number, shape=(1, batch))
    same = b.cast(b.equal(rows, columns), to="f32", out="same")
    share = b.div(same, b.sum(same, axes=(1,), keepdims=True), out="share")
    difference = b.op("sub", flat, b.matmul(share, flat), out="difference")
    variance = b.matmul(share, difference * difference, out="variance")
    deviation = b.mean(b.sqrt(variance + 1e-8), axes=(1,), keepdims=True, out="deviation")
    shape = (batch, 1, *h.shape[2:])
    return b.broadcast_to(column(b, deviation), h, shape=shape, out="deviation")
