"""The gated PixelCNN: a softmax over the values of each channel of a pixel, from the pixels above and to the left.

A file beside `pixelcnn_pp.py`, since its stacks are of another kind: one resolution, filters of any size, and channels
of a pixel that see one another. Drawing works alike: rows are computed once, cells once (`_gated_stacks.py`).

Symbols: B batch, C channels, H and W sides, D width, L layers, K side of the filter, V values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, with_operands
from latentc.components.contract import Network
from latentc.components.kit.stacks import entry, stacked
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, module_class
from latentc.ir.types import B
from latentc.systems.pixelcnn.gated_stacks import (
    Layer,
    cell_layer,
    head,
    left_layer,
    map_layer,
    row_layer,
    side_by_side,
)
from latentc.systems.pixelcnn.pixel_streams import embedded, log_prob_of, pixel_methods, zeros
from latentc.systems.pixelcnn.pixels import Categories


class PixelCnn(Backbone):
    """Gated convolutions in a vertical and a horizontal stack (van den Oord et al. 2016, arXiv:1606.05328).

    `forward`: x f32[B, C, H, W] from -1 to 1, conditions -> logits of each channel's value given the previous ones,
    f32[B, C V, H, W], channel by channel. `log_prob`: x, conditions -> log-probability in nats f32[B]. `draw`: uniform
    variates f32[B, H, W, C], conditions -> x, channel by channel.
    """

    kind: Literal["pixelcnn"]
    width: int = Field(gt=0, le=8_192, description="features of each stack (D), a multiple of the channels")
    depth: int = Field(ge=2, le=128, description="layers (L)")
    kernel: int = Field(5, ge=3, le=31, description="kernel size, odd (K)")
    first_kernel: int = Field(7, ge=3, le=31, description="kernel size of the first layer")
    head_width: int = Field(
        gt=0, le=65_536, description="features of the layer before the logits, a multiple of the channels"
    )
    values: int = Field(256, gt=1, le=65_536, description="number of levels of the data from -1 to 1 (V)")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "pixelcnn",
        "width": 6,
        "depth": 2,
        "kernel": 3,
        "first_kernel": 3,
        "head_width": 6,
        "values": 17,
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"pixels"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map")

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels", "width")

    @property
    def distribution(self) -> Categories:
        return Categories(self.values)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            channels = spec.data.shape[0]
            for name in ("width", "head_width"):
                if (size := getattr(self, name)) % channels:
                    message = f"`{name}` ({size}) must be divisible by the {channels} channels of a pixel"
                    yield Problem((name,), message, f"use a multiple of {channels}")
        for name in ("kernel", "first_kernel"):
            if getattr(self, name) % 2 == 0:
                yield Problem((name,), f"the side of a filter must be odd, not {getattr(self, name)}")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels = spec.data.shape[0]
        static = {"channels": channels, "width": self.width, "head_width": self.head_width, "values": self.values}
        static |= self.condition_sizes(spec)
        entries = self.entries(spec)
        bodies = _forward(self, entries), _log_prob(self, entries), _draw(self, entries)
        return Network(name, pixel_methods(mb, name, spec, entries, static, self.distribution, bodies), self.PROVIDES)


def _embedded(
    b: Builder, entries: tuple[Entry, ...], operands: tuple[Var, ...], height: int, width: Any, sizes: dict[str, Any]
) -> tuple[Var, ...]:
    """The embedded conditions: a vector f32[B, D], a map f32[B, M, H, W], both, or nothing."""
    pairs = list(with_operands(entries, operands))
    vectors = [(entry, own) for entry, own in pairs if entry.form == "vector"]
    maps = [entry.map(b, own, sizes, height) for entry, own in pairs if entry.form == "map"]
    return (*embedded(b, vectors, width, sizes), *([side_by_side(b, maps, "map")] if maps else []))


@dataclass(frozen=True)
class _Net:
    """The sizes of a network, and the embedded conditions."""

    config: PixelCnn
    channels: int
    width: Any
    head_width: Any
    values: Any
    cond: tuple[Var, ...]

    @cached_property
    def layers(self) -> list[Layer]:
        first = Layer(True, self.config.first_kernel, self.channels)
        later = Layer(False, self.config.kernel, self.channels)
        return [first, *[later] * (self.config.depth - 2), replace(later, last=True)]

    def logits(self, b: Builder, x: Var) -> Var:
        """f32[B, C V, H, W] of a whole picture."""
        v, h = x, x
        for k, layer in enumerate(self.layers):
            body, out = map_layer(layer), "h" if layer.last else "v h"
            outs = b.sub(f"layers.{k}", body, v, h, *self.cond, out=out, width=self.width)
            v, h = (v, outs) if layer.last else outs
        hidden: list[Var] = []
        logits = []
        for s in range(self.channels):
            *hidden, own = self.head(b, h, hidden, s, False)
            logits.append(own)
        return side_by_side(b, logits, "logits")

    def head(self, b: Builder, h: Var, hidden: Sequence[Var], s: int, cell: bool) -> tuple[Var, Var]:
        """Hidden features up to channel s and the logits of channel s, from the visible part of h."""
        seen = (s + 1) * (self.width // self.channels)
        h = h if cell or s == self.channels - 1 else b.slice(h, axis=1, start=0, stop=seen, out="seen")
        inside = self.head_width // self.channels
        sizes = {"width": inside, "values": self.values, "inputs": seen, "hidden": (s + 1) * inside}
        body = head(bool(hidden), cell)
        return b.sub(f"heads.{s}", body, h, *hidden, out="hidden logits", **sizes)

    def draw(self, b: Builder, u: Var) -> Var:
        """f32[B, C, H, W] of uniform numbers f32[B, H, W, C]."""
        batch, height, wide = u.shape[0], int(u.shape[1]), int(u.shape[2])
        first, layer = self.layers[:2]
        count, channels = len(self.layers) - 1, self.channels
        seen = zeros(b, u, (B, channels, first.reach, wide), "seen")
        kept = zeros(b, u, (count, B, self.width, layer.reach, wide), "kept")
        vectors = [x for x in self.cond if x.type.rank == 2]
        maps = [b.transpose(x, perm=(2, 0, 1, 3), out="map_rows") for x in self.cond if x.type.rank == 4]
        table = b.transpose(u, perm=(1, 2, 0, 3), out="u")

        def row(b: Builder, i: Var, vectors: Any, state: Any, tables: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            u, *places = tables
            places = [b.reshape(x, shape=(*x.shape[:2], 1, x.shape[2]), out="map_row") for x in places]
            seen, kept = state
            seen, kept, pixels = replace(self, cond=(*vectors, *places))._row(b, seen, kept, u)
            return (seen, kept), (pixels,)

        tables = [table, *maps]
        *_, found = b.loop("rows", height, row, invariants=vectors, carried=[seen, kept], tables=tables)
        x = b.transpose(found, perm=(2, 3, 0, 1), out="x")
        return b.reshape(x, shape=(batch, channels, height, wide), out="x")

    def _row(self, b: Builder, seen: Var, kept: Var, u: Var) -> tuple[Var, Var, Var]:
        """A row of pixels [W, B, C], and what the next row sees: of pixels, and of features of each layer."""
        batch, wide = seen.shape[0], int(seen.shape[3])
        v, across, later = seen, [], []
        for k, layer in enumerate(self.layers):
            rows = v
            if k:
                rows = b.concat(entry(b, kept, k - 1, "above"), v, axis=2, out="rows")
                later.append(b.slice(rows, axis=2, start=1, stop=layer.rows, out="kept"))
            body, out = row_layer(layer), "across" if layer.last else "v across"
            outs = b.sub(f"layers.{k}", body, rows, *self.cond, out=out, width=self.width)
            v, z = (v, outs) if layer.last else outs
            across.append(b.reshape(z, shape=(batch, 2 * self.width, wide), out="across"))
        columns = b.transpose(stacked(b, across, "across"), perm=(3, 0, 1, 2), out="columns")
        first, layer = self.layers[:2]
        pixels_left = zeros(b, seen, (B, self.channels, first.reach), "pixels_left")
        left = zeros(b, seen, (len(self.layers) - 1, B, self.width, layer.reach), "left")

        def cell(b: Builder, i: Var, kept: Any, state: Any, tables: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            *state, pixel = self._cell(b, *state, *tables)
            return state, (pixel,)

        outs = b.loop("columns", wide, cell, carried=[pixels_left, left], tables=[columns, u])
        pixels = outs[-1]
        own = b.transpose(pixels, perm=(1, 2, 0), out="row")
        return _moved(b, seen, own, 2), stacked(b, later, "kept"), pixels

    def _cell(self, b: Builder, pixels_left: Var, left: Var, across: Var, u: Var) -> tuple[Var, Var, Var]:
        """The left context of the next cell, and the pixel f32[B, C]."""
        beside = [pixels_left, *(entry(b, left, k, "left") for k in range(len(self.layers) - 1))]
        zs = [
            b.sub(f"layers.{k}", left_layer(layer), entry(b, across, k, "across"), beside[k], out="z", width=self.width)
            for k, layer in enumerate(self.layers)
        ]
        # Of every layer: its input, and what its subpixels are made of, as far as they are known.
        inputs: list[list[Var]] = [[] for _ in range(len(self.layers) + 1)]
        made: list[list[Var]] = [[] for _ in self.layers]
        hidden: list[Var] = []
        for s in range(self.channels):
            for k, layer in enumerate(self.layers):
                seen = [side_by_side(b, inputs[k], "seen")] if inputs[k] else []
                body = cell_layer(layer, s)
                y, part = b.sub(f"layers.{k}", body, zs[k], *seen, *made[k], out="y h", width=self.width)
                made[k] = [y]
                inputs[k + 1].append(part)
            *hidden, logits = self.head(b, side_by_side(b, inputs[-1], "h"), hidden, s, True)
            own = b.reshape(b.slice(u, axis=1, start=s, stop=s + 1), shape=(u.shape[0],), out="own")
            value = self.config.distribution.draw_channel(b, logits, own)
            inputs[0].append(b.reshape(value, shape=(u.shape[0], 1), out="value"))
        pixel = side_by_side(b, inputs[0], "pixel")
        cells = stacked(b, [side_by_side(b, x, "cell") for x in inputs[1:-1]], "cells")
        return _moved(b, pixels_left, pixel, 2), _moved(b, left, cells, 3), pixel


def _moved(b: Builder, kept: Var, own: Var, axis: int) -> Var:
    """The cache of the next step: drops the first entry along the axis and appends the new one."""
    size = int(kept.shape[axis])
    rest = [b.slice(kept, axis=axis, start=1, stop=size)] if size > 1 else []
    own = b.reshape(own, shape=(*kept.shape[:axis], 1, *kept.shape[axis + 1 :]))
    return b.concat(*rest, own, axis=axis, out="kept") if rest else own


@cache
def _forward(config: PixelCnn, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnn", x="B channels H W")
    def forward(
        b: Builder,
        x: Var,
        *conditions: Var,
        channels: int,
        width: int,
        head_width: int,
        values: int,
        **sizes: Any,
    ) -> Var:
        """Logits of the values of each channel of x given the channels and pixels before it."""
        cond = _embedded(b, entries, conditions, int(x.shape[2]), width, sizes)
        return _Net(config, int(channels), width, head_width, values, cond).logits(b, x)

    return forward


@cache
def _log_prob(config: PixelCnn, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnn", "log_prob", x="B channels H W")
    def log_prob(
        b: Builder,
        x: Var,
        *conditions: Var,
        channels: int,
        width: int,
        head_width: int,
        values: int,
        **sizes: Any,
    ) -> Var:
        """The log-probability of x in nats."""
        cond = _embedded(b, entries, conditions, int(x.shape[2]), width, sizes)
        logits = _Net(config, int(channels), width, head_width, values, cond).logits(b, x)
        return log_prob_of(b, config.distribution, logits, x)

    return log_prob


@cache
def _draw(config: PixelCnn, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("PixelCnn", "draw")
    def draw(
        b: Builder,
        u: Var,
        *conditions: Var,
        channels: int,
        width: int,
        head_width: int,
        values: int,
        **sizes: Any,
    ) -> Var:
        """Draws channel after channel, pixel after pixel."""
        cond = _embedded(b, entries, conditions, int(u.shape[1]), width, sizes)
        return _Net(config, int(channels), width, head_width, values, cond).draw(b, u)

    return draw
