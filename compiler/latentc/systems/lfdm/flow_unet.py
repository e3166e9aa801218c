"""LFDM's denoiser of motion: a U-Net of video with factorised attention (Video Diffusion Models).

Convolutions and linear attention look at each frame, further attention at each pixel along the frames.
Symbols: B batch, C channels, F frames, H and W sides, D channels of a head, T frames as a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

BUCKETS, FARTHEST = 32, 32
"""Distances of frames that have a bias of their own, and the farthest of them."""
SPATIAL_HEAD = 32
"""Channels of a head of attention to pixels."""
EPS = 1e-5


class FlowUnet(Backbone):
    """A 3-D U-Net of motion (Ho et al. 2022, arXiv:2204.03458; LFDM, Ni et al. 2023, arXiv:2303.13744).

    Takes x f32[B, 3, F, H / f, W / f], of video [C, F, H, W] reduced by the `factor` f, the time f32[B] and conditions;
    returns as much. Arrays of one axis join the embedded time as they are, labels embedded. Arrays f32[B, D, h, w],
    repeated for every frame, and f32[B, D, F, h, w] join x.
    """

    kind: Literal["flow_unet"]
    factor: int = Field(4, gt=0, le=64, description="pixels of the video per pixel of its motion, along each side")
    parts: tuple[Size, ...] = Field(
        (2, 1), min_length=1, max_length=16, description="channels that an output layer of its own predicts each"
    )
    width: int = Field(64, gt=0, le=65_536, description="channels of the first convolution")
    multipliers: tuple[Size, ...] = Field(
        (1, 2, 4, 8), min_length=1, max_length=16, description="channels of each level, as a multiple of `width`"
    )
    heads: int = Field(8, gt=0, le=1_024, description="heads of each attention")
    head_width: int = Field(32, gt=0, le=32, multiple_of=2, description="channels of a head along the frames")
    groups: int = Field(8, gt=0, le=1_024, description="groups of the group norms")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "flow_unet",
        "factor": 2,
        "width": 8,
        "multipliers": [1, 2],
        "heads": 2,
        "head_width": 4,
        "groups": 4,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, multiple = spec.data.shape, self.factor * 2 ** (len(self.multipliers) - 1)
        if shape is None or len(shape) != 4:
            yield Problem((), f"a {self.kind} takes motion of video [C, F, H, W], but the data has {spec.data.words}")
        elif shape[2] % multiple or shape[3] % multiple:
            message = f"sides of {shape[2]} and {shape[3]} pixels are no multiples of {multiple}"
            yield Problem(("multipliers",), message, "use fewer levels, or another `factor`")
        if any(self.width * m % self.groups for m in (1, *self.multipliers)):
            yield Problem(("groups",), f"{self.groups} groups do not divide the channels of every level")
        yield from self.problems_of_time(spec)
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_variance(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        _, frames, *sides = spec.data.shape
        state = f32(B, sum(self.parts), frames, *(side // self.factor for side in sides))
        entries = self.entries(spec)
        ports = (Port("x", state, "state"), Port("t", f32(B), "time"), *ports_of(entries))
        static = {
            "channels": sum(self.parts),
            "width": self.width,
            "heads": self.heads,
            "head_width": self.head_width,
            **spec.time.static(),
            **self.condition_sizes(spec),
        }
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"levels": len(self.multipliers)})


@cache
def _network(config: FlowUnet, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    last, conditioned, plain = len(config.multipliers) - 1, _resnet(config.groups, True), _resnet(config.groups, False)

    @module_class("FlowUNet", x="B channels F H W")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        heads: int,
        head_width: int,
        **sizes: Any,
    ) -> Var:
        """Predicts from noisy motion x at time t, given the conditions."""
        frames = int(x.shape[2])
        vectors = []
        for entry, operands in with_operands(entries, conditions):
            of = operands[0]
            if entry.form == "vector":
                vectors.append(entry.vector(b, entry.prefix, operands, width, sizes))
            elif of.type.rank == 2:
                vectors.append(of)
            else:
                x = b.concat(x, _in_every_frame(b, of, frames), axis=1, out="x")
        c = time.features(b, t, **{name: sizes[name] for name in time.static()})
        c = b.gelu(b.dense("time_fc1", c, 4 * width), approximate="none", out="c")
        c = b.dense("time_fc2", c, 4 * width, out="c")
        c = b.silu(b.concat(c, *vectors, axis=1) if vectors else c, out="c")
        bias = _bias(b, frames, heads)

        def attended(name: str, x: Var) -> Var:
            return b.sub(name, _temporal, x, bias, dim=x.shape[1], heads=heads, head_width=head_width, out="x")  # type: ignore[no-any-return]

        def blocks(name: str, x: Var, features: Any) -> Var:
            for part in ("block1", "block2"):
                x = b.sub(
                    f"{name}.{part}",
                    conditioned,
                    x,
                    c,
                    channels=x.shape[1],
                    features=features,
                    condition=c.shape[1],
                    out="x",
                )
            x = b.sub(f"{name}.spatial", _spatial, x, dim=features, heads=heads, out="x")
            return attended(f"{name}.temporal", x)

        first = _conv(b, "in_conv", x, width, 7, "first")
        x, skips = attended("in_temporal", first), []
        for level, multiplier in enumerate(config.multipliers):
            x = blocks(f"down.{level}", x, width * multiplier)
            skips.append(x)
            if level < last:
                x = _conv(b, f"down.{level}.downsample", x, x.shape[1], 4, "x", stride=(1, 2, 2), padding=(0, 1, 1))
        x = b.sub(
            "middle.block1", conditioned, x, c, channels=x.shape[1], features=x.shape[1], condition=c.shape[1], out="x"
        )
        x = b.sub("middle.spatial", _pixels, x, dim=x.shape[1], heads=heads, out="x")
        x = attended("middle.temporal", x)
        x = b.sub(
            "middle.block2", conditioned, x, c, channels=x.shape[1], features=x.shape[1], condition=c.shape[1], out="x"
        )
        for i, level in enumerate(range(last, -1, -1)):
            x = b.concat(x, skips.pop(), axis=1, out="x")
            x = blocks(f"up.{i}", x, width * (config.multipliers[level - 1] if level else 1))
            if level:
                x = _doubled(b, f"up.{i}.upsample", x)
        x = b.concat(x, first, axis=1, out="x")
        found = []
        for i, of_part in enumerate(config.parts):
            h = b.sub(f"out.{i}.block", plain, x, channels=x.shape[1], features=width, out="h")
            found.append(_conv(b, f"out.{i}.conv", h, of_part, 1, "part"))
        return b.concat(*found, axis=1, out="out") if len(found) > 1 else found[0]

    return forward


def _in_every_frame(b: Builder, x: Var, frames: int) -> Var:
    """Arrays [B, D, H, W] as [B, D, F, H, W]; those of video as they are."""
    if x.type.rank == 5:
        return x
    batch, depth, rows, columns = x.shape
    wide = b.reshape(x, shape=(batch, depth, 1, rows, columns))
    return b.broadcast_to(wide, shape=(batch, depth, frames, rows, columns), out=x.value.name)


@cache
def _resnet(groups: int, conditioned: bool) -> BlockBody:
    @module_class(
        "ResnetBlock" if conditioned else "PlainResnetBlock",
        x="B channels F H W",
        **({"c": "B condition"} if conditioned else {}),
    )
    def forward(b: Builder, x: Var, *c: Var, channels: int, features: int, **condition: int) -> Var:
        """A residual block of each frame."""
        h = _normed(b, "norm_1", _conv(b, "conv_1", x, features, 3), groups)
        if conditioned:
            scale, shift = b.split(b.dense("mlp", c[0], 2 * features), axis=1, sizes=(features,) * 2, out="scale shift")
            scale, shift = (b.reshape(v, shape=(x.shape[0], features, 1, 1, 1)) for v in (scale, shift))
            h = h * (scale + 1.0) + shift
        h = b.silu(h, out="h")
        h = b.silu(_normed(b, "norm_2", _conv(b, "conv_2", h, features, 3), groups), out="h")
        same = int(x.shape[1]) == int(features)
        return b.add(h, x if same else _conv(b, "shortcut", x, features, 1, "shortcut"), out="x")

    return forward


@module_class("TemporalAttention", x="B dim T H W", bias="M heads T T")
def _temporal(b: Builder, x: Var, bias: Var, *, dim: int, heads: int, head_width: int) -> Var:
    """Each pixel attends along the frames."""
    batch, _, frames, rows, columns = x.shape
    pixels = (batch * int(rows) * int(columns), frames)
    h = b.reshape(b.transpose(x, perm=(0, 3, 4, 2, 1)), shape=(*pixels, dim), out="h")
    q, k, v = _heads(b, _layer_norm(b, h, dim), heads, head_width)
    tables = _rotations(b, int(frames), int(head_width))
    q, k = (b.rotary(part, *tables, interleaved=True, out=name) for part, name in ((q, "q"), (k, "k")))
    h = b.attention(q, k, v, bias, causal=False, out="h")
    h = b.reshape(b.transpose(h, perm=(0, 2, 1, 3)), shape=(*pixels, heads * head_width), out="h")
    h = b.reshape(b.dense("out", h, dim, False), shape=(batch, rows, columns, frames, dim), out="h")
    return b.add(x, b.transpose(h, perm=(0, 4, 3, 1, 2)), out="x")


@module_class("SpatialLinearAttention", x="B dim F H W")
def _spatial(b: Builder, x: Var, *, dim: int, heads: int) -> Var:
    """Linear attention to the pixels of each frame (Shen et al. 2021, arXiv:1812.01243)."""
    h, frames = _of_frames(b, x)
    q, k, v = _heads(b, _layer_norm(b, h, dim), heads, SPATIAL_HEAD)
    q, k = b.softmax(q, axis=3, out="q"), b.softmax(k, axis=2, out="k")
    context = b.matmul(b.transpose(k, perm=(0, 1, 3, 2)), v, out="context")
    h = b.matmul(q * SPATIAL_HEAD**-0.5, context, out="h")
    h = b.reshape(b.transpose(h, perm=(0, 2, 1, 3)), shape=(*frames, heads * SPATIAL_HEAD), out="h")
    return _added(b, x, b.dense("out", h, dim))


@module_class("SpatialAttention", x="B dim F H W")
def _pixels(b: Builder, x: Var, *, dim: int, heads: int) -> Var:
    """Attention to the pixels of each frame."""
    h, frames = _of_frames(b, x)
    h = b.attention(*_heads(b, _layer_norm(b, h, dim), heads, SPATIAL_HEAD), causal=False, out="h")
    h = b.reshape(b.transpose(h, perm=(0, 2, 1, 3)), shape=(*frames, heads * SPATIAL_HEAD), out="h")
    return _added(b, x, b.dense("out", h, dim, False))


def _of_frames(b: Builder, x: Var) -> tuple[Var, tuple[Any, Any]]:
    """x as f32[B F, H W, C], and the sizes of the first two axes."""
    batch, channels, frames, rows, columns = x.shape
    sizes = (batch * int(frames), rows * columns)
    return b.reshape(b.transpose(x, perm=(0, 2, 3, 4, 1)), shape=(*sizes, channels), out="h"), sizes


def _added(b: Builder, x: Var, h: Var) -> Var:
    batch, channels, frames, rows, columns = x.shape
    h = b.reshape(h, shape=(batch, frames, rows, columns, channels), out="h")
    return b.add(x, b.transpose(h, perm=(0, 4, 1, 2, 3)), out="x")


def _heads(b: Builder, h: Var, heads: Any, width: Any) -> list[Var]:
    """Queries, keys and values f32[N, heads, T, width] of h f32[N, T, C]."""
    count, length, _ = h.shape
    qkv = b.split(b.dense("qkv", h, 3 * heads * width, False), axis=2, sizes=(heads * width,) * 3, out="q k v")
    shape = (count, length, heads, width)
    return [b.transpose(b.reshape(x, shape=shape), perm=(0, 2, 1, 3), out=n) for x, n in zip(qkv, "qkv", strict=True)]


def _layer_norm(b: Builder, h: Var, dim: Any) -> Var:
    return b.layer_norm(h, b.param("norm.weight", f32(dim), "ones"), eps=EPS, out="h")


def _rotations(b: Builder, length: int, width: int) -> tuple[Var, Var]:
    """Cosines and sines f32[F, D / 2] of the angles of frames."""
    angles = np.arange(length)[:, None] * 10000.0 ** -(np.arange(0, width, 2) / width)
    return b.constant(np.cos(angles), out="cos"), b.constant(np.sin(angles), out="sin")


def _bias(b: Builder, frames: int, heads: Any) -> Var:
    """f32[1, heads, F, F]: a bias per distance of frames, or logarithmic range of distances (Raffel et al. 2020)."""
    table = b.param("temporal_bias.weight", f32(BUCKETS, heads), "normal")
    distance = np.arange(frames)[:, None] - np.arange(frames)[None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    near = np.abs(distance)
    far = np.log(np.maximum(near, 1) / exact) / math.log(FARTHEST / exact) * (half - exact)
    index = np.where(near < exact, near, np.minimum(exact + far.astype(int), half - 1)) + half * (distance < 0)
    bias = b.embedding(table, b.constant(index, out="bucket"), out="bias")
    return b.reshape(b.transpose(bias, perm=(2, 0, 1)), shape=(1, heads, frames, frames), out="bias")


def _normed(b: Builder, name: str, x: Var, groups: int) -> Var:
    weight, bias = (
        b.param(f"{name}.{n}", f32(x.shape[1]), init) for n, init in (("weight", "ones"), ("bias", "zeros"))
    )
    return b.group_norm(x, weight, bias, groups=groups, eps=EPS, out="h")


def _conv(b: Builder, name: str, x: Var, features: Any, kernel: int, out: str = "h", **how: Any) -> Var:
    """A convolution of each frame."""
    shape = (features, x.shape[1], 1, kernel, kernel)
    fan_in = x.shape[1] * kernel**2
    weight = b.param(f"{name}.weight", f32(*shape), "linear_default", fan_in=fan_in)
    bias = b.param(f"{name}.bias", f32(features), "linear_default", fan_in=fan_in)
    return b.conv(x, weight, bias, out=out, **(how or {"padding": (0, kernel // 2, kernel // 2)}))


def _doubled(b: Builder, name: str, x: Var) -> Var:
    fan_in = x.shape[1] * 16
    weight = b.param(f"{name}.weight", f32(x.shape[1], x.shape[1], 1, 4, 4), "linear_default", fan_in=fan_in)
    bias = b.param(f"{name}.bias", f32(x.shape[1]), "linear_default", fan_in=fan_in)
    return b.conv_transpose(x, weight, bias, stride=(1, 2, 2), padding=(0, 1, 1), out="x")
