"""A causal transformer over the quantised channels of a token, given its features: TokenBridge's head.

A file of its own because its sequence is the channels of one token, each with a table and logits of its own.

Symbols: N tokens, C channels of a token, V levels of a channel, D width, Z channels of the features, H heads, d
channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.networks.token_mlp import features_of_main, problems_of_head
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B
from latentc.systems.tokenbridge.levels import level_values


class ChannelTransformer(TokenBlocks):
    """Predicts the level of each channel of a token from features of network `main` and the channels before
    (TokenBridge, Wang et al. 2025, arXiv:2503.16430).

    `forward`: levels i64[N, C] in the order of generation, z f32[N, Z] -> logits f32[N, C, V]. `channel_0`: z -> logits
    f32[N, V] of the first channel, then the caches, a pair (keys, values) f32[N, H, C, d] per block; `channel_1`, …: z,
    the level i64[N] of the channel before, the caches -> the same; the last returns only logits. As in the authors'
    code, the sequence begins with the projected features in `forward`, elsewhere with these and the step's vector.
    """

    kind: Literal["channel_transformer"]
    levels: int = Field(64, gt=1, le=65_536, description="levels of each channel (V)")
    span: float = Field(5.0, gt=0, le=1e6, description="largest magnitude of the tokens' channels")
    deviations: float = Field(
        3.0, gt=0, le=8, description="that magnitude in deviations of the normal whose quantiles bound the levels"
    )
    order: tuple[Annotated[int, Field(ge=0, lt=65_536)], ...] | None = Field(
        None, max_length=65_536, description="order in which channels are drawn; null: as they are"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "channel_transformer",
        "width": 16,
        "depth": 1,
        "levels": 4,
        "span": 1.0,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "stepwise_adaln"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_channel"})

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_head(self, spec)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_decoding("a channel_transformer predicts the next channel")
        yield from self.block.problems_of_condition(self.kind, "a vector for each token")
        if "kv_heads" in self.block.static(self.width):
            yield Problem(("block", "mixer", "kv_heads"), "its caches are of all heads", "leave it out")
        channels, _ = features_of_main(spec) or (0, 0)
        if self.order is not None and channels and sorted(self.order) != list(range(channels)):
            yield Problem(("order",), f"`order` is not one of the {channels} channels of a token", "list each once")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        channels, features = features_of_main(spec) or (0, 0)
        static = {
            "channels": channels,
            "features": features,
            "levels": self.levels,
            **self.block_sizes(),
        }
        cache_ = Port("caches", f32(B, static["heads"], channels, self.width // static["heads"]), "cache")
        caches, z = (cache_,) * (2 * self.depth), Port("z", f32(B, features), "condition")
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        state = Port("x", i64(B, channels), "state", self.levels)
        methods = {"forward": add_method(mb, name, "forward", _forward(self), (state, z), static, ("logits",))}
        for k in range(channels):
            before = (Port("token", i64(B), "token", self.levels),) if k else ()
            ports = (z, *before, *(caches if k else ()))
            outputs = grown if k < channels - 1 else ("logits",)
            body = _channel(self, k, k == channels - 1)
            methods[f"channel_{k}"] = add_method(mb, name, f"channel_{k}", body, ports, static, outputs)
        values = level_values(self.levels, self.span, self.deviations)
        order = self.order or tuple(range(channels))
        return Network(name, methods, self.PROVIDES, sizes={"values": values, "order": order})


def levels_of(head: Network) -> tuple[float, ...]:
    """The values of the levels of a head's channels."""
    values = head.sizes["values"]
    assert isinstance(values, tuple)
    return values


def order_of(head: Network) -> tuple[int, ...]:
    """The channels in the order in which a head predicts them."""
    order = head.sizes["order"]
    assert isinstance(order, tuple)
    return tuple(int(channel) for channel in order)


def _condition(b: Builder, z: Var, channels: Any, width: Any) -> tuple[Var, Var, Var]:
    """Projected features f32[N, 1, D], and vectors of the steps and positions of the channels, f32[1, C, D] each."""
    cond = b.reshape(dense(b, "condition_proj", z, width, True, "xavier"), shape=(z.shape[0], 1, width), out="cond")
    steps = b.param("step_embed", f32(1, channels, width), "normal", std=0.02)
    return cond, steps, b.param("channel_embed", f32(1, channels, width), "normal", std=0.02)


def _embedded(b: Builder, k: int, level: Var, levels: Any, width: Any) -> Var:
    """Levels i64[N] of channel `k`, which are tokens f32[N, 1, D] of the next step."""
    table = b.param(f"tok_embeddings.{k}.weight", f32(levels, width), "normal", std=0.02)
    return b.reshape(b.embedding(table, level), shape=(level.shape[0], 1, width), out="x")


@cache
def _final(config: ChannelTransformer) -> BlockBody:
    norm = config.block.parts()[2].model_copy(update={"affine": False})

    @module_class("ChannelNorm")
    def final(b: Builder, x: Var, c: Var, *, dim: int) -> Var:
        """Normalises the channels, then scales and shifts each by its condition."""
        modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
        scale, shift = b.split(modulation, axis=2, sizes=(dim, dim), out="scale shift")
        return norm.apply(b, "norm", x) * (scale + 1.0) + shift

    return final


def _finished(config: ChannelTransformer, b: Builder, x: Var, c: Var, width: Any) -> Var:
    x = config.block.parts()[2].apply(b, "norm", x)
    return b.sub("final", _final(config), x, c, dim=width)


@cache
def _forward(config: ChannelTransformer) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("ChannelTransformer", x="B channels", z="B features")
    def forward(
        b: Builder, x: Var, z: Var, *, channels: int, features: int, levels: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Logits of the channels of tokens with features z, each given the levels x of the channels before."""
        count, batch = int(channels), x.shape[0]
        cond, steps, places = _condition(b, z, channels, width)
        before = b.split(x, axis=1, sizes=(1,) * count, out="level") if count > 1 else []
        given = [
            _embedded(b, k, b.reshape(level, shape=(batch,)), levels, width) for k, level in enumerate(before[:-1])
        ]
        h = b.concat(cond, *given, axis=1, out="h") if given else cond
        h = b.reshape(h, shape=(batch, channels, width), out="h") + places
        c, sizes = b.add(cond, steps, out="c"), config.block.own(width, static)
        for name in items("blocks", depth):
            h = b.sub(name, block, h, c, dim=width, **sizes)
        h = _finished(config, b, h, c, width)
        logits = []
        for k, own in enumerate(b.split(h, axis=1, sizes=(1,) * count, out="own") if count > 1 else [h]):
            logits.append(dense(b, f"output.{k}", own, levels, True, config.weights))
        return b.reshape(b.concat(*logits, axis=1), shape=(batch, channels, levels), out="logits")

    return forward


@cache
def _channel(config: ChannelTransformer, k: int, last: bool) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)

    def predicted(
        b: Builder,
        z: Var,
        token: Var | None,
        caches: Sequence[Var],
        channels: Any,
        levels: Any,
        width: Any,
        static: Any,
    ) -> Any:
        cond, steps, places = _condition(b, z, channels, width)
        step = b.slice(steps, axis=1, start=k, stop=k + 1, out="step")
        c = b.add(cond, step, out="c")
        x = c if token is None else _embedded(b, k - 1, token, levels, width)
        x = b.add(x, b.slice(places, axis=1, start=k, stop=k + 1, out="place"), out="x")
        position = b.constant(np.int64(k), out="position")
        mask = b.reshape(b.less_equal(b.arange(int(channels)), k), shape=(1, 1, 1, channels), out="mask")
        first, sizes = (c, position, mask), config.block.own(width, static)
        x, grown = cached_blocks(b, "blocks", block, len(caches) // 2, x, caches, first, dim=width, **sizes)
        x = b.reshape(_finished(config, b, x, c, width), shape=(z.shape[0], width), out="x")
        logits = dense(b, f"output.{k}", x, levels, True, config.weights, out="logits")
        return logits if last else (logits, *grown)

    if k == 0:

        @module_class("ChannelTransformer", "channel_0", z="B features")
        def first(
            b: Builder, z: Var, *, channels: int, features: int, levels: int, width: int, depth: int, **static: Any
        ) -> Any:
            """Logits of the first channel of tokens with features z, and the caches."""
            shape = (static["heads"], channels, width // static["heads"])
            caches = [b.full(z, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(depth))]
            return predicted(b, z, None, caches, channels, levels, width, static)

        return first

    @module_class("ChannelTransformer", f"channel_{k}", z="B features", caches="B heads channels width//heads")
    def later(
        b: Builder,
        z: Var,
        token: Var,
        *caches: Var,
        channels: int,
        features: int,
        levels: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> Any:
        """Logits of the next channel given the level of the channel before, and the grown caches."""
        return predicted(b, z, token, caches, channels, levels, width, static)

    return later
