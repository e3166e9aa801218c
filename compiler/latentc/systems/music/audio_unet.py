"""Moûsai's U-Net over waveforms: residual blocks that the time modulates, with attention at the coarse levels.

A level reduces the length by a strided convolution, applies its blocks, then what is coarser, then blocks again, and
enlarges by repetition and a convolution; the result is added to the level's input, scaled by the time. It shares no
block with the U-Nets over images: a block here is residual, then layer-normalised and modulated as a whole.
Symbols: B batch, C channels, L length in samples, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Level, Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.music.parts import EPS, reduced, residual

HIDDEN = 2  # times that the embedding of the time goes through its hidden layer


class AudioUnet(Backbone):
    """The one-dimensional U-Net of Moûsai (Schneider et al. 2023, arXiv:2301.11757), `UNetV0` of a-unet.

    Takes waveforms x f32[B, C, L], t f32[B] and vectors such as a class; returns f32[B, C, L]. L is a multiple of the
    product of `factors`.
    """

    kind: Literal["audio_unet"]
    widths: tuple[Size, ...] = Field(min_length=1, max_length=16, description="channels of each level")
    factors: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="factor by which each level reduces the length"
    )
    blocks: tuple[Size, ...] = Field(min_length=1, max_length=16, description="blocks on each side of each level")
    attention: tuple[Level, ...] = Field((), max_length=16, description="levels whose blocks attend, from 0")
    heads: int = Field(8, gt=0, le=1_024, description="attention heads")
    head_width: int = Field(64, gt=0, le=65_536, description="channels of an attention head")
    groups: int = Field(8, gt=0, le=1_024, description="groups of the group norms")
    embedding: int = Field(1024, gt=0, le=65_536, description="size of the embedding of time and conditions (E)")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "audio_unet", "widths": [8, 12], "factors": [1, 4], "blocks": [1, 2], "attention": [1]},
        **{"heads": 2, "head_width": 4, "groups": 4, "embedding": 16},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        for name in ("factors", "blocks"):
            if len(getattr(self, name)) != len(self.widths):
                message = f"{len(getattr(self, name))} `{name}` for {len(self.widths)} levels"
                yield Problem((name,), message, "give one for each of `widths`")
        for i, level in enumerate(self.attention):
            if level >= len(self.widths):
                yield Problem(
                    ("attention", i), f"level {level} is out of range: levels are 0 to {len(self.widths) - 1}"
                )
        for i, width in enumerate(self.widths):
            if width % self.groups:
                yield Problem(("widths", i), f"{width} channels do not divide into {self.groups} groups")
        shape = spec.data.shape
        if shape is None or len(shape) != 2:
            yield Problem((), f"an audio_unet takes waveforms [channels, time], but the data has {spec.data.words}")
            return
        yield from self.problems_of_variance(spec)
        if shape[1] % math.prod(self.factors):
            message = f"a waveform of {shape[1]} samples is not a multiple of {math.prod(self.factors)}, by which the "
            yield Problem(("factors",), f"{message}levels reduce it", "change the length of the data, or the factors")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, length = spec.data.shape
        entries = self.entries(spec)
        static = {
            "channels": channels,
            "embedding": self.embedding,
            "heads": self.heads,
            "head_width": self.head_width,
            **spec.time.static(),
            **self.condition_sizes(spec),
        }
        ports = (Port("x", f32(B, channels, length), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: AudioUnet, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("AudioUnet", x="B channels L")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        embedding: int,
        heads: int,
        head_width: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy waveforms x at time t, given the conditions."""
        c = b.sub("embedder", _embedder(time, entries), t, *conditions, embedding=embedding, out="c", **static)

        def blocks(name: str, x: Var, level: int) -> Var:
            attends = {"heads": heads, "head_width": head_width} if level in config.attention else {}
            sized = {"channels": config.widths[level], "embedding": embedding, "groups": config.groups, **attends}
            for item in items(f"{name}.blocks", config.blocks[level]):
                x = b.sub(item, _block, x, c, out="x", **sized)
            return x

        skips: list[Var] = []
        levels = range(len(config.widths))
        for i in levels:
            skips.append(x)
            x = blocks(f"down.{i}", reduced(b, f"down.{i}.resample", x, config.widths[i], config.factors[i]), i)
        for i in reversed(levels):
            x, skip = blocks(f"up.{i}", x, i), skips.pop()
            x = b.upsample_nearest(x, factor=config.factors[i], out="x") if config.factors[i] > 1 else x
            features = config.widths[i - 1] if i else channels
            x = layers.conv(b, f"up.{i}.resample", x, features, 3, "linear_default", out="x")
            scale = b.dense(f"up.{i}.skip", b.silu(c), features, out="scale")
            x = b.add(skip, b.reshape(scale, shape=(x.shape[0], features, 1), out="scale") * x, out="x")
        return x

    return forward


@cache
def _embedder(time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *conditions: Var, embedding: int, **static: Any) -> Var:
        """Embeds the time, and adds the embedded conditions; the hidden layer is applied twice, as in a-unet."""
        features = time.features(b, t, **{name: static[name] for name in time.static()})
        c = b.gelu(b.dense("fc1", features, embedding), approximate="none", out="c")
        for _ in range(HIDDEN):
            c = b.gelu(b.dense("fc2", c, embedding), approximate="none", out="c")
        for entry, operands in with_operands(entries, conditions):
            c = b.add(c, entry.vector(b, entry.prefix, operands, embedding, static), out="c")
        return c

    return embedder


@module_class("AudioBlock", x="B channels L", c="B embedding")
def _block(b: Builder, x: Var, c: Var, *, channels: int, embedding: int, groups: int, **attends: Any) -> Var:
    """Two convolutions beside a shortcut, a modulated layer norm and, at coarse levels, attention over the length."""
    x = residual(b, x, channels, groups)
    x = b.transpose(x, perm=(0, 2, 1), out="x")
    c = b.reshape(b.dense("modulation", b.silu(c), 2 * channels), shape=(c.shape[0], 1, 2 * channels), out="c")
    scale, shift = b.split(c, axis=2, sizes=(channels, channels), out="scale shift")
    x = b.add(b.layer_norm(x, eps=1e-6, out="h") * (scale + 1.0), shift, out="x")
    if attends:
        x = b.sub("attention", _attention, x, channels=channels, out="x", **attends)
    return b.transpose(x, perm=(0, 2, 1))


@module_class("AudioAttention", x="B L channels")
def _attention(b: Builder, x: Var, *, channels: int, heads: int, head_width: int) -> Var:
    """Self-attention over the length of x [B, L, C], added to x; keys and values have a layer norm of their own."""
    inner = heads * head_width

    def normalised(name: str) -> Var:
        weight, bias = b.param(f"{name}.weight", f32(channels), "ones"), b.param(f"{name}.bias", f32(channels), "zeros")
        return b.layer_norm(x, weight, bias, eps=EPS, out="h")

    q = b.dense("q", normalised("norm"), inner, bias=False, out="q")
    kv = b.dense("kv", normalised("kv_norm"), 2 * inner, bias=False)
    k, v = b.split(kv, axis=2, sizes=(inner, inner), out="k v")
    q, k, v = (split_heads(b, y, heads, head_width, out) for y, out in ((q, "q"), (k, "k"), (v, "v")))
    h = joined_heads(b, b.attention(q, k, v, causal=False, scale=None, out="h"), inner, out="h")
    return b.add(x, b.dense("proj", h, channels, bias=False, out="h"))
