"""The two stacks of the gated PixelCNN, of whole maps, of one row, and of one pixel.

The vertical stack sees the rows above a pixel, the horizontal one those and the pixels to its left. The features of the
horizontal stack are divided among the channels of a pixel, its subpixels: those of one see what is left, and of their
own pixel only the subpixels before (and, after the first layer, their own). What another file masks is not built here:
each subpixel has weights for what it sees. A map is f32[B, C, H, W], a row f32[B, C, 1, W], a cell f32[B, C].

Symbols: B batch, C channels, H and W sides, S subpixels, D width, Q = D / S, K side of the filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from latentc.components.layers import INITS
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class
from latentc.systems.pixelcnn.pixel_streams import pointwise, weights


@dataclass(frozen=True)
class Layer:
    """One layer: the first sees no pixel at its own place, and adds nothing to its input.

    Of the last one's vertical stack there is only what it adds to the horizontal one.
    """

    first: bool
    kernel: int
    subpixels: int
    last: bool = False

    @property
    def reach(self) -> int:
        """How many rows it sees above a pixel, and columns to its left."""
        return self.kernel // 2

    @property
    def rows(self) -> int:
        """How many rows the vertical stack sees: those above, and after the first layer its own."""
        return self.reach + (not self.first)

    @property
    def name(self) -> str:
        return "EnteringLayer" if self.first else "LastLayer" if self.last else "GatedLayer"


def side_by_side(b: Builder, values: Sequence[Var], out: str) -> Var:
    """Concatenated features (axis 1)."""
    return values[0] if len(values) == 1 else b.concat(*values, axis=1, out=out)


def sized(b: Builder, x: Var, size: Any) -> Var:
    """x with its number of features by name, so that layers of other numbers are of one class."""
    return b.reshape(x, shape=(x.shape[0], size, *x.shape[2:]), out="x")


def gated(b: Builder, z: Var, width: Any) -> Var:
    """tanh of the first `width` features times the sigmoid of as many others."""
    a, gate = b.split(z, axis=1, sizes=(width, width), out="a gate")
    return b.mul(b.tanh(a), b.sigmoid(gate), out="h")


def _plus_conditions(b: Builder, stack: str, z: Var, cond: Sequence[Var], features: Any) -> Var:
    """z with what is made of the conditions: a bias per feature, and one per feature and place."""
    for x in cond:
        if x.type.rank == 4:
            bias = pointwise(b, f"{stack}_map", x, features, bias=False)
        else:
            bias = dense(b, f"{stack}_condition", x, features, False, "xavier")
            bias = b.reshape(bias, shape=(x.shape[0], features, 1, 1), out="bias")
        z = b.add(z, bias, out="z")
    return z


def _vertical(b: Builder, layer: Layer, rows: Var, cond: Sequence[Var], width: Any) -> tuple[Var, ...]:
    """Output of the vertical stack for the `rows` that it sees.

    Its D features, unless the layer is the last, and the 2 D that it adds to the horizontal stack.
    """
    weight, bias = weights(b, "vertical", 2 * width, rows.shape[1], (layer.rows, layer.kernel))
    z = b.conv(rows, weight, bias, padding=(0, layer.reach), out="z")
    across = _plus_conditions(b, "horizontal", pointwise(b, "across", z, 2 * width), cond, 2 * width)
    return (across,) if layer.last else (gated(b, _plus_conditions(b, "vertical", z, cond, 2 * width), width), across)


def _left_weights(b: Builder, layer: Layer, inputs: Any, width: Any) -> Var:
    kind, args = INITS["xavier"]
    return b.param("left.weight", f32(2 * width, inputs, layer.reach), kind, **args)


def _own(b: Builder, z: Var, x: Var | None, y: Var | None, width: Any, mixed: Any, residual: bool) -> tuple[Var, Var]:
    """The horizontal stack of one subpixel: what it and those before it are made of, and its Q features.

    z: what it sees of other pixels, 2 Q features; x: what it sees of its own pixel in the layer's input; y: what the
    subpixels before it are made of.
    """
    if x is not None:
        z = b.add(z, pointwise(b, "centre", x, 2 * width, bias=False), out="z")
    made = gated(b, z, width)
    if y is not None:
        made = sized(b, b.concat(y, made, axis=1, out="made"), mixed)
    h = pointwise(b, "out", made, width)
    if residual:
        assert x is not None
        h = b.add(h, x if y is None else b.slice(x, axis=1, start=mixed - width, stop=mixed), out="h")
    return made, h


@cache
def subpixel(seen: bool, before: bool, first: bool, cell: bool) -> BlockBody:
    """`_own` of a map or of a cell: with x if it is `seen`, with y if there are subpixels `before`."""
    name = ("EnteringSubpixel" if first else "Subpixel") if before else ("EnteringRed" if first else "Red")
    method = ("cell",) if cell else ()

    @module_class(name, *method)
    def own(b: Builder, z: Var, x: Var, y: Var, *, width: int, mixed: int, inputs: int) -> tuple[Var, Var]:
        """One channel of the horizontal stack, from the visible features of its pixel (x) and of earlier pixels (y)."""
        return _own(b, z, sized(b, x, inputs), y, width, mixed, not first)

    @module_class(name, *method)
    def red(b: Builder, z: Var, x: Var, *, width: int, mixed: int, inputs: int) -> tuple[Var, Var]:
        """The first channel of the horizontal stack, from its own features."""
        return _own(b, z, sized(b, x, inputs), None, width, mixed, not first)

    @module_class(name, *method)
    def entering_red(b: Builder, z: Var, *, width: int, mixed: int) -> tuple[Var, Var]:
        """The first channel of the horizontal stack, which sees nothing of its pixel."""
        return _own(b, z, None, None, width, mixed, False)

    return own if before else red if seen else entering_red


def _subpixel(
    b: Builder, layer: Layer, s: int, z: Var, x: Sequence[Var], y: Sequence[Var], width: Any, cell: bool
) -> tuple[Var, Var]:
    """Subpixel s of S, given what it sees of its pixel (none: nothing)."""
    q = width // layer.subpixels
    body = subpixel(bool(x), bool(y), layer.first, cell)
    sizes = {"width": q, "mixed": (s + 1) * q, **({"inputs": s if layer.first else (s + 1) * q} if x else {})}
    return b.sub(f"subpixels.{s}", body, z, *x, *y, out="made h", **sizes)


def _share(b: Builder, z: Var, s: int, subpixels: int, width: Any) -> Var:
    """The 2 Q features of z that are of subpixel s."""
    q = width // subpixels
    return z if subpixels == 1 else b.slice(z, axis=1, start=2 * s * q, stop=2 * (s + 1) * q, out="own")


def seen_of(b: Builder, layer: Layer, h: Var, s: int, width: Any) -> list[Var]:
    """The part of the layer's input h at its own pixel that subpixel s sees: nothing, or the first features."""
    of = 1 if layer.first else width // layer.subpixels
    count = s if layer.first else s + 1
    if not count:
        return []
    whole = count == layer.subpixels and not layer.first
    return [h if whole else b.slice(h, axis=1, start=0, stop=count * of, out="seen")]


@cache
def map_layer(layer: Layer) -> BlockBody:
    @module_class(layer.name)
    def whole(b: Builder, v: Var, h: Var, *cond: Var, width: int) -> tuple[Var, ...]:
        """Both stacks one layer further; of the last layer the horizontal one."""
        above = b.pad(v, axis=2, before=layer.reach, after=0, value=0.0, out="above")
        if layer.first:  # only the rows above
            above = b.slice(above, axis=2, start=0, stop=above.shape[2] - 1, out="above")
        *vertical, across = _vertical(b, layer, above, cond, width)
        weight = _left_weights(b, layer, h.shape[1], width)
        beside = b.pad(h, axis=3, before=layer.reach, after=0, value=0.0)
        beside = b.slice(beside, axis=3, start=0, stop=beside.shape[3] - 1, out="beside")
        filters = b.reshape(weight, shape=(2 * width, h.shape[1], 1, layer.reach))
        z = b.add(across, b.conv(beside, filters), out="z")
        y: list[Var] = []
        parts = []
        for s in range(layer.subpixels):
            seen = seen_of(b, layer, h, s, width)
            own, part = _subpixel(b, layer, s, _share(b, z, s, layer.subpixels, width), seen, y, width, False)
            y = [own]
            parts.append(part)
        return *vertical, side_by_side(b, parts, "h")

    return whole


@cache
def row_layer(layer: Layer) -> BlockBody:
    @module_class(layer.name, "row")
    def row(b: Builder, rows: Var, *cond: Var, width: int) -> tuple[Var, ...]:
        """The vertical stack of one row, given the rows it sees, and what it adds to the horizontal one."""
        return _vertical(b, layer, rows, cond, width)

    return row


@cache
def left_layer(layer: Layer) -> BlockBody:
    @module_class(layer.name, "beside")
    def left(b: Builder, z: Var, cells: Var, *, width: int) -> Var:
        """z with what the horizontal stack sees to the left of a cell, f32[B, C, K // 2]."""
        batch, inputs, reach = cells.shape
        weight = b.reshape(_left_weights(b, layer, inputs, width), shape=(2 * width, inputs * reach))
        return b.add(z, b.linear(b.reshape(cells, shape=(batch, inputs * reach)), weight), out="z")

    return left


@cache
def cell_layer(layer: Layer, s: int) -> BlockBody:
    """Subpixel s of a cell, given z, what it sees of the cell, and what the subpixels before it are made of."""

    def own(b: Builder, z: Var, x: Sequence[Var], y: Sequence[Var], width: Any) -> tuple[Var, Var]:
        return _subpixel(b, layer, s, _share(b, z, s, layer.subpixels, width), x, y, width, True)

    @module_class(layer.name, f"channel_{s}")
    def later(b: Builder, z: Var, x: Var, y: Var, *, width: int) -> tuple[Var, Var]:
        """One channel of a cell, from the visible features of its pixel (x) and of earlier pixels (y)."""
        return own(b, z, (x,), (y,), width)

    @module_class(layer.name, f"channel_{s}")
    def red(b: Builder, z: Var, x: Var, *, width: int) -> tuple[Var, Var]:
        """The first channel of a cell, from its own features."""
        return own(b, z, (x,), (), width)

    @module_class(layer.name, f"channel_{s}")
    def entering_red(b: Builder, z: Var, *, width: int) -> tuple[Var, Var]:
        """The first channel of a cell, which sees nothing of its pixel."""
        return own(b, z, (), (), width)

    return later if s else entering_red if layer.first else red


@cache
def head(before: bool, cell: bool) -> BlockBody:
    """Logits of one subpixel, of a map or of a cell."""
    name, method = "Head" if before else "RedHead", ("cell",) if cell else ()

    @module_class(name, *method)
    def later(b: Builder, h: Var, inside: Var, *, width: int, values: int, inputs: int, hidden: int) -> tuple[Var, Var]:
        """Hidden features up to this channel, and its logits, from the visible features."""
        own = b.relu(pointwise(b, "enter", b.relu(sized(b, h, inputs), out="h"), width), out="own")
        every = sized(b, b.concat(inside, own, axis=1, out="inside"), hidden)
        return every, pointwise(b, "leave", every, values)

    @module_class(name, *method)
    def red(b: Builder, h: Var, *, width: int, values: int, inputs: int, hidden: int) -> tuple[Var, Var]:
        """Hidden features of the first channel, and its logits."""
        inside = b.relu(pointwise(b, "enter", b.relu(sized(b, h, inputs), out="h"), width), out="inside")
        return inside, pointwise(b, "leave", inside, values)

    return later if before else red
