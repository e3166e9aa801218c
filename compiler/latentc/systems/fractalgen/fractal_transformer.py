"""Transformers within transformers: the levels of FractalGen.

Symbols: B batch (of images, patches or pixels), C channels, T patches of a level, P values of a patch, n vectors that
condition a patch, D width of a level, E that of the level above, V values of a channel.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components import Closed, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, embedded_sum, ports_of
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE
from latentc.components.parts import Problem, Spec, Weights, dense, under
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named

NORM = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)
ROPE = Rope2d(kind="rope_2d")
Sides = Annotated[tuple[Size, ...], Field(min_length=1, max_length=8)]


class Level(Closed):
    """One level: it generates the patches of an image, or of a patch of the level above."""

    side: int = Field(gt=0, le=1_024, description="side of its patches, in pixels; 1 at the last level")
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="attention heads")


class Colours(Closed):
    """The transformer over the channels of a pixel."""

    width: int = Field(gt=0, le=65_536, description="channels of a token")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="attention heads")


class FractalTransformer(Backbone):
    """Levels of transformers, each over the patches of a patch of the level above (FractalGen, Li et al. 2025,
    arXiv:2502.17437), and a transformer over the values of a pixel's channels.

    Takes square images x f32[B, C, H, H]. With a causal mixer each patch is predicted from those before, at rotary
    positions; otherwise from all that are not hidden, and a patch is conditioned on five vectors: those of its own
    place and of the places above, to the right, below and to the left of it.
    """

    kind: Literal["fractal_transformer"]
    levels: tuple[Level, ...] = Field(min_length=1, max_length=8, description="the levels, from the image down")
    block: Block = Field(description="block of the levels, whose `heads` these set")
    colours: Colours = Field(description="the transformer over the channels of a pixel")
    colour_block: Block = Field(description="block of that; its mixer is causal")
    values: int = Field(
        256, gt=1, le=65_536, description="values of a channel (V), evenly spaced over the data's range"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"fractal"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "fractal_transformer",
        "levels": [{"side": 4, "width": 16, "depth": 1, "heads": 2}, {"side": 1, "width": 8, "depth": 1, "heads": 2}],
        "block": {
            "mixer": {"kind": "attention", "heads": 1},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-6, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "colours": {"width": 8, "depth": 1, "heads": 2},
        "colour_block": {
            "mixer": {"kind": "attention", "heads": 1, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-6, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "values": 8,
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("vectors", *(_of(i, "grid") for i in range(len(self.levels))))

    @property
    def causal(self) -> bool:
        """Whether patches are generated one after the other."""
        return self.block.parts()[0].ordered

    @property
    def vectors(self) -> int:
        """Number of vectors that condition a patch (n)."""
        return 1 if self.causal else 5

    def grids(self, spec: Spec) -> list[int]:
        """Patches of each level along a side."""
        assert spec.data.shape is not None
        sides = [spec.data.shape[1], *(level.side for level in self.levels)]
        return [above // side for above, side in pairwise(sides)]

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a {self.kind} takes square images [C, H, H], but the data has {spec.data.words}")
            return
        above = shape[1]
        for i, level in enumerate(self.levels):
            if above % level.side or above == level.side:
                message = f"patches of {level.side} do not divide a side of {above}"
                yield Problem(("levels", i, "side"), message, "use a smaller divisor")
                return
            above = level.side
            block = self.block_of(self.block, level.heads)
            yield from under("levels", i, problems=block.problems_of_width(level.width))
            if self.causal:
                yield from block.problems_of_rotary(level.width, levels=ROPE)
        if above != 1:
            yield Problem(("levels",), f"the last level's patches have a side of {above}", "set its `side` to 1")
        for name, block in (("block", self.block), ("colour_block", self.colour_block)):
            for problem in block.problems_of_condition(self.kind, None):
                yield Problem((name, *problem.path[1:]), problem.message, problem.help)
        if not self.colour_block.parts()[0].ordered:
            message = "the value of a channel is predicted from those before it, so the mixer must be causal"
            yield Problem(("colour_block", "mixer"), message, "set `causal: true`")
        if not self.takes(spec):
            yield Problem((), f"a {self.kind} needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    @staticmethod
    def block_of(block: Block, heads: int) -> Block:
        """The block with so many heads."""
        return block.model_copy(update={"mixer": block.mixer.model_copy(update={"heads": heads})})

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, entries, grids = spec.data.shape[0], self.entries(spec), self.grids(spec)
        static: dict[str, Any] = {
            "channels": channels,
            "values": self.values,
            "vectors": self.vectors,
            **self.condition_sizes(spec),
        }
        above = self.levels[0].width
        for i, (level, grid) in enumerate(zip(self.levels, grids, strict=True)):
            block = self.block_of(self.block, level.heads)
            sizes = {"grid": grid, "patch": level.side, "width": level.width, "depth": level.depth}
            static |= {f"level_{i}_{key}": size for key, size in (sizes | block.static(level.width)).items()}
        own = self.block_of(self.colour_block, self.colours.heads).static(self.colours.width)
        static |= {
            f"colour_{k}": v for k, v in ({"width": self.colours.width, "depth": self.colours.depth} | own).items()
        }
        methods = {
            "embed": add_method(mb, name, "embed", _embed(self, entries), ports_of(entries), static, ("features",))
        }
        for i, (level, grid) in enumerate(zip(self.levels, grids, strict=True)):
            tokens, size = Named(grid**2, "T"), channels * level.side**2
            state = Port("x", f32(B, tokens, size), "state")
            mask = () if self.causal else (Port("mask", f32(B, tokens), "mask"),)
            given = Port("z", f32(B, self.vectors if i else 1, above), "features")
            ports, body = (state, *mask, given), _level(self, i)
            methods[f"level_{i}"] = add_method(mb, name, f"level_{i}", body, ports, static, ("features",))
            if self.causal:
                cache_type = f32(B, level.heads, tokens, level.width // level.heads)
                caches = (Port("caches", cache_type, "cache"),) * (2 * level.depth)
                before = (Port("x", f32(B, size), "state"), Port("position", i64(), "position"), given, *caches)
                roles: tuple[Role, ...] = ("features", *(port.role for port in caches))
                methods[f"next_{i}"] = add_method(mb, name, f"next_{i}", _next(self, i), before, static, roles)
            above = level.width
        ports = (Port("token", i64(B, channels), "token", self.values), Port("z", f32(B, above), "features"))
        methods["pixels"] = add_method(mb, name, "pixels", _pixels(self), ports, static, ("logits",))
        own_sizes = {"grids": tuple(grids), "sides": tuple(level.side for level in self.levels)}
        return Network(name, methods, self.PROVIDES, sizes=own_sizes)


def levels_of(main: Network) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of each level of a network: patches along a side, and the side of a patch in pixels."""
    grids, sides = main.sizes["grids"], main.sizes["sides"]
    assert isinstance(grids, tuple) and isinstance(sides, tuple)
    return tuple(map(int, grids)), tuple(map(int, sides))


@cache
def _embed(config: FractalTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("FractalTransformer", "embed")
    def embed(b: Builder, *conditions: Var, **static: Any) -> Var:
        """The vector [B, 1, D] that conditions the first level."""
        width = static["level_0_width"]
        c = embedded_sum(b, entries, conditions, width, static)
        return b.reshape(c, shape=(c.shape[0], 1, width), out="z")

    return embed


def _own(config: FractalTransformer, i: int, static: dict[str, Any]) -> dict[str, Any]:
    """The static arguments of level i."""
    block = config.block_of(config.block, config.levels[i].heads)
    names = ("grid", "patch", "width", "depth", *block.static(config.levels[i].width))
    above = static[f"level_{max(i - 1, 0)}_width"]
    own = {name: static[f"level_{i}_{name}"] for name in names}
    return own | {"channels": static["channels"], "vectors": static["vectors"], "above": above}


def _of(i: int, size: str) -> str:
    """The name of a size of level i among the network's."""
    return f"level_{i}_{size}"


def _values(i: int) -> str:
    """Values of a patch of level i, by the network's sizes."""
    return f"channels*{_of(i, 'patch')}**2"


@cache
def _level(config: FractalTransformer, i: int) -> BlockBody:
    @module_class("FractalTransformer", f"level_{i}", x=f"B T={_of(i, 'grid')}**2 {_values(i)}")
    def level(b: Builder, x: Var, *given: Var, **static: Any) -> Var:
        """Vectors [B, T, n, D] that condition each patch of this level."""
        body = _causal_level(config, i) if config.causal else _masked_level(config, i)
        return b.sub(f"levels.{i}", body, x, *given, out="z", **_own(config, i, static))

    return level


@cache
def _next(config: FractalTransformer, i: int) -> BlockBody:
    heads, width = _of(i, "heads"), _of(i, "width")
    rows = f"B {heads} T={_of(i, 'grid')}**2 {width}//{heads}"

    @module_class("FractalTransformer", f"next_{i}", x=f"B {_values(i)}", caches=rows)
    def following(b: Builder, x: Var, position: Var, z: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        """The vector [B, 1, n, D] that conditions the patch at a position, after the patch x before it."""
        names = " ".join(["z", *("cache" for _ in caches)])
        own = _own(config, i, static)
        return b.sub(f"levels.{i}", _causal_next(config, i), x, position, z, *caches, out=names, **own)  # type: ignore[return-value]

    return following


def _entered(
    config: FractalTransformer, b: Builder, x: Var | None, z: Var, width: Any, vectors: int
) -> tuple[Var, Var | None]:
    """The vectors z [B, 1 or n, E] of the level above as tokens [B, n, D], the last first, and the patches as such."""
    cond = dense(b, "condition", z, width, True, config.weights, out="cond")
    if int(z.shape[1]) == 1 and vectors > 1:
        cond = b.broadcast_to(cond, cond, shape=(z.shape[0], vectors, width), out="cond")
    elif vectors > 1:
        cond = b.take(cond, b.constant(np.arange(vectors)[::-1].copy(), out="last_first"), axis=1, out="cond")
    return cond, None if x is None else dense(b, "x_embedder", x, width, True, config.weights, out="x")


@cache
def _masked_level(config: FractalTransformer, i: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block_of(config.block, config.levels[i].heads).parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("FractalLevel", x="B T=grid**2 channels*patch**2", z="B N above")
    def forward(
        b: Builder,
        x: Var,
        mask: Var,
        z: Var,
        *,
        channels: int,
        patch: int,
        grid: int,
        vectors: int,
        above: int,
        width: int,
        depth: int,
        **own: Any,
    ) -> Var:
        """Vectors [B, T, n, D] of each patch and its neighbours, from those that the mask does not hide."""
        batch, count = x.shape[0], grid**2
        cond, x = _entered(config, b, x, z, width, vectors)  # type: ignore[assignment]
        hidden = b.param("mask_token", f32(1, 1, width), "normal", std=0.02)
        x = b.where(b.reshape(b.greater(mask, 0.5), shape=(batch, count, 1)), hidden, x, out="x")
        x = b.concat(cond, x, axis=1, out="x")
        x = x + b.param("positions", f32(1, count + vectors, width), "normal", std=0.02)
        x = NORM.apply(b, "input_norm", x)
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **own)
        x = NORM.apply(b, "norm", x)
        x = b.slice(x, axis=1, start=vectors, stop=count + vectors, out="x")
        x = b.reshape(x, shape=(batch, grid, grid, width), out="x")
        around = [x]
        for axis, side in ((1, -1), (2, 1), (1, 1), (2, -1)):  # above, to the right, below, to the left
            start, stop = (0, grid - 1) if side < 0 else (1, grid)
            kept = b.slice(x, axis=axis, start=start, stop=stop)
            around.append(b.pad(kept, axis=axis, before=int(side < 0), after=int(side > 0), value=0.0))
        each = [b.reshape(v, shape=(batch, count, 1, width)) for v in around]
        return b.concat(*each, axis=2, out="z")

    return forward


def _rotary(b: Builder, width: Any, grid: Any, heads: Any) -> tuple[Var, ...]:
    return ROPE.rotary(b, width // heads, grid, 1)


@cache
def _causal_level(config: FractalTransformer, i: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block_of(config.block, config.levels[i].heads).parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("FractalLevel", x="B T=grid**2 channels*patch**2", z="B N above")
    def forward(
        b: Builder,
        x: Var,
        z: Var,
        *,
        channels: int,
        patch: int,
        grid: int,
        vectors: int,
        above: int,
        width: int,
        depth: int,
        **own: Any,
    ) -> Var:
        """The vector [B, T, 1, D] of each patch, from those before it."""
        batch, count = x.shape[0], grid**2
        x = b.slice(x, axis=1, start=0, stop=count - 1, out="x")
        cond, x = _entered(config, b, x, z, width, 1)  # type: ignore[assignment]
        x = b.reshape(b.concat(cond, x, axis=1), shape=(batch, count, width), out="x")
        places = b.param("positions", f32(1, count + 1, width), "normal", std=0.02)
        x = NORM.apply(b, "input_norm", x + b.slice(places, axis=1, start=0, stop=count))
        tables = [b.slice(v, axis=0, start=0, stop=count) for v in _rotary(b, width, grid, own["heads"])]
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *tables, dim=width, **own)
        x = NORM.apply(b, "norm", x)
        return b.reshape(x, shape=(batch, count, 1, width), out="z")

    return forward


@cache
def _causal_next(config: FractalTransformer, i: int) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block_of(config.block, config.levels[i].heads).parts()
    block = condition.block(mixer, feed_forward, norm, config.weights, DECODE)

    @module_class(
        "FractalLevel", "following", x="B channels*patch**2", z="B N above", caches="B heads T=grid**2 width//heads"
    )
    def following(
        b: Builder,
        x: Var,
        position: Var,
        z: Var,
        *caches: Var,
        channels: int,
        patch: int,
        grid: int,
        vectors: int,
        above: int,
        width: int,
        depth: int,
        **own: Any,
    ) -> tuple[Var, ...]:
        """The vector [B, 1, 1, D] of the patch at a position, after the patch x before it, and the grown caches."""
        batch, count = x.shape[0], grid**2
        x = b.reshape(x, shape=(batch, 1, channels * patch**2), out="x")
        cond, x = _entered(config, b, x, z, width, 1)  # type: ignore[assignment]
        x = b.where(b.equal(position, 0), cond, x, out="x")
        places = b.param("positions", f32(1, count + 1, width), "normal", std=0.02)
        place = b.take(b.reshape(places, shape=(count + 1, width)), position, axis=0)
        x = NORM.apply(b, "input_norm", x + b.reshape(place, shape=(1, 1, width)))
        rows = []
        for table, part in zip(_rotary(b, width, grid, own["heads"]), ("cos", "sin"), strict=True):
            rows.append(b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out=part))
        mask = b.reshape(b.less_equal(b.arange(count), position), shape=(1, 1, 1, count), out="mask")
        x, grown = cached_blocks(
            b, "blocks", block, len(caches) // 2, x, caches, (position, mask), rows, dim=width, **own
        )
        x = NORM.apply(b, "norm", x)
        return b.reshape(x, shape=(batch, 1, 1, width), out="z"), *grown

    return following


@cache
def _pixels(config: FractalTransformer) -> BlockBody:
    block_ = config.block_of(config.colour_block, config.colours.heads)
    mixer, feed_forward, norm, condition = block_.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("ColourTransformer", token="B channels", z="B above")
    def forward(
        b: Builder, token: Var, z: Var, *, channels: int, above: int, values: int, width: int, depth: int, **own: Any
    ) -> Var:
        """Logits [B, C, V] of the values of a pixel's channels, each given those before it."""
        batch, count = token.shape[0], int(channels)
        tables = [b.param(f"codebooks.{c}.weight", f32(values, width), "normal", std=0.02) for c in range(count)]
        parts = b.split(token, axis=1, sizes=(1,) * count, out="value") if count > 1 else [token]
        cond = b.reshape(dense(b, "condition", z, width, True, config.weights), shape=(batch, 1, width), out="cond")
        given = [b.embedding(table, part) for table, part in zip(tables[:-1], parts, strict=False)]
        x = b.concat(cond, *given, axis=1, out="x") if given else cond
        x = NORM.apply(b, "input_norm", b.reshape(x, shape=(batch, channels, width), out="x"))
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **own)
        x = NORM.apply(b, "norm", x)
        logits = []
        for c, row in enumerate(b.split(x, axis=1, sizes=(1,) * count, out="row") if count > 1 else [x]):
            logits.append(b.linear(row, tables[c], b.param(f"biases.{c}", f32(values), "zeros")))
        return b.reshape(
            b.concat(*logits, axis=1) if count > 1 else logits[0], shape=(batch, channels, values), out="logits"
        )

    @module_class("FractalTransformer", "pixels", token="B channels")
    def pixels(b: Builder, token: Var, z: Var, **static: Any) -> Var:
        """Logits [B, C, V] of the values of the channels of pixels with vectors z [B, D]."""
        names = ("width", "depth", *block_.static(config.colours.width))
        own = {name: static[f"colour_{name}"] for name in names}
        above = static[f"level_{len(config.levels) - 1}_width"]
        shared = {"channels": static["channels"], "values": static["values"], "above": above}
        return b.sub("colours", forward, token, z, out="logits", **shared, **own)

    return pixels
