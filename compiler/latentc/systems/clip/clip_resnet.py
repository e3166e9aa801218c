"""CLIP's residual network, which may take the time of noisy images.

It stands beside `resnet_classifier`: CLIP averages before it skips pixels, and attends from the mean to all positions
for one vector. Symbols: B batch, C channels, F features, T positions of the last map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.backbone import add_method
from latentc.components.blocks.unet.residual import heads_of
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Method, Network, Port
from latentc.components.layers import batch_norm
from latentc.components.networks._image_encoder import ImageEncoder
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named, TensorType

EPS = 1e-5
REDUCTION = 32  # side in pixels of what one position of the last map stands for
EXPANSION = 4  # channels that a block returns, per channel of its first convolution
LEVELS = 5  # including the stem
Output = Literal["encode", "see", "see_levels"]


class TimeEmbedding(Closed):
    """The time of a noisy image scales and shifts the channels of every batch norm (Liu et al. 2021, section 3.4)."""

    frequencies: int = Field(128, gt=1, le=65_536, multiple_of=2, description="sinusoids of the time")
    width: Size = Field(512, description="width of the two layers after them")


class ClipResnet(ImageEncoder):
    """CLIP's ModifiedResNet (Radford et al. 2021, arXiv:2103.00020): a vector f32[B, F] of images f32[B, 3, H, H].

    With `time`, it sees noisy samples at their time, as SDG's fine-tuned encoder (Liu et al. 2021, arXiv:2112.05744).
    Style is compared at its stem and each of its four levels.
    """

    kind: Literal["clip_resnet"]
    layers: tuple[Size, Size, Size, Size] = Field((3, 4, 6, 3), description="blocks per level")
    width: int = Field(
        64, gt=1, le=4_096, multiple_of=2, description="channels of the stem, a quarter of those of the first level"
    )
    heads: Size = Field(32, description="attention heads of the pooling")
    features: Size = Field(1024, description="size of the vector (F)")
    time: TimeEmbedding | None = Field(None, description="time embedding, for noisy images; null: no time input")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode", "see", "see_noisy"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "clip_resnet",
        "layers": [1, 1, 1, 1],
        "width": 4,
        "heads": 2,
        "features": 6,
        "image": 32,
    }

    def provides(self, spec: Spec) -> frozenset[Capability]:
        """It sees samples unless it reads another field; with a time, nothing else."""
        if self.time is not None:
            return frozenset({"see_noisy"})
        return super().provides(spec) - {"see_noisy"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_images(spec, REDUCTION, ("image",))
        channels = EXPANSION * 8 * self.width
        if channels % self.heads:
            yield Problem(("heads",), f"{self.heads} heads do not divide the {channels} channels of the last level")
        if self.time is not None and self.reads is not None:
            message = f"the time is that of a noisy sample, and it reads `{self.reads}`"
            yield Problem(("time",), message, "leave out `time` or `reads`")
        yield from self.problems_of_conditions(spec)

    def features_seen(self, spec: Spec) -> int:
        return self.features

    def map_seen(self, spec: Spec) -> tuple[int, ...] | None:
        return (self.features,) if self.reads is None else None

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        return (Port(self.reads or "x", f32(B, *self.shape_read(spec)), "state"),), f32(B, self.features)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        channels, size, _ = self.shape_read(spec)
        static = {
            **{"size": self.side(size), "width": self.width, "heads": self.heads, "features": self.features},
            **{f"layers_{i}": n for i, n in enumerate(self.layers, 1)},
            **({} if self.time is None else {"frequencies": self.time.frequencies, "time_width": self.time.width}),
        }
        ports = [Port("x", f32(B, channels, size, size), "state")]
        ports += [] if self.time is None else [Port("t", f32(B), "time")]
        provides = self.provides(spec)
        made: list[Output] = ["encode"] if "encode" in provides else []
        made += ["see", "see_levels"] if {"see", "see_noisy"} & provides else []
        methods: dict[str, Method] = {}
        for method in made:
            outputs: list[Role] = ["output"]
            outputs *= LEVELS if method == "see_levels" else 1
            methods[method] = add_method(mb, name, method, _network(self, method), ports, static, outputs)
        return Network(name, methods, provides)


@cache
def _network(config: ClipResnet, output: Output) -> BlockBody:
    @module_class("ClipResNet", output, x="B C H W")
    def forward(
        b: Builder, x: Var, *time: Var, size: int, width: int, heads: int, features: int, **static: Any
    ) -> Var | tuple[Var, ...]:
        """The vector of images x."""
        counts = [static[f"layers_{level}"] for level in range(1, 5)]
        x = config.prepared(b, x, size)
        film = _Film(b, time, sum(_numbers(width, counts)), static) if time else None
        for i, (channels, stride) in enumerate(((width // 2, 2), (width // 2, 1), (width, 1)), 1):
            x = _normed(b, str(i), x, channels, 3, stride, None if film is None else film.taken(2 * channels))
            x = b.relu(x, out="x")
        x = b.avg_pool(x, size=2, out="x")
        seen = [x]
        for level, count in enumerate(counts, 1):
            channels = width * 2 ** (level - 1)
            for i, name in enumerate(items(f"layer{level}", count)):
                stride = 2 if level > 1 and i == 0 else 1
                of_time = () if film is None else (film.taken(4 * channels + 2 * EXPANSION * channels),)
                sizes = {"channels": x.shape[1], "features": channels}
                x = b.sub(name, _block(stride, i == 0, bool(time)), x, *of_time, out="x", **sizes)
            seen.append(x)
        if output == "see_levels":
            return tuple(seen)
        sizes = {"channels": x.shape[1], "side": size // REDUCTION, "heads": heads, "features": features}
        return b.sub("attn_pool", _pool, x, out="features", **sizes)

    if output == "see_levels":
        forward.body.__doc__ = "Feature maps of images x: of the stem and of each level."
    return forward


def _numbers(width: int, counts: list[int]) -> list[int]:
    """How many scales and shifts the stem and the blocks of each level take."""
    levels = [count * (4 + 2 * EXPANSION) * width * 2**i for i, count in enumerate(counts)]
    return [4 * width, *levels]


class _Film:
    """The time's contributions to all layers in order, f32[B, N]."""

    def __init__(self, b: Builder, time: tuple[Var, ...], count: int, static: dict[str, Any]) -> None:
        x = b.timestep_embedding(time[0], dim=static["frequencies"], max_period=10000.0)
        x = b.relu(b.dense("time.fc1", x, static["time_width"]), out="x")
        x = b.relu(b.dense("time.fc2", x, static["time_width"]), out="x")
        self.b, self.all, self.at = b, b.dense("film", x, count, out="film"), 0

    def taken(self, count: int) -> Var:
        """The next numbers f32[B, count]."""
        self.at += count
        return self.b.slice(self.all, axis=1, start=self.at - count, stop=self.at, out="film")


def _normed(b: Builder, name: str, x: Var, channels: Any, kernel: int, stride: int, film: Var | None) -> Var:
    """A convolution and its batch norm, `convNAME` and `bnNAME`; `film` f32[B, 2 C] scales and shifts the result."""
    weight = b.param(f"conv{name}.weight", f32(channels, x.shape[1], kernel, kernel), "kaiming_normal", mode="fan_out")
    h = batch_norm(b, f"bn{name}", b.conv(x, weight, stride=stride, padding=kernel // 2, out="h"), True, EPS, out="h")
    if film is None:
        return h
    batch = film.shape[0]
    parts = b.unbind(b.reshape(film, shape=(batch, 2, channels, 1, 1), out="parts"), axis=1, out="scale shift")
    return b.add(b.mul(h, b.add(parts[0], 1.0, out="scale"), out="h"), parts[1], out="h")


@cache
def _block(stride: int, shortcut: bool, timed: bool) -> BlockBody:
    name = "DownBottleneck" if stride > 1 else "WideBottleneck" if shortcut else "Bottleneck"

    @module_class(name, x="B channels H W")
    def forward(b: Builder, x: Var, *film: Var, channels: Any, features: Any) -> Var:
        """Three convolutions with batch norms and a shortcut; averages 2 x 2 pixels if it downsamples."""
        of: Sequence[Var | None] = [None] * 3
        if timed:
            bounds = (0, 2 * features, 4 * features, (4 + 2 * EXPANSION) * features)
            of = [b.slice(film[0], axis=1, start=s, stop=e, out="film") for s, e in pairwise(bounds)]
        h = b.relu(_normed(b, "1", x, features, 1, 1, of[0]), out="h")
        h = b.relu(_normed(b, "2", h, features, 3, 1, of[1]), out="h")
        h = b.avg_pool(h, size=stride, out="h") if stride > 1 else h
        h = _normed(b, "3", h, EXPANSION * features, 1, 1, of[2])
        if shortcut:
            x = b.avg_pool(x, size=stride, out="x") if stride > 1 else x
            shape = f32(EXPANSION * features, x.shape[1], 1, 1)
            x = b.conv(x, b.param("downsample_conv.weight", shape, "kaiming_normal", mode="fan_out"), out="x")
            x = batch_norm(b, "downsample_norm", x, True, EPS, out="x")
        return b.relu(b.add(h, x, out="x"), out="x")

    return forward


@module_class("AttentionPool", x="B channels side side")
def _pool(b: Builder, x: Var, *, channels: Any, side: Any, heads: Any, features: Any) -> Var:
    """Attends from the mean of x to all positions and to itself, and projects the result: [B, features]."""
    batch = x.shape[0]
    positions = Named(side**2, "T", "positions of x")
    h = b.transpose(b.reshape(x, shape=(batch, channels, positions)), perm=(0, 2, 1), out="h")
    h = b.concat(b.mean(h, axes=(1,), keepdims=True, out="mean"), h, axis=1, out="h")
    h = h + b.param("positions", f32(positions + 1, channels), "normal", std=0.02)
    q, k, v = heads_of(b, b.dense("qkv", h, 3 * channels, out="qkv"), "parts", heads, channels // heads)
    q = b.slice(q, axis=2, start=0, stop=1, out="q")
    h = b.reshape(b.attention(q, k, v, causal=False, scale=None), shape=(batch, channels), out="h")
    return b.dense("out", h, features)
