"""A transformer over cells of an array, each of which sees those before it: xAR.

A file of its own beside patch_transformer, because cells have times of their own, and samplers call it with one cell
and the keys and values of those before.

Symbols: B batch, C channels, P patch side, G cells along a side, K = G^2 cells, n tokens (patches) of a cell, T = K n
tokens, N tokens at once, S tokens in the cache, D width, H_kv key heads, d channels of a head, E rotary pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.norms.rms_norm import RmsNorm
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import BEGIN, EXTEND, MASKED, BlockForm
from latentc.components.kit.patches import patchify, problems_of_square, unpatchify
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.parts import Problem, Spec, Weights, a_divisor, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.xar.cells import array_of, tokens_of


class CellTransformer(PatchBlocks):
    """Transformer over cells, each of which sees itself and those before it (xAR, Ren et al. 2025, arXiv:2502.20388).

    `forward`: x f32[B, C, H, W], a time of each cell f32[B, K], the conditions -> f32[B, C_out, H, W]. `cell_0`, …: a
    cell f32[B, C, h, w], its time f32[B], the conditions, and the caches of the cells before it, a pair (keys, values)
    f32[B, H_kv, S, d] per block -> f32[B, C_out, h, w]. `remember_0`, …, not of the last cell: the same -> the caches
    with those of the cell. Blocks of an encoder, then of a decoder, have learned positions of their own and rotary
    ones.
    """

    kind: Literal["cell_transformer"]
    depth: int = Field(gt=0, le=512, description="number of blocks of the encoder")
    decoder_depth: int = Field(gt=0, le=512, description="number of blocks of the decoder")
    cells: int = Field(2, gt=0, le=16, description="cells along each side of the array")
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest rotary wavelength")
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "cell_transformer",
        "width": 16,
        "depth": 1,
        "decoder_depth": 1,
        "patch": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm", "affine": False},
            "condition": {"kind": "cell_adaln"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_cells"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("cells", "side", "patch")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        shape = spec.data.shape
        if shape is not None and len(shape) == 3 and shape[1] == shape[2]:
            grid = shape[1] // self.patch
            if shape[1] % self.patch == 0 and grid % self.cells:
                message = f"{self.cells} cells do not divide a side of {grid} patches"
                yield Problem(("cells",), message, a_divisor(grid))
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from Rope2d(kind="rope_2d").problems_of_head(self.block.parts()[0].head_size(self.width))
        yield from self.block.problems_of_condition(self.kind, "a vector for each cell")
        yield from self.problems_of_conditions(spec)

    def block_sizes(self) -> dict[str, Any]:
        return {**super().block_sizes(), "decoder_depth": self.decoder_depth, "cells": self.cells}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, _ = spec.data.shape
        count, side, entries = self.cells**2, size // self.cells, self.entries(spec)
        static = {
            "side": side // self.patch,
            "patch": self.patch,
            "channels": channels,
            **self.block_sizes(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        time = spec.time
        heads = self.block.heads(static)
        kv_heads, head = static.get("kv_heads", heads), self.width // heads
        tokens, role = (side // self.patch) ** 2, _CACHE
        ports = (
            Port("x", f32(B, channels, size, size), "state"),
            Port("t", f32(B, count), "time"),
            *ports_of(entries),
        )
        methods = {"forward": add_method(mb, name, "forward", _forward(self, time, entries), ports, static)}
        cell = (Port("x", f32(B, channels, side, side), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        caches = 2 * (self.depth + self.decoder_depth)
        for number in range(count):
            known = (Port("caches", f32(B, kv_heads, number * tokens, head), role),) * (caches if number else 0)
            for method, outputs in self._of_cell(number, caches).items():
                body = _cell(self, time, entries, method, number, outputs == ("output",))
                methods[method] = add_method(mb, name, method, body, (*cell, *known), static, outputs)
        return Network(name, methods, self.PROVIDES)

    def _of_cell(self, number: int, caches: int) -> dict[str, tuple[Role, ...]]:
        """The methods of a cell, with the roles of their outputs."""
        last = number == self.cells**2 - 1
        return {f"cell_{number}": ("output",), **({} if last else {f"remember_{number}": (_CACHE,) * caches})}


_CACHE: Role = "cache"


class _Trunk:
    """What all methods of a network share: sizes, tables of positions, embeddings, the way through the blocks."""

    def __init__(
        self, config: CellTransformer, time: TimeEmbedding, entries: tuple[Entry, ...], b: Builder, static: Any
    ) -> None:
        self.config, self.time, self.entries, self.b, self.static = config, time, entries, b, static
        self.width, self.patch, self.cells = static["width"], static["patch"], static["cells"]
        self.side = static["side"]  # tokens along a side of a cell
        self.tokens, self.count = self.side**2, self.cells**2
        self.total = Named(self.count * self.tokens, "T")

    def condition(self, t: Var, conditions: Sequence[Var], cells: Any) -> Var:
        """f32[B, K, D]: the embedded time of each cell f32[B K] and the class."""
        b, static, shape = self.b, self.static, (t.shape[0] // cells, cells, self.width)
        time = b.reshape(self.time.vector(b, "t_embedder", t, self.width), shape=shape, out="times")
        pairs = with_operands(self.entries, conditions)
        vectors = [entry.vector(b, entry.prefix, own, self.width, static) for entry, own in pairs]
        rows = [b.reshape(v, shape=(v.shape[0], 1, self.width)) for v in vectors]
        return summed(b, "s", [time, *rows])

    def rotary(self, number: int | None) -> list[Var]:
        """(cos, sin), each f32[n, E] of a cell, or f32[T, E] of all, cell by cell."""
        b, (cells, side) = self.b, (self.cells, self.side)
        rope = Rope2d(kind="rope_2d", base=self.config.base)
        found = []
        for table in rope.rotary(b, self.width // self.static["heads"], self.cells * self.side, 0):
            pairs, out = table.shape[1], table.value.name.rsplit("_")[-1]
            x = b.reshape(table, shape=(cells, side, cells, side, pairs))
            if number is None:
                x = b.transpose(x, perm=(0, 2, 1, 3, 4))
            else:
                row, column = divmod(number, int(cells))
                x = b.slice(x, axis=0, start=row, stop=row + 1)
                x = b.slice(x, axis=2, start=column, stop=column + 1)
            rows = self.total if number is None else self.tokens
            found.append(b.reshape(x, shape=(rows, pairs), out=out))
        return found

    def placed(self, x: Var, name: str, number: int | None) -> Var:
        """Tokens [B, N, D] with the learned positions of their cell, or of all cells."""
        b = self.b
        table = b.param(name, f32(1, self.total, self.width), "normal", std=0.02)
        if number is not None:
            start = number * self.tokens if number else 0
            table = b.slice(table, axis=1, start=start, stop=start + self.tokens, out="places")
        return b.add(x, table, out="x")

    def run(
        self, x: Var, s: Var, form: BlockForm, number: int | None = None, caches: Sequence[Var] = (), ends: bool = True
    ) -> tuple[Var, list[Var]]:
        """Tokens x [B, N, C P P] of a cell, or of all, through the network: predictions of that shape, grown caches.

        Unless it `ends`, the tokens are those of the last block.
        """
        b, config, width = self.b, self.config, self.width
        norm, grown = RmsNorm(kind="rms_norm", eps=1e-6), list[Var]()
        x = self.placed(dense(b, "z_proj", x, width, True, config.weights), "encoder_pos", number)
        x = norm.apply(b, "z_proj_norm", x)
        x, made = self._blocks("encoder_blocks", self.static["depth"], x, s, form, number, caches)
        grown += made
        x = dense(b, "decoder_embed", norm.apply(b, "encoder_norm", x), width, True, config.weights)
        x = self.placed(x, "decoder_pos", number)
        rest = caches[len(made) :]
        x, made = self._blocks("decoder_blocks", self.static["decoder_depth"], x, s, form, number, rest)
        grown += made
        if not ends:
            return x, grown
        features = self.static["out_channels"] * self.patch * self.patch
        return dense(b, "pred", norm.apply(b, "decoder_norm", x), features, True, config.weights), grown

    def _blocks(
        self, base: str, depth: Any, x: Var, s: Var, form: BlockForm, number: int | None, caches: Sequence[Var]
    ) -> tuple[Var, list[Var]]:
        b, config, rotary = self.b, self.config, self.rotary(number)
        mixer, feed_forward, norm, condition = config.block.parts()
        block = condition.block(mixer, feed_forward, norm, config.weights, form)
        sizes = {"dim": self.width, **config.block.own(self.width, self.static)}
        if form.cached:
            own = caches[: 2 * int(depth)]
            return cached_blocks(b, base, block, int(depth), x, own, first=(s,), others=rotary, **sizes)
        mask = self._mask()
        for name in items(base, depth):
            x = b.sub(name, block, x, s, mask, *rotary, **sizes)
        return x, []

    def _mask(self) -> Var:
        """bool[1, 1, T, T]: a token sees those of its cell and of the cells before."""
        b, total = self.b, self.total
        cell = b.div(b.arange(total), self.tokens, out="cell")
        mask = b.less_equal(b.reshape(cell, shape=(1, total)), b.reshape(cell, shape=(total, 1)))
        return b.reshape(mask, shape=(1, 1, total, total), out="mask")


@cache
def _forward(config: CellTransformer, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("CellTransformer", x="B channels cells*side*patch cells*side*patch", t="B cells**2")
    def forward(b: Builder, x: Var, t: Var, *conditions: Var, **static: Any) -> Var:
        """Predicts the velocity of every cell at its time, given the conditions and the noisy cells before it."""
        trunk = _Trunk(config, time, entries, b, static)
        cells, sizes = trunk.count, (trunk.cells, trunk.side, trunk.patch)
        s = trunk.condition(b.reshape(t, shape=(x.shape[0] * cells,)), conditions, cells)
        x, _ = trunk.run(tokens_of(b, x, *sizes, trunk.total), s, MASKED)
        return array_of(b, x, static["out_channels"], *sizes)

    return forward


@cache
def _cell(
    config: CellTransformer, time: TimeEmbedding, entries: tuple[Entry, ...], method: str, number: int, predicts: bool
) -> BlockBody:
    heads = "kv_heads" if "kv_heads" in config.block.parts()[0].static(config.width) else "heads"
    count = len(ports_of(entries))
    shapes = {"x": "B channels side*patch side*patch"}
    shapes |= {"caches": f"B {heads} S width//heads"} if number else {}

    def cell(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> Any:
        trunk = _Trunk(config, time, entries, b, static)
        conditions, caches = others[:count], others[count:]
        s = trunk.condition(t, conditions, 1)
        tokens = patchify(b, x, trunk.patch, tokens=trunk.tokens)
        form = EXTEND if number else BEGIN
        made, grown = trunk.run(tokens, s, form, number, caches, ends=predicts)
        if not predicts:
            return tuple(grown)
        side = trunk.side * trunk.patch
        return unpatchify(b, made, (static["out_channels"], side, side), patch=trunk.patch)

    given = "the conditions and the caches of those before it" if number else "the conditions"
    cell.__doc__ = (
        f"Predicts the velocity of cell {number} at its time, given {given}."
        if predicts
        else f"The caches with the keys and values of cell {number}, given {given}."
    )
    return BlockBody(cell, "CellTransformer", method, shapes)
