"""A tokenizer whose codes condition the steps of a diffusion in pixels: D-AR.

Symbols: B batch, C channels, T patches, Q codes, n codes of a group, V codebook rows, Z channels of a code, D width, E
rotary pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottlenecks.codebook import unit
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.decoding import MASKED
from latentc.components.fields import Codes
from latentc.components.kit.patches import embedded_patches, patchify, problems_of_square, unpatchify
from latentc.components.parts import Norm, Problem, Spec, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.d_ar.pixel_block import PLAIN, pixel_block


class SequentialTokenizer(Backbone):
    """Encodes images as codes in order, each group of which conditions a step of a flow in pixels (D-AR, Gao and Shou
    2025, arXiv:2505.23660).

    `encode`: x f32[B, C, H, W] -> codes i64[B, Q], by learned queries that see the patches and the queries before.
    `conditions`: codes -> f32[B, Q, D], by causal blocks. `forward`: a state f32[B, C, H, W], its time f32[B] from
    noise (0) to data (1), conditions of a group f32[B, n, D] -> velocity. `train_forward`: x, a state, its time, the
    first code i64[B] of the group -> velocity, and the codebook's sums of squares f32[B] over codes up to the group's
    last, of rows and of latents, and the number of those codes.
    """

    kind: Literal["sequential_tokenizer"]
    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    condition_depth: int = Field(gt=0, le=512, description="causal blocks over codes")
    pixel_depth: int = Field(gt=0, le=512, description="blocks of the pixel decoder")
    patch: int = Field(gt=0, le=1_024, description="side of a patch of the encoder, in pixels")
    pixel_patch: int = Field(gt=0, le=1_024, description="side of a patch of the pixel decoder")
    queries: int = Field(gt=0, le=65_536, description="codes of an image (Q)")
    group: int = Field(gt=0, le=65_536, description="codes that condition a step (n)")
    codebook: int = Field(gt=1, le=16_777_216, description="rows of the codebook (V)")
    channels: int = Field(gt=0, le=65_536, description="channels of a code (Z), compared by direction")
    rank: int = Field(8, gt=0, le=65_536, description="channels of a query before it is projected")
    rows: int = Field(1024, gt=0, le=65_536, description="rows of the tables of queries and of codes' places")
    scale: float = Field(1.0, gt=0, le=1_000, description="factor of the data at the end of the flow")
    shift: float = Field(
        1.0, gt=0, le=1_000, description="a time u becomes u / (u + shift (1 - u)): above 1 nearer to noise"
    )
    block: Block = Field(description="block of the encoder and of the codes; its mixer and feed-forward also of pixels")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "sequential_tokenizer",
        "width": 16,
        "depth": 1,
        "condition_depth": 1,
        "pixel_depth": 1,
        "patch": 4,
        "pixel_patch": 2,
        "queries": 4,
        "group": 2,
        "codebook": 16,
        "channels": 4,
        "rows": 8,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "silu_mlp"},
            "norm": {"kind": "layer_norm", "affine": True},
            "condition": {"kind": "in_context", "gated": True},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"sequential_codes"})

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("queries", "group", "grid", "pixel_grid", "patch", "pixel_patch")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        shape = spec.data.shape
        if shape is not None and len(shape) == 3 and shape[1] % self.pixel_patch:
            message = f"patches of {self.pixel_patch} do not tile a side of {shape[1]}"
            yield Problem(("pixel_patch",), message, a_divisor(shape[1]))
        if self.queries % self.group:
            message = f"groups of {self.group} codes do not divide {self.queries}"
            yield Problem(("group",), message, a_divisor(self.queries))
        if self.queries > self.rows:
            yield Problem(("rows",), f"{self.rows} rows for {self.queries} codes", f"use {self.queries} or more")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from Rope2d(kind="rope_2d").problems_of_head(self.block.parts()[0].head_size(self.width))

    def codes(self, spec: Spec) -> Codes:
        return Codes(i64(B, self.queries), self.codebook, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        own = (
            "width",
            "depth",
            "condition_depth",
            "pixel_depth",
            "patch",
            "pixel_patch",
            "queries",
            "group",
            "codebook",
        )
        static: dict[str, Any] = {
            "image_channels": channels,
            "grid": size // self.patch,
            "pixel_grid": size // self.pixel_patch,
            **{key: getattr(self, key) for key in (*own, "rank", "rows")},
            "latent": self.channels,
            **self.block.static(self.width),
        }
        image = f32(B, channels, size, size)
        x, state, t = Port("x", image, "state"), Port("x_t", image, "state"), Port("t", f32(B), "time")
        cond = Port("cond", f32(B, self.group, self.width), "condition")
        code = Port("codes", i64(B, self.queries), "token", self.codebook)
        first = Port("first", i64(B), "position")
        methods = {
            "encode": add_method(mb, name, "encode", _encode(self), (x,), static),
            "conditions": add_method(mb, name, "conditions", _conditions(self), (code,), static),
            "forward": add_method(mb, name, "forward", _forward(self), (state, t, cond), static),
            "train_forward": add_method(
                mb,
                name,
                "train_forward",
                _train(self),
                (x, state, t, first),
                static,
                ("output", "penalty", "penalty", "penalty"),
            ),
        }
        return Network(name, methods, self.PROVIDES, sizes={"scale": self.scale, "shift": self.shift})


class _Parts:
    """What all methods of a network share."""

    def __init__(self, config: SequentialTokenizer, b: Builder, static: Mapping[str, Any]) -> None:
        self.config, self.b, self.static, self.width = config, b, static, static["width"]
        self.norm = config.block.parts()[2]
        self.sizes = {"dim": self.width, **config.block.own(self.width, static)}

    def blocks(self, base: str, depth: Any, x: Var, mask: Var, rotary: tuple[Var, ...] = ()) -> Var:
        mixer, feed_forward, norm, condition = self.config.block.parts()
        block = condition.block(mixer, feed_forward, norm, self.config.weights, MASKED)
        for name in items(base, depth):
            x = self.b.sub(name, block, x, mask, *rotary, **self.sizes)
        return x

    def latents(self, x: Var) -> Var:
        """f32[B, Q, Z]: latents of the queries of images f32[B, C, H, W], before they are quantised."""
        b, static, config = self.b, self.static, self.config
        queries, grid = static["queries"], static["grid"]
        patches = embedded_patches(b, "patchify", x, self.width, static["patch"], "linear_default", grid * grid)
        table = b.param("queries", f32(static["rows"], static["rank"]), "normal", std=1.0)
        asked = b.slice(table, axis=0, start=0, stop=queries, out="asked")
        asked = dense(b, "query_proj", asked, self.width, True, config.weights, out="asked")
        asked = b.reshape(asked, shape=(1, queries, self.width))
        asked = b.broadcast_to(asked, x, shape=(x.shape[0], queries, self.width), out="asked")
        tokens = b.concat(PLAIN.apply(b, "encoder_norm", patches), asked, axis=1, out="tokens")
        count = grid * grid + queries
        row, column = b.reshape(b.arange(count), shape=(count, 1)), b.reshape(b.arange(count), shape=(1, count))
        mask = b.logical_or(b.less(column, grid * grid), b.less_equal(column, row))
        mask = b.reshape(mask, shape=(1, 1, count, count), out="mask")
        tokens = self.blocks("encoder_blocks", static["depth"], tokens, mask, self.unturned(grid, queries))
        tokens = b.slice(tokens, axis=1, start=grid * grid, stop=count, out="tokens")
        tokens = PLAIN.apply(b, "encoder_norm", tokens)
        return dense(b, "quant_in", tokens, static["latent"], False, config.weights, out="latents")

    def rotary(self, grid: Any, name: str) -> tuple[Var, ...]:
        return Rope2d(kind="rope_2d").rotary(self.b, self.width // self.config.block.heads(self.static), grid, 0, name)

    def unturned(self, grid: Any, count: Any) -> tuple[Var, ...]:
        """(cos, sin) f32[T + Q, E] of patches, and of queries, which are not rotated."""
        b, found = self.b, []
        for table, value, out in zip(self.rotary(grid, "freqs"), (1.0, 0.0), ("cos", "sin"), strict=True):
            still = b.constant(value, "f32", out="still")
            still = b.broadcast_to(b.reshape(still, shape=(1, 1)), still, shape=(count, table.shape[1]))
            found.append(b.concat(table, still, axis=0, out=out))
        return tuple(found)

    def codebook(self) -> Var:
        """f32[V, Z]: rows of length 1."""
        # They start at about length 1, as the authors' do: an optimiser's step turns shorter rows further, and these
        # follow a place's mean latent before latents differ between images.
        std = self.config.channels**-0.5
        table = self.b.param("codebook.weight", f32(self.static["codebook"], self.static["latent"]), "normal", std=std)
        return unit(self.b, table)

    def flat(self, latents: Var) -> Var:
        """f32[B Q, Z]: latents f32[B, Q, Z] of length 1."""
        batch, count, size = latents.shape
        return unit(self.b, self.b.reshape(latents, shape=(batch * count, size), out="flat"))

    def conditions(self, quantised: Var) -> Var:
        """f32[B, Q, D]: conditions of quantised latents f32[B, Q, Z]."""
        b, static, config = self.b, self.static, self.config
        queries = static["queries"]
        table = b.param("places", f32(static["rows"], self.width), "normal", std=0.02)
        places = b.slice(table, axis=0, start=0, stop=queries, out="at")
        x = dense(b, "quant_out", quantised, self.width, False, config.weights)
        x = b.add(x, b.reshape(places, shape=(1, queries, self.width)), out="x")
        row = b.arange(queries)
        mask = b.less_equal(b.reshape(row, shape=(1, queries)), b.reshape(row, shape=(queries, 1)))
        mask = b.reshape(mask, shape=(1, 1, queries, queries), out="mask")
        return PLAIN.apply(b, "condition_norm", self.blocks("condition_blocks", static["condition_depth"], x, mask))

    def velocity(self, x: Var, t: Var, cond: Var) -> Var:
        """f32[B, C, H, W]: the velocity at states x and times f32[B], given conditions f32[B, n, D]."""
        b, static, config = self.b, self.static, self.config
        cond = PLAIN.apply(b, "cond_norm", dense(b, "cond_proj", cond, self.width, True, config.weights))
        patch, grid = static["pixel_patch"], static["pixel_grid"]
        tokens = patchify(b, x, patch, tokens=Named(grid * grid, "T"))
        tokens = dense(b, "pixel_in", tokens, self.width, True, config.weights, out="x")
        rotary, time = self.rotary(grid, "pixel_freqs"), b.mul(t, 1000.0, out="time")
        mixer_norm = getattr(config.block.mixer, "qk_norm", None)
        norm = mixer_norm if isinstance(mixer_norm, Norm) else None
        block = pixel_block(config.block, norm, config.width, config.weights)
        for name in items("pixel_blocks", static["pixel_depth"]):
            tokens = b.sub(name, block, tokens, cond, time, *rotary, **self.sizes)
        features = static["image_channels"] * patch * patch
        tokens = dense(b, "pixel_out", PLAIN.apply(b, "pixel_norm", tokens), features, True, "zeros")
        side = grid * patch
        return unpatchify(b, tokens, (static["image_channels"], side, side), patch=patch, out="velocity")


@cache
def _encode(config: SequentialTokenizer) -> BlockBody:
    @module_class("SequentialTokenizer", "encode")
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes [B, Q] of images."""
        parts = _Parts(config, b, static)
        latents = parts.latents(x)
        index = b.argmax(b.linear(parts.flat(latents), parts.codebook(), out="closeness"), axis=1, out="index")
        return b.reshape(index, shape=(x.shape[0], static["queries"]), out="codes")

    return encode


@cache
def _conditions(config: SequentialTokenizer) -> BlockBody:
    @module_class("SequentialTokenizer", "conditions", codes="B queries")
    def conditions(b: Builder, codes: Var, **static: Any) -> Var:
        """The conditions [B, Q, D] of codes, each of the codes up to its own."""
        parts = _Parts(config, b, static)
        return parts.conditions(b.embedding(parts.codebook(), codes, out="rows"))

    return conditions


@cache
def _forward(config: SequentialTokenizer) -> BlockBody:
    @module_class("SequentialTokenizer", cond="B group width")
    def forward(b: Builder, x_t: Var, t: Var, cond: Var, **static: Any) -> Var:
        """The velocity at states x_t and times t, given the conditions of a group of codes."""
        return _Parts(config, b, static).velocity(x_t, t, cond)

    return forward


@cache
def _train(config: SequentialTokenizer) -> BlockBody:
    @module_class("SequentialTokenizer", "train_forward")
    def train_forward(b: Builder, x: Var, x_t: Var, t: Var, first: Var, **static: Any) -> tuple[Var, ...]:
        """The velocity at states x_t of images x, given their codes from `first` on, and the codebook's penalties."""
        parts, (queries, size) = _Parts(config, b, static), (static["queries"], static["latent"])
        batch, group, width = x.shape[0], static["group"], static["width"]
        rows, table = parts.flat(parts.latents(x)), parts.codebook()
        index = b.argmax(b.linear(rows, table, out="closeness"), axis=1, out="index")
        chosen = b.embedding(table, index, out="chosen")
        pull, commit = chosen - b.stop_gradient(rows), rows - b.stop_gradient(chosen)
        straight = rows + b.stop_gradient(chosen - rows)  # the gradient ignores the choice of code
        cond = parts.conditions(b.reshape(straight, shape=(batch, queries, size), out="quantised"))
        places = b.add(b.reshape(first, shape=(batch, 1)), b.arange(group), out="places")
        wide = b.reshape(places, shape=(batch, group, 1))
        wide = b.broadcast_to(wide, cond, shape=(batch, group, width))
        cond = b.take_along(cond, wide, axis=1, out="cond")
        last = b.op("add", b.reshape(first, shape=(batch, 1)), group - 1, out="last")
        counts = b.cast(b.less_equal(b.reshape(b.arange(queries), shape=(1, queries)), last), to="f32", out="counts")

        def penalty(error: Var, out: str) -> Var:
            squares = b.reshape(b.mean(error * error, axes=(1,), keepdims=False), shape=(batch, queries))
            return b.sum(squares * counts, axes=(1,), keepdims=False, out=out)

        number = b.sum(counts, axes=(1,), keepdims=False, out="number")
        return parts.velocity(x_t, t, cond), penalty(pull, "pull"), penalty(commit, "commit"), number

    return train_forward
