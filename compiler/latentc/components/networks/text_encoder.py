"""A transformer that encodes a text as features of its tokens, or as one vector: the encoders of T5 and of CLIP.

Why a file of its own: bert and language_model score the tokens of a sample, and this one reads a condition.
Symbols: B batch, L tokens of a text, V vocabulary, D width, H heads, E width of the projected vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentc.components import Closed, Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.decoding import UNSEEN, BlockForm
from latentc.components.kit.tokens import rows
from latentc.components.parts import Init, Positions, Problem, Spec, Weights, table
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, TensorType


class Buckets(Closed):
    """Biases of the scores by how far a token is from another, the same in all blocks (T5, Raffel et al. 2020,
    arXiv:1910.10683, section 2.1).
    """

    buckets: int = Field(
        32, gt=3, le=65_536, multiple_of=4, description="rows of the table, half of them for each direction"
    )
    furthest: int = Field(
        128, gt=1, le=1_048_576, description="distance from which on all share a bucket; buckets widen towards it"
    )

    @model_validator(mode="after")
    def _reaches_all(self) -> Self:
        if self.furthest <= self.buckets // 4:
            raise ValueError(
                f"`furthest` ({self.furthest}) must exceed {self.buckets // 4}, the number of "
                "distances with a bucket of their own"
            )
        return self

    def starts(self) -> list[int]:
        """The least distance of each bucket of one direction that does not begin at its own number."""
        exact = self.buckets // 4
        distance = np.arange(exact, self.furthest + 1, dtype=np.float32)
        # In float32, as in T5, so that distances at the border of two buckets fall into the same one.
        place = np.log(distance / np.float32(exact)) / np.float32(np.log(self.furthest / exact)) * np.float32(exact)
        bucket = np.minimum(exact + place.astype(np.int64), 2 * exact - 1)
        return [int(distance[bucket >= i][0]) for i in range(exact + 1, 2 * exact)]

    def bias(self, b: Builder, tokens: Any, heads: int) -> Var:
        """f32[1, H, L, L]: a row of the table per bucket of the offset from token i to token j."""
        values = b.param("relative.weight", f32(self.buckets, heads), "normal", std=0.02)
        exact, place = self.buckets // 4, b.arange(tokens, out="place")
        offset = b.op("sub", b.reshape(place, shape=(1, tokens)), b.reshape(place, shape=(tokens, 1)), out="offset")
        distance = b.maximum(offset, b.op("sub", 0, offset), out="distance")
        bucket = b.minimum(distance, exact, out="bucket")
        starts = b.constant([[self.starts()]], "i64", out="starts")
        wider = b.less_equal(starts, b.reshape(distance, shape=(tokens, tokens, 1)), out="wider")
        wider = b.sum(b.cast(wider, to="i64"), axes=(2,), keepdims=False, out="wider")
        after = b.op("mul", b.cast(b.less(0, offset), to="i64"), 2 * exact, out="after")
        bucket = b.op("add", b.op("add", bucket, wider), after, out="bucket")
        bias = b.embedding(values, bucket, out="bias")
        return b.reshape(b.transpose(bias, perm=(2, 0, 1)), shape=(1, heads, tokens, tokens), out="bias")


class TextEncoder(Backbone):
    """Encodes tokens i64[B, L] as features f32[B, L, D], or as one vector f32[B, E] (T5's encoder, Raffel et al. 2020,
    arXiv:1910.10683; CLIP's text transformer, Radford et al. 2021, arXiv:2103.00020).
    """

    kind: Literal["text_encoder"]
    reads: str = Field("caption", description="data field that it encodes, tokens of which there are `classes`")
    masked: bool = Field(
        True, description="tokens that do not count, which the field `NAME_mask` says, are hidden from the others"
    )
    width: int = Field(gt=0, le=65_536, description="channels of a feature (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="how tokens know their place, such as learned; null: by `relative` alone"
    )
    relative: Buckets | None = Field(None, description="biases of the scores by distance (T5); null: none")
    block: Block = Field(description="the repeated block; its norm is also the last layer")
    pooled: Literal["highest", "end"] | None = Field(
        None,
        description="returns one vector: the features of the first token of the highest number, or that ends the text; "
        "null: those of all tokens",
    )
    projection: int | None = Field(
        None, gt=0, le=65_536, description="width that the vector is projected to (E), without a bias; null: it is not"
    )
    unit: bool = Field(False, description="the vector is divided by its length")
    embedding: Init = Field("normal", description="how the table of tokens starts")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "text_encoder",
        "width": 16,
        "depth": 2,
        "relative": {"buckets": 8, "furthest": 16},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "bias": False},
            "feed_forward": {"kind": "swiglu", "hidden": 24, "activation": "gelu_tanh"},
            "norm": {"kind": "rms_norm", "eps": 1e-6},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        field = spec.data.fields.get(self.reads)
        if field is None:
            known = ", ".join(spec.data.fields) or "none"
            yield Problem(("reads",), f"the data has no field `{self.reads}`", f"fields of the data: {known}")
            return
        if len(field.shape) != 1 or not field.classes:
            message = f"a text_encoder takes tokens, but field `{self.reads}` has shape {list(field.shape)}"
            yield Problem(("reads",), message, f"set `data.fields.{self.reads}`: `{{shape: [L], classes: VOCABULARY}}`")
        if self.pooled == "end" and field.end is None:
            message = f"the vector is read at the end token, but texts of `{self.reads}` have none"
            yield Problem(("pooled",), message, f"set `data.fields.{self.reads}.end`, or use `pooled: highest`")
        if self.pooled is None:
            for key in ("projection", "unit"):
                if getattr(self, key):
                    yield Problem(
                        (key,),
                        f"`{key}` needs a single vector, but this network returns one per token",
                        "set `pooled`",
                    )
        if isinstance(self.positions, Positions) and (self.positions.ROTARY or self.positions.GRIDDED):
            message = f"`{self.positions.kind}` does not give each position a vector"
            yield Problem(("positions",), message, "use `{kind: learned}`, or `relative`")
        yield from self.block.problems_of_width(self.width, any_heads=True)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self.problems_of_conditions(spec)

    @property
    def encodes_masked(self) -> bool:
        return self.masked

    def _sizes(self, spec: Spec) -> tuple[int, int]:
        """L and V; ones of what holds no tokens, which `problems` refuses."""
        field = spec.data.fields.get(self.reads)
        return (field.shape[0], field.classes or 1) if field is not None and len(field.shape) == 1 else (1, 1)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        length, vocabulary = self._sizes(spec)
        port = Port(self.reads, i64(B, length), "state", vocabulary)
        return (port,), f32(B, length, self.width) if self.pooled is None else f32(B, self.projection or self.width)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        length, vocabulary = self._sizes(spec)
        static = {
            "vocabulary": vocabulary,
            "length": length,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            **({} if self.projection is None else {"projection": self.projection}),
        }
        ports = [Port("tokens", i64(B, length), "state", vocabulary)]
        if self.masked:
            ports.append(Port("mask", TensorType("bool", (B, length)), "mask"))
        end = spec.data.fields[self.reads].end if self.pooled == "end" else None
        method = add_method(mb, name, "encode", _encode(self, end), ports, static)
        sizes = {"gated": int(self.block.parts()[1].GATED), "projected": int(self.projection is not None)}
        return Network(name, {"encode": method}, self.PROVIDES, sizes=sizes)


@cache
def _encode(config: TextEncoder, end: int | None) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    bodies = mixer, feed_forward, norm, config.weights
    block = condition.block(*bodies, BlockForm(masked=config.masked or config.relative is not None))

    @module_class("TextEncoder", "encode", tokens="B length")
    def encode(b: Builder, tokens: Var, *mask: Var, width: int, depth: int, **static: Any) -> Var:
        """Features of the tokens of texts."""
        count = static["length"]
        x = b.embedding(table(b, "embedding.weight", static["vocabulary"], width, config.embedding), tokens, out="x")
        if isinstance(config.positions, Positions):
            x = config.positions.add(b, x, width, 0)
        seen = [b.reshape(each, shape=(each.shape[0], 1, 1, count), out="seen") for each in mask]
        if config.relative is not None:
            bias = config.relative.bias(b, count, config.block.heads(static))
            seen = [b.where(seen[0], bias, UNSEEN, out="bias") if seen else bias]
        for name in items("blocks", depth):
            x = b.sub(name, block, x, *seen, dim=width, **config.block.own(width, static))
        x = norm.apply(b, "norm", x)
        return x if config.pooled is None else _pooled(b, config, x, tokens, end, static)

    if config.pooled is not None:
        encode.body.__doc__ = "The vector of texts: features of the token that ends each."
    return encode


def _pooled(b: Builder, config: TextEncoder, x: Var, tokens: Var, end: int | None, static: dict[str, Any]) -> Var:
    """f32[B, E]: the features of one token of x f32[B, L, D], perhaps projected and divided by their length."""
    marks = tokens if end is None else b.cast(b.equal(tokens, b.scalar(end, tokens)), to="i64", out="ends")
    place = b.reshape(b.argmax(marks, axis=1), shape=(tokens.shape[0], 1), out="place")
    x = b.reshape(rows(b, x, place, "x"), shape=(x.shape[0], x.shape[2]), out="x")
    if config.projection is not None:
        x = b.dense("projection", x, static["projection"], bias=False, init="normal", std=0.02, out="x")
    if config.unit:
        x = b.div(x, b.sqrt(b.sum(x * x, axes=(1,), keepdims=True), out="length"), out="x")
    return x
