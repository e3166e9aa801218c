"""A residual network that fills in hidden patches, whose features drifting models compare.

Symbols: B batch, C channels, H rows, W columns, T positions, D channels of a feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

EPS, TINY = 1e-6, 1e-6
"""The eps of group norms, and what is added to the square of a deviation."""
INIT = "lecun"
STAGES = 4
HALVED = 2 ** (STAGES - 1)
"""Positions of x per position of the last stage, along each axis."""


def normed(b: Builder, name: str, x: Var, most: int, out: str = "h") -> Var:
    """A group norm with as many groups as divide the channels, at most `most`."""
    groups = max(g for g in range(1, most + 1) if int(x.shape[1]) % g == 0)
    return layers.group_norm(b, name, x, groups, EPS, out=out)


class MaskedResnet(Backbone):
    """A ResNet with a decoder beside its stages (Deng et al. 2026, arXiv:2602.04770).

    Takes x f32[B, C, H, W], partly hidden; returns it filled in, and logits of its class. `maps` are features f32[B, T,
    D] for drifting: x itself, the root mean square of its channels, and of each feature map its positions, their mean
    and deviation, and those of every patch of 2 and of 4 positions.
    """

    kind: Literal["masked_resnet"]
    width: int = Field(gt=0, le=65_536, description="channels of the first stage; each further one has twice as many")
    layers: tuple[Annotated[int, Field(gt=0, le=512)], ...] = Field(
        (3, 4, 6, 3), min_length=STAGES, max_length=STAGES, description="residual blocks of each of the four stages"
    )
    groups: int = Field(
        32,
        gt=0,
        le=1_024,
        description="groups of a norm, or the largest divisor of the channels below; with one channel each, the mean "
        "and deviation of a feature map say nothing",
    )
    every: int = Field(2, gt=0, le=512, description="every so many blocks of a stage one gives a feature map too")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"feature_maps", "fill_in"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_resnet", "width": 4, "layers": [1, 1, 1, 2], "groups": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif any(side % HALVED for side in shape[1:]):
            message = f"{shape[1]} by {shape[2]} positions cannot be halved three times"
            yield Problem((), message, f"use sides that are multiples of {HALVED}")
        if not spec.data.classes:
            yield Problem((), f"a {self.kind} classifies, but the data has no classes", "set `data.classes`")
        yield from self.problems_of_conditions(spec)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("width",)  # the groups of its norms follow from it

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static = {"width": self.width, "channels": spec.data.shape[0], "classes": spec.data.classes}
        ports = [Port("x", f32(B, *spec.data.shape), "state")]
        forward, maps = _methods(self)
        roles: list[Role] = ["output", "logits"]
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static, roles)}
        count = len(self.map_names(*spec.data.shape[1:]))
        methods["maps"] = add_method(mb, name, "maps", maps, ports, static, ["output"] * count)
        return Network(name, methods, self.PROVIDES)

    def map_names(self, rows: int, columns: int) -> tuple[str, ...]:
        """The names of `maps`, in order, for an array of so many rows and columns."""
        found = ["global", "norm_x"]
        sides = {f"layer{i + 1}": 2**i for i in range(STAGES)}
        named = ["conv1", *sides]
        named += [f"{s}_blk{k}" for s, count in zip(sides, self.layers, strict=True) for k in self.tapped(count)]
        for name in named:
            divisor = sides.get(name.split("_")[0], 1)
            of = [n for n in PATCHES if rows // divisor % n == 0 and columns // divisor % n == 0]
            found += [name, f"{name}_mean"]
            found += [f"{name}_std"] if max(rows, columns) > divisor else []
            found += [*(f"{name}_mean_{n}" for n in of), *(f"{name}_std_{n}" for n in of)]
        return tuple(found)

    def tapped(self, count: int) -> range:
        """The blocks, from 1, of a stage with so many that give a feature map."""
        return range(self.every, count + 1, self.every)


PATCHES = (2, 4)
"""Sides of the patches of positions whose mean and deviation are features."""


@cache
def _block(most: int) -> BlockBody:
    @module_class("BasicBlock", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """Two convolutions and what they are added to, at half the resolution if there are more features."""
        wider = int(channels) != int(features)
        h = layers.conv(b, "conv1", x, features, 3, INIT, bias=False, stride=2 if wider else 1, out="h")
        h = b.relu(normed(b, "gn1", h, most), out="h")
        h = normed(b, "gn2", layers.conv(b, "conv2", h, features, 3, INIT, bias=False, out="h"), most)
        if wider:
            x = layers.conv(b, "proj_conv", x, features, 1, INIT, bias=False, stride=2, out="x")
            x = normed(b, "proj_gn", x, most, "x")
        return b.relu(x + h, out="x")

    return forward


@cache
def _conv_norm(most: int) -> BlockBody:
    @module_class("ConvNorm", x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int) -> Var:
        """A convolution, its norm, and ReLU."""
        h = layers.conv(b, "conv", x, features, 3, INIT, bias=False, out="h")
        return b.relu(normed(b, "gn", h, most), out="x")

    return forward


@cache
def _up(same: bool, most: int) -> BlockBody:
    """`same`: x has the resolution of what it joins."""

    @module_class("Join" if same else "UpAndJoin", x="B channels H W", skip="B others R S")
    def forward(b: Builder, x: Var, skip: Var, *, channels: int, others: int, features: int) -> Var:
        """x at the resolution of `skip`, beside it."""
        if not same:
            x = b.resize(x, size=tuple(int(d) for d in skip.shape[2:]), mode="bilinear", out="x")
        x = normed(b, "concat_norm_fn", b.concat(x, skip, axis=1, out="x"), most, "x")
        x = b.sub("proj", _conv_norm(most), x, channels=channels + others, features=features)
        return b.sub("refine", _conv_norm(most), x, channels=features, features=features)  # type: ignore[no-any-return]

    return forward


@cache
def _methods(config: MaskedResnet) -> tuple[BlockBody, BlockBody]:
    """`forward` and `maps`."""

    def encoded(b: Builder, x: Var, width: Any) -> tuple[list[Var], list[list[Var]]]:
        """The feature map of the first convolution and of every stage, and those of each stage's blocks."""
        h = layers.conv(b, "encoder.conv1", x, width, 3, INIT, bias=False, out="h")
        h = b.relu(normed(b, "encoder.gn1", h, config.groups), out="conv1")
        stages, inside = [h], []
        for i, count in enumerate(config.layers):
            features, blocks = width * 2**i, []
            for k in range(count):
                channels = width * 2 ** (i - 1) if i and not k else features
                name = f"encoder.stages.{i}.{k}"
                h = b.sub(name, _block(config.groups), h, channels=channels, features=features, out=f"stage{i + 1}")
                blocks.append(h)
            h = normed(b, f"encoder.layer{i + 1}_norm", h, config.groups, f"layer{i + 1}")
            stages.append(h)
            inside.append(blocks)
        return stages, inside

    @module_class("MaskedResnet", x="B channels H W")
    def forward(b: Builder, x: Var, *, width: int, channels: int, classes: int) -> tuple[Var, Var]:
        """x filled in, and logits of its class."""
        stages, _ = encoded(b, x, width)
        pooled = b.mean(stages[-1], axes=(2, 3), keepdims=False, out="pooled")
        logits = b.dense("fc", pooled, classes, init="kaiming_normal", gain=1.0, out="logits")
        h = b.sub(
            "decoder.bridge", _conv_norm(config.groups), stages[-1], channels=width * 8, features=width * 8, out="h"
        )
        inside: Any = width * 8
        ups = (("up43", width * 4), ("up32", width * 2), ("up21", width), ("up10", width))
        for (name, features), skip in zip(ups, reversed(stages[:-1]), strict=True):
            others = skip.shape[1]
            body = _up(int(skip.shape[2]) == int(h.shape[2]), config.groups)
            given: dict[str, Any] = {"channels": inside, "others": others, "features": features}
            h, inside = b.sub(f"decoder.{name}", body, h, skip, out="h", **given), features
        return layers.conv(b, "decoder.head", h, channels, 1, INIT, out="x"), logits

    @module_class("MaskedResnet", "maps", x="B channels H W")
    def maps(b: Builder, x: Var, *, width: int, channels: int, classes: int) -> tuple[Var, ...]:
        """Features [B, T, D] of x at several depths."""
        found = [b.reshape(x, shape=(x.shape[0], 1, channels * x.shape[2] * x.shape[3]), out="global")]
        square = b.mean(x * x, axes=(2, 3), keepdims=False)
        length = b.sqrt(square + TINY)
        found.append(b.reshape(length, shape=(x.shape[0], 1, x.shape[1]), out="norm_x"))
        stages, inside = encoded(b, x, width)
        tapped = [blocks[k - 1] for blocks in inside for k in config.tapped(len(blocks))]
        for h in (*stages, *tapped):
            found += described(b, h)
        return tuple(found)

    return forward, maps


def described(b: Builder, h: Var) -> list[Var]:
    """Features [B, T, D] of a feature map [B, D, H, W]: positions, their mean and deviation, those of patches."""
    batch, channels, rows, columns = h.shape
    sides = [n for n in PATCHES if int(rows) % n == 0 and int(columns) % n == 0]
    found, several = [_tokens(b, h, "positions")], int(rows) * int(columns) > 1
    for side in (None, *sides):
        size = (rows, columns) if side is None else (side, side)
        x = b.reshape(h, shape=(batch, channels, rows // size[0], size[0], columns // size[1], size[1]))
        mean = b.mean(x, axes=(3, 5), keepdims=True)
        apart = b.op("sub", x, mean, out="apart")
        square = b.mean(apart * apart, axes=(3, 5), keepdims=False, out="square")
        low: tuple[Any, ...] = (batch, channels, rows // size[0], columns // size[1])
        found.append(_tokens(b, b.reshape(mean, shape=low), "mean"))
        found.append(_tokens(b, b.sqrt(square + TINY), "deviation"))
    first, means, deviations = found[0], found[1::2], found[2::2]
    # A single position has no deviation.
    return [first, means[0], *deviations[: 1 if several else 0], *means[1:], *deviations[1:]]


def _tokens(b: Builder, x: Var, out: str) -> Var:
    """f32[B, D, H, W] as [B, H W, D]."""
    batch, channels, rows, columns = x.shape
    return b.transpose(b.reshape(x, shape=(batch, channels, rows * columns)), perm=(0, 2, 1), out=out)
