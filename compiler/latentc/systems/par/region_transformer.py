"""A transformer over the places of regions of a grid, which sees whole places: PAR.

A file of its own beside token_transformer, because what it takes at a step are the tokens of a place, which see each
other, and between the first tokens and the others learned vectors complete a place.

Symbols: B batch, R regions along a side, m = R^2 tokens of a place, T tokens of a sample, N tokens at once, V
vocabulary, D width, H_kv key heads, d channels of a head, E rotary pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.mixing import cached_blocks
from latentc.components.blocks.positions.rope_2d import Rope2d
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.decoding import DECODE, MASKED, BlockForm
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named


class RegionTransformer(TokenBlocks):
    """Transformer that predicts tokens of all regions of a grid at once (PAR, Wang et al. 2024, arXiv:2412.15119).

    Tokens are read place by place, a place of all R x R regions together. `forward`: idx i64[B, T - 1], the class ->
    logits f32[B, T, V]; the first m tokens are predicted one by one, those of other places from the places before.
    `prefill`: the class -> logits f32[B, V] of token 0, then the caches; `decode`: token i64[B] and number of the next
    i64[], the caches -> logits f32[B, V] and the grown caches, for the first m tokens; `enter`: the last of them, the
    caches -> logits f32[B m, V] of the second place; `decode_place`: the tokens of a place i64[B, m], the number of the
    first i64[], the caches -> logits f32[B m, V] of the next. Caches are pairs (keys, values) f32[B, H_kv, T, d].
    """

    kind: Literal["region_transformer"]
    regions: int = Field(2, gt=1, le=32, description="regions along each side of the grid")
    base: float = Field(10000.0, gt=1, description="ratio of the longest to the shortest rotary wavelength")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "region_transformer",
        "width": 16,
        "depth": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "bias": False},
            "feed_forward": {"kind": "swiglu", "multiple_of": 8},
            "norm": {"kind": "rms_norm"},
            "condition": {"kind": "in_context"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_places"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("grid", "regions")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "add `data.tokens`")
        elif len(grid := tokens.grid) != 2 or grid[0] != grid[1]:
            sides = " by ".join(map(str, grid))
            yield Problem((), f"a {self.kind} needs a square grid of tokens, not {sides}")
        elif grid[0] % self.regions or grid[0] == self.regions:
            message = f"{self.regions} regions along a side of {grid[0]} tokens do not have two or more whole rows each"
            yield Problem(("regions",), message, a_divisor(grid[0]))
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_chunks(self.kind)
        yield from self.block.problems_of_condition(self.kind, None)
        mixer = self.block.parts()[0]
        yield from Rope2d(kind="rope_2d").problems_of_head(mixer.head_size(self.width))
        if mixer.ordered:
            message = "tokens of a place see each other, so the mixer cannot be causal"
            yield Problem(("block", "mixer"), message, "set `causal: false`")
        if len(self.takes(spec)) != 1:
            message = f"a {self.kind} begins with one condition"
            yield Problem(("conditions",), message, "use one condition `{kind: label}`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens, entries = spec.data.tokens, self.entries(spec)
        assert tokens is not None
        static = {
            "vocabulary": tokens.vocabulary,
            "grid": tokens.grid[0],
            "regions": self.regions,
            **self.block_sizes(),
            **self.condition_sizes(spec),
        }
        heads, together = self.block.heads(static), self.regions**2
        kept = f32(B, static.get("kv_heads", heads), Named(tokens.length, "T"), self.width // heads)
        caches = (Port("caches", kept, "cache"),) * (2 * self.depth)
        grown: tuple[Role, ...] = ("logits", *(port.role for port in caches))
        cond, position = ports_of(entries), Port("position", i64(), "position")
        token = Port("token", i64(B), "token", tokens.vocabulary)
        of_place = Port("tokens", i64(B, together), "token", tokens.vocabulary)
        state = Port("idx", i64(B, tokens.length - 1), "state", tokens.vocabulary)
        methods = {
            "forward": add_method(mb, name, "forward", _forward(self, entries), (state, *cond), static, ("logits",)),
            "prefill": add_method(mb, name, "prefill", _prefill(self, entries), cond, static, grown),
        }
        for method, ports in {
            "decode": (token, position, *caches),
            "enter": (token, *caches),
            "decode_place": (of_place, position, *caches),
        }.items():
            methods[method] = add_method(mb, name, method, _step(self, method), ports, static, grown)
        return Network(name, methods, self.PROVIDES, reading=reading(self.regions, tokens.grid[0]))


def reading(regions: int, grid: int) -> tuple[int, ...]:
    """The cells of a grid, numbered row by row, place by place, and at a place region by region."""
    cells = np.arange(grid * grid).reshape(regions, grid // regions, regions, grid // regions)
    return tuple(cells.transpose(1, 3, 0, 2).reshape(-1).tolist())


class _Inputs:
    """Embeddings, rotary tables and outputs of a network, whose params are the same in all methods."""

    def __init__(self, config: RegionTransformer, b: Builder, static: Mapping[str, Any]) -> None:
        self.config, self.b, self.static, self.width = config, b, static, static["width"]
        self.together, self.total = static["regions"] ** 2, static["grid"] ** 2  # m, T
        self.length = Named(self.total, "T")
        self.sizes = {"dim": self.width, **config.block.own(self.width, static)}

    def condition(self, entries: tuple[Entry, ...], operands: Sequence[Var]) -> Var:
        """f32[B, 1, D]: the embedded class."""
        ((entry, given),) = with_operands(entries, operands)
        return entry.tokens(self.b, "cls_embedding", given, self.width, self.static)[0]

    def tokens(self, idx: Var) -> Var:
        table = self.b.param("tok_embeddings.weight", f32(self.static["vocabulary"], self.width), "normal", std=0.02)
        return self.b.embedding(table, idx, out="tokens")

    def special(self, like: Var) -> Var:
        """f32[B, m - 1, D]: the learned vectors between the first tokens and the others."""
        b, count = self.b, self.together - 1
        vectors = b.param("special", f32(count, self.width), "normal", std=0.02)
        vectors = b.reshape(vectors, shape=(1, count, self.width))
        return b.broadcast_to(vectors, like, shape=(like.shape[0], count, self.width), out="special")

    def dropped(self, x: Var) -> Var:
        """Embeddings after the dropout of the network."""
        return self.b.dropout(x, p=self.config.dropout, out=x.value.name) if self.config.dropout else x

    def rotary(self) -> tuple[Var, Var]:
        """(cos, sin) f32[T, E] of what the network takes."""
        sizes = {"head_dim": self.width // self.static["heads"], **{k: self.static[k] for k in ("grid", "regions")}}
        return self.b.sub("rotary", _rotary(self.config.base), out="cos sin", **sizes)

    def block(self, form: BlockForm) -> BlockBody:
        mixer, feed_forward, norm, condition = self.config.block.parts()
        return condition.block(mixer, feed_forward, norm, self.config.weights, form)

    def logits(self, x: Var) -> Var:
        """f32[B, N, V]: logits of features x f32[B, N, D], by a layer that starts at 0."""
        x = self.config.block.parts()[2].apply(self.b, "norm", x)
        return dense(self.b, "output", x, self.static["vocabulary"], False, "zeros", out="logits")

    def step(self, x: Var, position: Var, caches: Sequence[Var]) -> tuple[Var, ...]:
        """Logits f32[B N, V] of what follows x [B, N, D], whose first input is number `position`; the grown caches."""
        b, length, (batch, count, _) = self.b, self.length, x.shape
        rows = b.op("add", b.arange(count), position, out="rows") if int(count) > 1 else position
        rotary = [
            b.reshape(b.take(table, rows, axis=0), shape=(count, table.shape[1]), out=part)
            for table, part in zip(self.rotary(), ("cos", "sin"), strict=True)
        ]
        last = b.op("add", position, count - 1, out="last") if int(count) > 1 else position
        mask = b.reshape(b.less_equal(b.arange(length), last), shape=(1, 1, 1, length), out="mask")
        depth, given = int(self.static["depth"]), (position, mask)
        block, others = self.block(DECODE), rotary
        x, grown = cached_blocks(b, "blocks", block, depth, x, caches, given, others, **self.sizes)
        rows_of_all = batch if int(count) == 1 else batch * int(count)
        logits = b.reshape(self.logits(x), shape=(rows_of_all, self.static["vocabulary"]), out="logits")
        return logits, *grown


@cache
def _rotary(base: float) -> BlockBody:
    @module_class("RegionRotary")
    def rotary(b: Builder, *, head_dim: int, grid: int, regions: int) -> tuple[Var, ...]:
        """Rotary tables of what the network takes, tokens in its reading: zeros of the class and of learned vectors."""
        side, total, together = grid // regions, grid**2, regions**2
        found = []
        for table, out in zip(
            Rope2d(kind="rope_2d", base=base).rotary(b, head_dim, grid, 1), ("cos", "sin"), strict=True
        ):
            pairs, zeros = table.shape[1], b.slice(table, axis=0, start=0, stop=1, out="zeros")
            rows = b.slice(table, axis=0, start=1, stop=total + 1)
            rows = b.transpose(b.reshape(rows, shape=(regions, side, regions, side, pairs)), perm=(1, 3, 0, 2, 4))
            rows = b.reshape(rows, shape=(total, pairs), out="rows")
            first = b.slice(rows, axis=0, start=0, stop=together)
            rest = b.slice(rows, axis=0, start=together, stop=total - together)
            none = b.broadcast_to(zeros, zeros, shape=(together - 1, pairs))
            found.append(b.reshape(b.concat(zeros, first, none, rest, axis=0), shape=(total, pairs), out=out))
        return tuple(found)

    return rotary


@cache
def _forward(config: RegionTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("RegionTransformer", idx="B grid**2-1")
    def forward(b: Builder, idx: Var, *conditions: Var, **static: Any) -> Var:
        """Logits of every token given the class and the tokens at the places before."""
        inputs = _Inputs(config, b, static)
        together, total, length = inputs.together, inputs.total, inputs.length
        tokens = inputs.tokens(b.slice(idx, axis=1, start=0, stop=total - together, out="seen"))
        first = b.slice(tokens, axis=1, start=0, stop=together, out="first")
        rest = b.slice(tokens, axis=1, start=together, stop=total - together, out="rest")
        cond = inputs.condition(entries, conditions)
        x = b.concat(cond, first, inputs.special(idx), rest, axis=1, out="x")
        x = inputs.dropped(b.reshape(x, shape=(idx.shape[0], length, inputs.width), out="x"))
        # The class and the first tokens but the last are seen in turn, then m inputs at a time.
        row = b.arange(length, out="row")
        place = b.add(b.div(row, together) * together, together - 1, out="place")
        last = b.where(b.less(row, together), row, place, out="last")
        mask = b.less_equal(b.reshape(row, shape=(1, length)), b.reshape(last, shape=(length, 1)))
        mask = b.reshape(mask, shape=(1, 1, length, length), out="mask")
        rotary, block = inputs.rotary(), inputs.block(MASKED)
        for name in items("blocks", static["depth"]):
            x = b.sub(name, block, x, mask, *rotary, **inputs.sizes)
        return inputs.logits(x)

    return forward


@cache
def _prefill(config: RegionTransformer, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("RegionTransformer", "prefill")
    def prefill(b: Builder, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """Starts a sequence with the class: logits of token 0, and caches with room for all tokens."""
        inputs = _Inputs(config, b, static)
        x = inputs.dropped(inputs.condition(entries, conditions))
        heads = static["heads"]
        shape = (static.get("kv_heads", heads), inputs.length, inputs.width // heads)
        caches = [b.full(x, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(static["depth"]))]
        return inputs.step(x, b.constant(np.int64(0)), caches)

    return prefill


_DOCS = {
    "decode": "Takes token `position - 1`, one of the first: logits of token `position`, and the grown caches.",
    "enter": "Takes the last of the first tokens: logits of the second place, and the grown caches.",
    "decode_place": "Takes the tokens of a place, the first of which has number `position` among what the network "
    "takes: logits of the next place, and the grown caches.",
}


@cache
def _step(config: RegionTransformer, method: str) -> BlockBody:
    heads = "kv_heads" if "kv_heads" in config.block.parts()[0].static(config.width) else "heads"
    shapes = {"caches": f"B {heads} T=grid**2 width//heads"}
    shapes |= {"tokens": "B regions**2"} if method == "decode_place" else {}

    def decode(b: Builder, token: Var, position: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        inputs = _Inputs(config, b, static)
        x = inputs.tokens(b.reshape(token, shape=(token.shape[0], 1)))
        return inputs.step(inputs.dropped(x), position, caches)

    def enter(b: Builder, token: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        inputs = _Inputs(config, b, static)
        x = inputs.tokens(b.reshape(token, shape=(token.shape[0], 1)))
        x = b.reshape(b.concat(x, inputs.special(x), axis=1), shape=(x.shape[0], inputs.together, inputs.width))
        return inputs.step(inputs.dropped(x), b.constant(np.int64(int(inputs.together))), caches)

    def decode_place(b: Builder, tokens: Var, position: Var, *caches: Var, **static: Any) -> tuple[Var, ...]:
        inputs = _Inputs(config, b, static)
        return inputs.step(inputs.dropped(inputs.tokens(tokens)), position, caches)

    bodies: dict[str, Callable[..., Any]] = {"decode": decode, "enter": enter, "decode_place": decode_place}
    body = bodies[method]
    body.__doc__ = _DOCS[method]
    return BlockBody(body, "RegionTransformer", method, shapes)
