"""Drawing pixel after pixel with what earlier pixels left: PixelCNN++ without evaluating the network again.

Rows are computed by the stream `u` once, cells by `ul` once: each convolution finds what it sees of earlier rows in a
table and what it sees to the left in a register (Ramachandran et al. 2017, arXiv:1704.06001). Level l has a row for
2^l rows of pixels, and a cell for 2^l columns, so an iteration of each loop does as many as one cell of the coarsest
level has.

Symbols: B batch, C channels, H and W sides, L levels, P = 2^(L - 1), R inputs of convolutions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from latentc.components.kit.stacks import entry, stacked
from latentc.components.layers import INITS
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc.systems.pixelcnn.pixel_streams import (
    KERNELS,
    NORMED_STD,
    cell_conv,
    column,
    normed_weight,
    patch,
    pointwise,
    row_conv,
    weights,
    zeros,
)
from latentc.systems.pixelcnn.pixels import LogisticMixture
from latentc.systems.pixelcnn_pp.pixel_levels import all_of, cell_level, last, length, row_level, skips_of


@dataclass(frozen=True)
class Drawing:
    """The sizes and conditions of a network: `c` are embedded conditions f32[B, E], at most one."""

    width: Any
    blocks: int
    levels: int
    channels: int
    height: int
    columns: int
    distribution: LogisticMixture
    normed: bool
    upsized: Literal["inputs", "outputs"] | None
    c: tuple[Var, ...]

    @property
    def period(self) -> int:
        return int(2 ** (self.levels - 1))

    def run(self, b: Builder, noise: Var) -> Var:
        """f32[B, C, H, W] of noise f32[B, H, W, draws]."""
        period, count = self.period, self.height // self.period
        draws = noise.shape[3]
        u = b.transpose(noise, perm=(1, 2, 0, 3))
        u = b.reshape(u, shape=(count, period, self.columns, noise.shape[0], draws), out="u")
        inside = b.constant(np.array([[0.0], *[[1.0]] * (count - 1)], np.float32), out="inside")
        state = [zeros(b, noise, (B, self.channels + 1, 2, self.columns), "seen")]
        for level in range(self.levels):
            wide = self.columns >> level
            up, down = 2 * self.blocks + 1, 2 * length(self.blocks, self.top(level))
            state += [zeros(b, noise, (n, B, self.width, 1, wide), "kept") for n in (up, down + 1)]
            state += [zeros(b, noise, (wide, n, B, self.width), "above") for n in (up, down)]

        def rows(b: Builder, i: Var, kept: Any, state: Any, tables: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            own = replace(self, c=tuple(kept))
            return own._rows(b, list(state), *tables)

        *_, found = b.loop("rows", count, rows, invariants=self.c, carried=state, tables=[u, inside])
        x = b.reshape(found, shape=(self.height, self.columns, noise.shape[0], self.channels))
        return b.transpose(x, perm=(2, 3, 0, 1), out="x")

    def top(self, level: int) -> bool:
        """True for the coarsest level."""
        return level == self.levels - 1

    def _rows(self, b: Builder, state: list[Var], u: Var, inside: Var) -> tuple[list[Var], list[Var]]:
        """`period` rows: the state after them, and their pixels [P, W, B, C]."""
        seen = state[0]
        per = [state[1 + 4 * level : 5 + 4 * level] for level in range(self.levels)]
        held_u: dict[int, Var] = {}
        held_ul: dict[int, Var] = {}
        pixels = []
        for r in range(self.period):
            active = [level for level in range(self.levels) if r % 2**level == 0]
            first = inside if r == 0 else None
            us = self._row_streams(b, seen, per, held_u, active, r, first)
            row = entry(b, u, r, "u")
            x, seen = self._row_cells(b, seen, per, held_ul, us, active, r, row, first)
            pixels.append(x)
        return [seen, *(x for four in per for x in four)], [stacked(b, pixels, "x")]

    def _row_streams(
        self,
        b: Builder,
        seen: Var,
        per: list[list[Var]],
        held: dict[int, Var],
        active: list[int],
        r: int,
        first: Var | None,
    ) -> dict[tuple[str, int], Var]:
        """The stream `u` of row r of a period, as cells [W, N, B, C] by ("up" or "down", level)."""
        # What enters a level is one of its skips: under one name, so that all levels are of one class.
        x = _masked(b, row_conv(b, "u_init.conv", seen, self.width, self.normed, out="skip"), first, "skip")
        ups: dict[int, tuple[Var, Var]] = {}
        found: dict[tuple[str, int], Var] = {}
        kept: dict[int, Var] = {}
        for level in active:
            if level:
                above = last(b, per[level - 1][0], "above")
                pair = b.concat(above, last(b, ups[level - 1][1], "u"), axis=2, out="pair")
                name = f"downsize_u_stream.{level - 1}.conv"
                x = row_conv(b, name, pair, self.width, self.normed, stride=2, out="skip")
            body = row_level(self.blocks, True, bool(self.c), self.normed)
            operands = (x, per[level][0], *self.c)
            outs, kept[level] = b.sub(f"up_layers.{level}", body, *operands, out="u kept", width=self.width)
            ups[level] = (x, outs)
            found["up", level] = _cells(b, outs)
        high = active[-1]
        x = last(b, ups[high][1], "u") if self.top(high) else self._upsampled_row(b, held[high + 1], high + 1, r)
        for level in reversed(active):
            entered, outs = ups[level]
            skips = skips_of(entered, all_of(b, outs, "skip"), self.top(level))
            body = row_level(len(skips), False, bool(self.c), self.normed)
            operands = (x, per[level][1], *skips, *self.c)
            name = f"down_layers.{self.levels - 1 - level}"
            outs, per[level][1] = b.sub(name, body, *operands, out="u kept", width=self.width)
            per[level][0] = kept[level]
            found["down", level] = _cells(b, outs)
            held[level] = last(b, outs, "u")
            if level:
                x = self._upsampled_row(b, held[level], level, r)
        return found

    def _row_cells(
        self,
        b: Builder,
        seen: Var,
        per: list[list[Var]],
        held: dict[int, Var],
        us: dict[tuple[str, int], Var],
        active: list[int],
        r: int,
        u: Var,
        first: Var | None,
    ) -> tuple[Var, Var]:
        """The pixels of row r of a period [W, B, C], and the last two rows of pixels that the next one sees."""
        batch, inputs, _, wide = seen.shape
        above = b.reshape(b.slice(seen, axis=2, start=1, stop=2), shape=(batch, inputs, wide), out="row")
        weight, bias = weights(b, "ul_init.0.conv", self.width, inputs, (1, 3), self.normed)
        entering = b.conv(b.reshape(above, shape=(batch, inputs, 1, wide)), weight, bias, padding=(0, 1), out="h")
        entering = _masked(b, entering, first)
        entering = b.transpose(b.reshape(entering, shape=(batch, self.width, wide)), perm=(2, 0, 1), out="entering")
        pixels_above = b.transpose(above, perm=(2, 0, 1), out="pixels_above")
        count = self.columns // self.period
        tables = [b.constant(np.array([[0.0], *[[1.0]] * (count - 1)], np.float32), out="inside")]
        tables += [self._per_iteration(b, x, 0) for x in (u, entering, pixels_above)]
        for level in active:
            own = (us["up", level], us["down", level], per[level][2], per[level][3])
            tables += [self._per_iteration(b, x, level) for x in own]
        high = active[-1]
        if not self.top(high):
            tables.append(self._per_iteration(b, held[high + 1], high + 1))
        left = [zeros(b, seen, (1, B, inputs, 2), "left")]
        for level in active:
            left += [
                zeros(b, seen, (2 * self.blocks + 1, B, self.width, 2), "left"),
                zeros(b, seen, (2 * length(self.blocks, self.top(level)), B, self.width, 2), "left"),
            ]

        def cells(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            own = replace(self, c=tuple(kept))
            return own._columns(b, list(state), list(rows), active, r)

        outs = b.loop("columns", count, cells, invariants=self.c, carried=left, tables=tables)
        found = [_joined(b, x) for x in outs[len(left) :]]
        x, *others = found
        for level in active:
            per[level][2], per[level][3], held[level], *others = others
        row = b.transpose(x, perm=(1, 2, 0), out="x")
        row = _with_ones(b, b.reshape(row, shape=(batch, self.channels, 1, wide)))
        above = b.reshape(above, shape=(batch, inputs, 1, wide))
        return x, b.concat(above, row, axis=2, out="seen")

    def _columns(
        self, b: Builder, state: list[Var], rows: list[Var], active: list[int], r: int
    ) -> tuple[list[Var], list[Var]]:
        """`period` columns of a row: the registers after them; their pixels, and per level what the next row needs."""
        left_pixel, *registers = state
        left = {level: registers[2 * j : 2 * j + 2] for j, level in enumerate(active)}
        inside, u, entering, pixels_above, *tables = rows
        given = {level: tables[4 * j : 4 * j + 4] for j, level in enumerate(active)}
        high = active[-1]
        coarser = tables[4 * len(active)] if not self.top(high) else None
        held: dict[int, Var] = {}
        pixels: list[Var] = []
        kept: dict[int, tuple[list[Var], list[Var], list[Var]]] = {level: ([], [], []) for level in active}
        for q in range(self.period):
            now = [level for level in active if q % 2**level == 0]
            h = self._left_of(b, entry(b, left_pixel, 0, "left"))
            x = b.add(entry(b, entering, q, "entering"), _masked(b, h, inside if q == 0 else None), out="h")
            ups: dict[int, tuple[Var, Var]] = {}
            finer: tuple[Var, ...] = ()
            for level in now:
                j = q >> level
                us, _, above, _ = (entry(b, table, j, n) for table, n in zip(given[level], _NAMES, strict=True))
                if level:
                    x = cell_conv(b, f"downsize_ul_stream.{level - 1}.conv", patch(b, *finer), self.width, self.normed)
                before = last(b, left[level][0], "before")
                body = cell_level(self.blocks, True, bool(self.c), self.normed)
                operands = (x, us, above, left[level][0], *self.c)
                outs, left[level][0] = b.sub(f"up_layers.{level}", body, *operands, out="ul columns", width=self.width)
                finer = (before, last(b, left[level][0], "after"))  # two columns of the last block
                ups[level] = (x, outs)
                kept[level][0].append(_beside(b, left[level][0]))
            finest = now[-1]
            if self.top(finest):
                x = last(b, ups[finest][1], "ul")
            else:
                source = held.get(finest + 1)
                if source is None:
                    assert coarser is not None
                    source = entry(b, coarser, q >> (finest + 1), "coarser")
                x = self._upsampled_cell(b, source, finest + 1, r, q)
            for level in reversed(now):
                entered, outs = ups[level]
                j = q >> level
                _, us, _, above = (entry(b, table, j, n) for table, n in zip(given[level], _NAMES, strict=True))
                skips = skips_of(entered, all_of(b, outs, "skip"), self.top(level))
                body = cell_level(len(skips), False, bool(self.c), self.normed)
                operands = (x, us, above, left[level][1], *skips, *self.c)
                name = f"down_layers.{self.levels - 1 - level}"
                outs, left[level][1] = b.sub(name, body, *operands, out="ul columns", width=self.width)
                held[level] = last(b, outs, "ul")
                kept[level][1].append(_beside(b, left[level][1]))
                kept[level][2].append(held[level])
                if level:
                    x = self._upsampled_cell(b, held[level], level, r, q)
            pixel, left_pixel = self._drawn(b, held[0], entry(b, u, q, "u"), entry(b, pixels_above, q, "above"))
            pixels.append(pixel)
        state = [left_pixel, *(x for level in active for x in left[level])]
        return state, [stacked(b, pixels, "x"), *(stacked(b, x, "kept") for level in active for x in kept[level])]

    def _drawn(self, b: Builder, ul: Var, u: Var, above: Var) -> tuple[Var, Var]:
        """A pixel f32[B, C], and the column of it and the one above, with their channel of ones: [1, B, C + 1, 2]."""
        features = self.distribution.features(self.channels)
        params = pointwise(b, "nin_out.lin_a", b.elu(ul, out="ul"), features, self.normed)
        batch, features = params.shape
        params, u = b.reshape(params, shape=(batch, 1, features)), b.reshape(u, shape=(batch, 1, u.shape[1]))
        pixel = self.distribution.draw(b, params, u, self.channels)
        pixel = b.reshape(pixel, shape=(batch, self.channels), out="pixel")
        own = column(b, above, _with_ones(b, pixel))
        return pixel, b.reshape(own, shape=(1, *own.shape), out="left")

    def _left_of(self, b: Builder, left: Var) -> Var:
        """The part of the entering cell that sees the column to the left, f32[B, C + 1, 2]: f32[B, width]."""
        batch, inputs, _ = left.shape
        weight, bias = weights(b, "ul_init.1.conv", self.width, inputs, (2, 1), self.normed)
        rows = b.reshape(weight, shape=(self.width, inputs * 2))
        return b.linear(b.reshape(left, shape=(batch, inputs * 2)), rows, bias, out="h")

    def _upsampled_row(self, b: Builder, x: Var, level: int, r: int) -> Var:
        """The row of the finer level in row r of a period."""
        phase = (r >> (level - 1)) & 1
        name = f"upsize_u_stream.{self.levels - 1 - level}.deconv"
        weight, bias = upsizing(b, name, self.width, "u", self.upsized)
        own = b.slice(weight, axis=2, start=phase, stop=phase + 1)
        return b.conv_transpose(x, own, bias, stride=(1, 2), padding=(0, 1), output_padding=(0, 1), out="u")

    def _upsampled_cell(self, b: Builder, x: Var, level: int, r: int, q: int) -> Var:
        """The cell of the finer level in row r and column q of a period."""
        row, col = (r >> (level - 1)) & 1, (q >> (level - 1)) & 1
        name = f"upsize_ul_stream.{self.levels - 1 - level}.deconv"
        weight, bias = upsizing(b, name, self.width, "ul", self.upsized)
        own = b.slice(b.slice(weight, axis=2, start=row, stop=row + 1), axis=3, start=col, stop=col + 1)
        own = b.reshape(own, shape=(self.width, self.width), out="w")
        return b.add(b.matmul(x, own), bias, out="ul")

    def _per_iteration(self, b: Builder, table: Var, level: int) -> Var:
        """[W / 2^l, ...] -> [W / P, P / 2^l, ...]."""
        each = self.period >> level
        return b.reshape(table, shape=(self.columns // self.period, each, *table.shape[1:]), out=table.value.name)


_NAMES = ("us", "down_us", "above", "down_above")


def upsizing(
    b: Builder, name: str, width: Any, stream: str, normed: Literal["inputs", "outputs"] | None
) -> tuple[Var, Var]:
    """Weight [in, out, *kernel] and bias of a transposed convolution; only lengths of outputs can start from data."""
    kind, args = ("normal", {"std": NORMED_STD}) if normed else INITS["xavier"]
    weight = b.param(f"{name}.weight", f32(width, width, *KERNELS[stream]), kind, **args)
    if normed == "inputs":
        weight = normed_weight(b, name, weight, 0, 0.0)
    elif normed == "outputs":
        weight = normed_weight(b, name, weight, 1)
    return weight, b.param(f"{name}.bias", f32(width), "zeros")


def _masked(b: Builder, x: Var, inside: Var | None, out: str = "h") -> Var:
    """x, or nothing where `inside` f32[1] is 0: what is shifted in at the edge has no bias either."""
    return x if inside is None else b.mul(x, inside, out=out)


def _cells(b: Builder, rows: Var) -> Var:
    """[N, B, C, 1, W] -> [W, N, B, C]."""
    count, batch, width, _, wide = rows.shape
    rows = b.reshape(rows, shape=(count, batch, width, wide))
    return b.transpose(rows, perm=(3, 0, 1, 2), out="cells")


def _beside(b: Builder, columns: Var) -> Var:
    """[R, B, C] of columns [R, B, C, 2]: the cells themselves, which are above those of the next row."""
    own = b.slice(columns, axis=3, start=1, stop=2)
    return b.reshape(own, shape=columns.shape[:3], out="above")


def _joined(b: Builder, x: Var) -> Var:
    """[W / P, P, ...] -> [W, ...]."""
    return b.reshape(x, shape=(x.shape[0] * x.shape[1], *x.shape[2:]), out=x.value.name)


def _with_ones(b: Builder, x: Var) -> Var:
    """Pixels with an extra channel of ones, which marks them as inside the image."""
    ones = b.fill_like(b.slice(x, axis=1, start=0, stop=1), 1.0)
    return b.concat(x, ones, axis=1, out="x")
