"""LION's point-voxel network: point by point layers beside convolutions over a grid of voxels, at falling densities.

A level reads voxels at one resolution, then keeps some points and gathers features around them; the way back
interpolates from fewer points to more. No layer knows the number of a point, but choosing points starts from the
first, and a ball keeps its first points if it has more than are asked for, and repeats the first if it has fewer.
Symbols: B batch, D numbers per point (the first three are its place), N points, M points of the next level,
U neighbours, C channels, S width of the style.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, Index, Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port, Sizes
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.dc3do.neighbours import (
    furthest_points,
    gathered,
    in_grid,
    interpolated,
    neighbours_of,
    read_voxels,
    voxels,
)

GROUPS = 8  # of every group norm
REDUCTION = 8  # of the channels inside squeeze-and-excitation
HEAD = 32  # width of a head


class Voxels(Closed):
    """Convolutions over a grid of voxels."""

    width: Size = Field(description="channels")
    blocks: int = Field(1, gt=0, le=16, description="number of point-voxel blocks")
    side: int = Field(gt=1, le=128, description="side of the grid in voxels (R)")


class Down(Closed):
    """A level: point-voxel blocks, then fewer points with features of their neighbours."""

    voxels: Voxels | None = Field(None, description="point-voxel blocks at the level's density; null: none")
    points: int = Field(gt=0, le=65_536, description="number of points that are kept (M)")
    radius: float = Field(gt=0, le=100, description="radius of the ball that neighbours lie in")
    neighbours: int = Field(32, gt=0, le=1_024, description="number of neighbours of a point (U)")
    widths: tuple[Size, ...] = Field(min_length=1, max_length=8, description="channels of the layers on neighbours")


class Up(Closed):
    """The way back to the points of a level."""

    widths: tuple[Size, ...] = Field(min_length=1, max_length=8, description="channels of the layers on points")
    voxels: Voxels | None = Field(None, description="point-voxel blocks after them; null: none")


class PointVoxel(Backbone):
    """LION's U-Net of point-voxel convolutions (Zeng et al. 2022, arXiv:2210.06978; PVCNN, Liu et al. 2019).

    Takes sets of points x f32[B, N, D], t f32[B] and at least one condition; returns f32[B, N, D]. The style scales and
    shifts every group norm: the sum of arrays f32[B, S] and of other conditions' embeddings. LION's sets are latents of
    D = 4, and its style is the global latent.
    """

    kind: Literal["point_voxel"]
    down: tuple[Down, ...] = Field(min_length=1, max_length=8, description="levels, from all points to the fewest")
    up: tuple[Up, ...] = Field(min_length=1, max_length=8, description="the way back, from the fewest points to all")
    style: int = Field(128, gt=0, le=65_536, description="width of the embedded conditions (S)")
    attention: tuple[Index, ...] = Field(
        (1,), max_length=8, description="levels whose first block ends in linear attention over the points"
    )
    heads: int = Field(8, gt=0, le=256, description="heads, of width 32, of the attention over the fewest points")
    hidden: Size = Field(128, description="channels of the last layer but one")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout in training, between convolutions and before the end")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "point_voxel",
        "down": [
            {"voxels": {"width": 8, "side": 3}, "points": 6, "radius": 1.0, "neighbours": 4, "widths": [8, 16]},
            {"voxels": {"width": 16, "side": 2}, "points": 3, "radius": 2.0, "neighbours": 3, "widths": [16]},
        ],
        "up": [{"widths": [16], "voxels": {"width": 16, "side": 2}}, {"widths": [8]}],
        "style": 12,
        "heads": 1,
        "hidden": 8,
        "dropout": 0,
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("numbers",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        yield from self.problems_of_variance(spec)
        if not self.entries(spec):
            message = "a point_voxel needs a condition, which scales and shifts its norms"
            yield Problem((), message, "add `conditioning.class: {kind: label}`")
        for entry in self.entries(spec):
            given = tuple(entry.ports[0].type.shape[1:])
            if entry.form == "array" and given != (self.style,):
                message = f"condition `{entry.name}` has shape {list(given)}, but the style is {self.style} wide"
                yield Problem(("style",), message, "set `style` to the size of the condition")
        shape = spec.data.shape
        if shape is None or len(shape) != 2 or shape[1] < 3:
            message = (
                f"a point_voxel takes points [points, coordinates] of three or more, but the data has {spec.data.words}"
            )
            yield Problem((), message)
            return
        if len(self.up) != len(self.down):
            message = f"{len(self.down)} levels down, but {len(self.up)} up"
            yield Problem(("up",), message, "give `up` as many entries as `down`")
        points = shape[0]
        for i, level in enumerate(self.down):
            if level.points > points:
                message = f"level {i} keeps {level.points} points of {points}"
                yield Problem(("down", i, "points"), message, f"use at most {points}")
            if level.neighbours > points:
                message = f"points of level {i} have {level.neighbours} neighbours, but there are {points} points"
                yield Problem(("down", i, "neighbours"), message, f"use at most {points}")
            points = level.points
        for key, widths in self._widths():
            for width in widths:
                if width % GROUPS:
                    message = f"{width} channels do not divide into {GROUPS} groups"
                    yield Problem((key,), message, f"use a multiple of {GROUPS}")
        for number in self.attention:
            if number >= len(self.down) or self.down[number].voxels is None:
                yield Problem(("attention",), f"`down` has no point-voxel block at level {number}", "leave it out")

    def _widths(self) -> Iterator[tuple[str, Sequence[int]]]:
        for key, levels in (("down", self.down), ("up", self.up)):
            for level in levels:
                yield key, (*level.widths, *((level.voxels.width,) if level.voxels else ()))
        yield "hidden", (self.hidden,)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        count, numbers = spec.data.shape
        entries = self.entries(spec)
        static = {"numbers": numbers, "style": self.style, "hidden": self.hidden, **self.condition_sizes(spec)}
        ports = (Port("x", f32(B, count, numbers), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes=self._levels())

    def _levels(self) -> Sizes:
        """`blocks` of each level down, and the number of levels without any; those up with blocks and without."""
        blocks = tuple(level.voxels.blocks for level in self.down if level.voxels)
        filled = sum(level.voxels is not None for level in self.up)
        bare = {"down_bare": len(self.down) - len(blocks), "up_bare": len(self.up) - filled}
        return {"down_blocks": blocks, "up_filled": filled, **bare}


@cache
def _network(config: PointVoxel, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PointVoxel", x="B N numbers")
    def forward(
        b: Builder, x: Var, t: Var, *conditions: Var, numbers: int, style: int, hidden: int, **static: Any
    ) -> Var:
        """Predicts from noisy points x at time t, given the conditions."""
        features = time.features(b, t, **time.static())
        h = b.leaky_relu(b.dense("t_embedder.fc1", features, features.shape[1]), slope=0.1, out="h")
        moment = b.dense("t_embedder.fc2", h, features.shape[1], out="t")
        parts = [
            operands[0] if entry.form == "array" else entry.vector(b, entry.prefix, operands, style, static)
            for entry, operands in with_operands(entries, conditions)
        ]
        cond = summed(b, "style", parts)
        places = [b.stop_gradient(b.slice(x, axis=2, start=0, stop=3), out="points")]
        x = b.transpose(x, perm=(0, 2, 1), out="x")
        skips: list[Var | None] = [b.slice(x, axis=1, start=3, stop=numbers, out="skip")] if numbers > 3 else [None]
        for i, level in enumerate(config.down):
            if i:
                skips.append(x)
                x = _timed(b, x, moment)
            x = _voxel_blocks(b, config, f"down.{i}.blocks", x, places[-1], cond, level.voxels, i in config.attention)
            sizes = {"channels": x.shape[1], "points": level.points, "neighbours": level.neighbours, "style": style}
            block = _gather_block(level.widths, level.radius)
            x, centres = b.sub(f"down.{i}.gather", block, x, places[-1], cond, out="x points", **sizes)
            places.append(centres)
        x = b.sub("attention", _linear_attention, x, channels=x.shape[1], heads=config.heads)
        for i, back in enumerate(config.up):
            centres, points, skip = places.pop(), places[-1], skips.pop()
            x = b.sub(f"up.{i}.interpolate", _interpolation, points, centres, _timed(b, x, moment))
            x = b.concat(x, skip, axis=1, out="x") if skip is not None else x
            for j, width in enumerate(back.widths):
                x = _point_layer(b, f"up.{i}.points.{j}", x, cond, width, style)
            x = _voxel_blocks(b, config, f"up.{i}.blocks", x, points, cond, back.voxels, False)
        x = _point_layer(b, "hidden", x, cond, hidden, style)
        x = b.dropout(x, p=config.dropout, out="x") if config.dropout else x
        return b.transpose(layers.conv(b, "leave", x, numbers, 1, "linear_default"), perm=(0, 2, 1), out="x")

    return forward


@module_class("Interpolation", points="B N 3", centres="B M 3", x="B C M")
def _interpolation(b: Builder, points: Var, centres: Var, x: Var) -> Var:
    """Features x of centres at points: those of the three nearest centres, by the inverse of the squared distance."""
    return interpolated(b, points, centres, x)


def _timed(b: Builder, x: Var, moment: Var) -> Var:
    """x [B, C, N] with the embedded time [B, E] of every point as additional channels."""
    batch, _, count = x.shape
    width = moment.shape[1]
    moment = b.broadcast_to(b.reshape(moment, shape=(batch, width, 1)), shape=(batch, width, count), out="t")
    return b.concat(x, moment, axis=1, out="x")


def _voxel_blocks(
    b: Builder,
    config: PointVoxel,
    name: str,
    x: Var,
    points: Var,
    cond: Var,
    given: Voxels | None,
    attends: bool,
) -> Var:
    for item in items(name, given.blocks) if given else ():
        assert given is not None
        block = _voxel_block(config.dropout, attends and item.i == 0)
        sizes = {"channels": x.shape[1], "features": given.width, "side": given.side, "style": cond.shape[1]}
        x = b.sub(item, block, x, points, cond, **sizes)
    return x


def _styled_norm(b: Builder, name: str, x: Var, style: Var) -> Var:
    """Group normalisation of x [B, C, ...], then a scale and a shift that are linear in the style [B, S]."""
    batch, channels = x.shape[:2]
    weight = b.param(f"{name}.weight", f32(channels), "ones")
    x = b.group_norm(x, weight, b.param(f"{name}.bias", f32(channels), "zeros"), groups=GROUPS, eps=1e-5, out="x")
    shape = (batch, channels, *(1 for _ in x.shape[2:]))

    def linear(part: str, init: str) -> Var:
        weight = b.param(f"{name}.{part}.weight", f32(channels, style.shape[1]), "xavier_uniform", gain=math.sqrt(0.1))
        out = b.linear(style, weight, b.param(f"{name}.{part}.bias", f32(channels), init))
        return b.reshape(out, shape=shape, out=part)

    return b.add(x * linear("scale", "ones"), linear("shift", "zeros"), out="x")


def _point_layer(b: Builder, name: str, x: Var, cond: Var, features: Any, style: Any) -> Var:
    """The same layer for every point of x [B, C, N], or every neighbour of every point of x [B, C, M, U]."""
    layer = _layer_of_points if x.type.rank == 3 else _layer_of_neighbours
    return b.sub(name, layer, x, cond, channels=x.shape[1], features=features, style=style)


@module_class("PointLayer", x="B channels N", cond="B style")
def _layer_of_points(b: Builder, x: Var, cond: Var, *, channels: int, features: int, style: int) -> Var:
    """The same layer for every point."""
    return _layer(b, x, cond, features)


@module_class("NeighbourLayer", x="B channels M U", cond="B style")
def _layer_of_neighbours(b: Builder, x: Var, cond: Var, *, channels: int, features: int, style: int) -> Var:
    """The same layer for every neighbour of every point."""
    return _layer(b, x, cond, features)


def _layer(b: Builder, x: Var, cond: Var, features: int) -> Var:
    x = layers.conv(b, "conv", x, features, 1, "linear_default", out="x")
    return b.silu(_styled_norm(b, "norm", x, cond))


@cache
def _voxel_block(dropout: float, attends: bool) -> BlockBody:
    @module_class("VoxelBlock", x="B channels N", points="B N 3", cond="B style")
    def block(
        b: Builder, x: Var, points: Var, cond: Var, *, channels: int, features: int, side: int, style: int
    ) -> Var:
        """Convolutions over the voxels that the points' features fill, read again at the points, beside a layer of
        each point alone."""
        place = in_grid(b, points, side)
        grid = layers.conv(b, "conv1", voxels(b, x, place, side), features, 3, "linear_default", out="grid")
        grid = b.silu(_styled_norm(b, "norm1", grid, cond), out="grid")
        grid = b.dropout(grid, p=dropout, out="grid") if dropout else grid
        grid = layers.conv(b, "conv2", grid, features, 3, "linear_default", out="grid")
        grid = _styled_norm(b, "norm2", grid, cond)
        gate = b.relu(b.dense("squeeze", b.mean(grid, axes=(2, 3, 4), keepdims=False), features // REDUCTION, False))
        gate = b.sigmoid(b.dense("excite", gate, features, False), out="gate")
        grid = b.mul(grid, b.reshape(gate, shape=(*gate.shape, 1, 1, 1)), out="grid")
        x = read_voxels(b, grid, place) + _point_layer(b, "point", x, cond, features, style)
        return b.sub("attention", _linear_attention, x, channels=x.shape[1], heads=4) if attends else x

    return block


@cache
def _gather_block(widths: tuple[int, ...], radius: float) -> BlockBody:
    @module_class("GatherBlock", x="B channels N", places="B N 3", cond="B style")
    def gather(
        b: Builder, x: Var, places: Var, cond: Var, *, channels: int, points: int, neighbours: int, style: int
    ) -> Any:
        """Keeps some points, and pools features of each one's neighbours: (features, places)."""
        batch = x.shape[0]
        centres = furthest_points(b, places, points)
        index = neighbours_of(b, centres, places, radius, neighbours)
        index = b.reshape(index, shape=(batch, points * neighbours), out="index")
        rows = b.concat(places, b.transpose(x, perm=(0, 2, 1)), axis=2, out="rows")
        around = b.reshape(gathered(b, rows, index), shape=(batch, points, neighbours, channels + 3), out="around")
        where, of = b.split(around, axis=3, sizes=(3, channels), out="where features")
        where = b.op("sub", where, b.reshape(centres, shape=(batch, points, 1, 3)), out="where")
        h = b.transpose(b.concat(where, of, axis=3), perm=(0, 3, 1, 2), out="h")
        for name, width in zip(items("layers", len(widths)), widths, strict=True):
            h = _point_layer(b, name, h, cond, width, style)
        return b.max(h, axes=(3,), keepdims=False, out="x"), centres

    return gather


@module_class("LinearAttention", x="B channels N")
def _linear_attention(b: Builder, x: Var, *, channels: int, heads: int) -> Var:
    """Attention over the points of x [B, C, N] whose keys are normalised over points; its cost is linear in N."""
    batch, _, count = x.shape
    width = heads * HEAD
    q, k, v = b.split(
        layers.conv(b, "qkv", x, 3 * width, 1, "linear_default", bias=False), axis=1, sizes=(width,) * 3, out="q k v"
    )
    shape = (batch, heads, HEAD, count)
    q, k, v = (b.reshape(y, shape=shape, out=out) for y, out in ((q, "q"), (k, "k"), (v, "v")))
    context = b.matmul(v, b.transpose(b.softmax(k, axis=3), perm=(0, 1, 3, 2)), out="context")
    x = b.reshape(b.matmul(context, q), shape=(batch, width, count), out="x")
    return layers.conv(b, "proj", x, channels, 1, "linear_default", out="x")
