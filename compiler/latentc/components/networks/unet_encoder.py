"""The way down of a U-Net with a pooled output: ADM's classifier of noisy images.

Symbols: B batch, C channels, K classes, T positions of the last feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.unet.layers import SHAPES, linear
from latentc.components.blocks.unet.residual import ResidualBlock, heads_of
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeFeatures
from latentc.components.contract import Network, Sizes
from latentc.components.networks._unet import Parts, Unet
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import Named, product

HIDDEN = 2048
"""Hidden width of what pools the means of all blocks."""


class UnetEncoder(Unet):
    """Classifies a noisy sample: half a U-Net, then pooling (Dhariwal and Nichol 2021, arXiv:2105.05233).

    Takes x f32[B, C, ...] and t f32[B]; returns logits f32[B, K] over the classes of the data's labels. By default it
    takes no conditions, since it predicts the class.
    """

    kind: Literal["unet_encoder"]
    conditions: tuple[str, ...] | None = Field(
        (), description="names of the conditions it takes; it predicts the class"
    )
    pool: Literal["attention", "mean", "all_means", "all_means_normalized"] = Field(
        "attention",
        description="input of the logits: attention from the mean to all positions; the mean (`adaptive` in ADM's "
        "code); the means after all blocks, through a hidden layer (`spatial`), optionally normalised (`spatial_v2`)",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "unet_encoder",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [1],
        "block": {"groups": 4, "head_channels": 8},
    }

    def sizes(self, spec: Spec) -> Sizes:
        """As of every U-Net; `means`, `normalized`: 1 where the pool is of all means, and where it has a norm."""
        means = int(self.pool.startswith("all_means"))
        return {**super().sizes(spec), "means": means, "normalized": int(self.pool == "all_means_normalized")}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_labels(self.kind, spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeFeatures)
        ports = self.ports(spec)
        static = {**self.static(spec), "classes": classes_of(spec)}
        body = _network(self, spec.time, self.entries(spec), ports[0].type.rank - 2)
        forward = add_method(mb, name, "forward", body, ports, static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES, sizes=self.sizes(spec))


@cache
def _network(config: UnetEncoder, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
    @module_class("UNetEncoder", x=SHAPES[axes])
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        blocks: int,
        classes: int,
        **static: Any,
    ) -> Var:
        """Logits of the classes of noisy x at time t."""
        parts = Parts(b, config, time, entries, x, t, conditions, width, blocks, {**static, "classes": classes})
        x, skips = parts.down()
        x = parts.middle(x)
        if config.pool.startswith("all_means"):
            means = [b.mean(v, axes=tuple(range(2, v.type.rank)), keepdims=False) for v in (*skips, x)]
            return b.sub("head", _head(config), b.concat(*means, axis=1, out="means"), hidden=HIDDEN, classes=classes)
        h = config.block.activated(b, config.block.norm(b, "out_norm", x))
        if config.pool == "mean":
            h = b.mean(h, axes=tuple(range(2, h.type.rank)), keepdims=False, out="h")
            return linear(b, "out", h, classes, config.block.weights)
        heads = config.block.head_count(h.shape[1])
        return b.sub("pool", _pool(config.block, axes), h, channels=h.shape[1], heads=heads, classes=classes)

    return forward


@cache
def _head(config: UnetEncoder) -> BlockBody:
    block, normalised = config.block, config.pool == "all_means_normalized"

    @module_class("Head")
    def forward(b: Builder, x: Var, *, hidden: int, classes: int) -> Var:
        """Logits of the means [B, channels] after all blocks."""
        h = linear(b, "fc1", x, hidden, block.weights, out="h")
        if not normalised:
            return linear(b, "fc2", b.relu(h, out="h"), classes, block.weights)
        batch = h.shape[0]
        h = block.norm(b, "norm", b.reshape(h, shape=(batch, hidden, 1), out="h"))
        return linear(b, "out", block.activated(b, b.reshape(h, shape=(batch, hidden))), classes, block.weights)

    return forward


@cache
def _pool(config: ResidualBlock, axes: int) -> BlockBody:
    @module_class("AttentionPool", x=SHAPES[axes])
    def forward(b: Builder, x: Var, *, channels: int, heads: int, classes: int) -> Var:
        """Attends from the mean of x [B, channels, ...] to all positions, and projects the result."""
        batch, _, *space = x.shape
        positions = Named(int(product(space)), "T", "positions of x")  # type: ignore[arg-type]
        h = b.transpose(b.reshape(x, shape=(batch, channels, positions)), perm=(0, 2, 1), out="h")
        h = b.concat(b.mean(h, axes=(1,), keepdims=True, out="mean"), h, axis=1, out="h")
        h = h + b.param("positions", f32(positions + 1, channels), "normal", std=1.0)
        qkv = linear(b, "qkv", h, 3 * channels, config.weights, out="qkv")
        q, k, v = heads_of(b, qkv, "parts", heads, channels // heads)
        q = b.slice(q, axis=2, start=0, stop=1, out="q")
        h = b.reshape(b.attention(q, k, v, causal=False, scale=None), shape=(batch, channels), out="h")
        return linear(b, "proj", h, classes, config.weights)

    return forward
