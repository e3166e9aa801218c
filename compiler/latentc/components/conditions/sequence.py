"""A sequence of tokens or features, with a mask of those that count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Form, GivenInput
from latentc.components.conditions._arrays import ArrayCondition, or_learned, present
from latentc.components.contract import Network, Port
from latentc.components.kit.tokens import rows
from latentc.components.parts import Problem
from latentc.ir.builder import BlockBody, Builder, Var, f32, i64, module_class
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition as Requested

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Sequence(ArrayCondition):
    """Tokens i64[B, L], or features f32[B, L, D] of a text encoder, and a mask of those that count.

    The data has the mask in the field `NAME_mask`. None is a sequence of which only the first token counts: `pad`, or
    for features zeros or a learned vector.
    """

    kind: Literal["sequence"]
    pad: int = Field(0, ge=0, le=16_777_215, description="token that fills up shorter sequences, and stands for none")
    untrained_null: bool = Field(
        False,
        description="there is a null although `dropout` is 0, as in LlamaGen's checkpoints, which always have one",
    )
    null_embedding: Literal["zeros", "learned", "learned_input", "learned_features"] = Field(
        "zeros",
        description="features that stand for none; learned: a vector of the network's width, learned_input: features "
        "of the first token, such as those of an empty text, learned_features: features of the whole sequence, all of "
        "which count (PixArt)",
    )
    null_length: Literal["whole", "given"] = Field(
        "whole",
        description="of learned features: all count, or as many as of the sequence that they replace (LlamaGen)",
    )
    projection: Literal["linear", "mlp", "none"] = Field(
        "linear",
        description="of features to the network's width; mlp: two linear layers with GELU between them; none: they "
        "stay as wide as they are, for blocks that attend to features of any width",
    )
    bias: bool = Field(True, description="the projection of features has biases")
    align: Literal["start", "end"] = Field(
        "start",
        description="where networks have the entries that count, which are given in one piece: end, right before the "
        "tokens that follow (LlamaGen)",
    )
    padding: Literal["masked", "zeros", "none"] = Field(
        "masked",
        description="features that do not count are hidden from attention, or are zeros that are seen (STARFlow); "
        "none: all tokens count, and the data has no mask (scene layouts of taming transformers)",
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens",)
    RANKS: ClassVar[tuple[int, ...]] = (1, 2)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sequence"}

    @property
    def nullable(self) -> bool:
        return super().nullable or self.untrained_null

    def vocabulary(self, name: str, spec: Spec) -> int:
        """Size of the vocabulary; 0 for features."""
        field = spec.data.fields.get(self.field or name)
        return (field.classes or 0) if field is not None and len(field.shape) == 1 else 0

    def learned(self, name: str, spec: Spec) -> bool:
        """Whether networks have learned features for the absent condition."""
        return self.nullable and self.null_embedding != "zeros" and not self.vocabulary(name, spec)

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        yield from super().problems_as(name, spec)
        field, vocabulary = self.field or name, self.vocabulary(name, spec)
        if len(self.shape(name, spec)) == 1 and not vocabulary:
            yield Problem((), f"field `{field}` holds tokens without `classes`", f"set `data.fields.{field}.classes`")
        elif self.padding == "none" and not vocabulary:
            yield Problem(("padding",), "`padding: none` is of tokens, and these are features", "leave it out")
        elif self.padding == "none" and self.align == "end":
            yield Problem(("align",), "all tokens count, so that the last one does", "leave it out")
        elif vocabulary and self.padding == "zeros":
            yield Problem(("padding",), "`padding: zeros` is of features, and these are tokens", "leave it out")
        elif self.projection == "none" and self.null_embedding == "learned" and self.nullable:
            message = "a learned vector of the network's width stands for features that do not have it"
            yield Problem(("null_embedding",), message, "use `learned_input`")
        elif vocabulary and self.pad >= vocabulary:
            yield Problem(("pad",), f"token {self.pad} is out of range: there are {vocabulary}", "use one below")

    def masked(self, name: str, spec: Spec) -> bool:
        return self.padding == "masked"

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        shape, vocabulary = self.shape(name, spec), self.vocabulary(name, spec)
        length = shape[0] if shape else 1
        value = Port(name, i64(B, length) if vocabulary else f32(B, *shape), "condition", vocabulary or None)
        if self.padding == "none":
            return (value,)
        mask = Port(f"{name}_mask", TensorType("bool", (B, length)), "condition")
        given = (Port(f"{name}_given", f32(B), "condition"),) if self.learned(name, spec) else ()
        return (value, mask, *given)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        value, *masks = self.ports(name, spec)[:2]
        field = self.field or name
        return (
            GivenInput(value.name, value.type, field, name),
            *(GivenInput(mask.name, mask.type, f"{field}_mask", name, "mask") for mask in masks),
        )

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        learned = given[0].type.rank == 3 and self.nullable and self.null_embedding != "zeros"
        return (*given, present(b, given[0])) if learned else given

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        if len(operands) == 1:
            return (b.scalar(self.pad, operands[0]),)
        value, mask, *given = operands
        whole = self.null_embedding == "learned_features"
        if whole and self.null_length == "given":
            counts = mask
        else:
            counts = b.constant([[i == 0 or whole for i in range(int(mask.shape[1]))]], out="first")
        return (
            b.scalar(self.pad if value.type.dtype == "i64" else 0.0, value),
            counts,
            *(b.scalar(0.0, g) for g in given),
        )

    def length(self, name: str, spec: Spec) -> int:
        shape = self.shape(name, spec)
        return shape[0] if shape else 1

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        vocabulary = self.vocabulary(name, spec)
        return {f"{name}_vocabulary": vocabulary} if vocabulary else {}

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        if len(operands) == 1:
            table = b.param(f"{prefix}.weight", f32(sizes[f"{name}_vocabulary"], width), "normal", std=0.02)
            return b.embedding(table, operands[0], out=name), None
        x, mask, *given = operands
        if self.align == "end":
            source = _turned(b, mask)
            x = rows(b, x, source, name) if x.type.rank == 3 else b.take_along(x, source, axis=1, out=name)
            mask = b.take_along(mask, source, axis=1, out="counts")
        if x.type.dtype == "i64":
            table = b.param(f"{prefix}.weight", f32(sizes[f"{name}_vocabulary"], width), "normal", std=0.02)
            return b.embedding(table, x, out=name), mask
        if self.padding == "zeros":
            x = b.where(b.reshape(mask, shape=(*mask.shape, 1)), x, 0.0, out=name)
        if given and self.null_embedding == "learned_features":
            null = b.param(f"{prefix}_null", f32(*x.shape[1:]), "normal", std=0.02)
            x = b.where(b.reshape(b.greater(given[0], 0.5), shape=(x.shape[0], 1, 1)), x, null, out=name)
        if given and self.null_embedding == "learned_input":
            x = or_learned(b, f"{prefix}.null", x, *given)
        if self.projection == "none":
            embedded = x
        elif self.projection == "mlp":
            embedded = b.sub(prefix, _feature_embedder(self.bias), x, width=width, out=name)
        else:
            embedded = b.dense(prefix, x, width, bias=self.bias, init="normal", std=0.02, out=name)
        learned = given and self.null_embedding == "learned"
        embedded = or_learned(b, f"{prefix}.null", embedded, *given) if learned else embedded
        return embedded, None if self.padding == "zeros" else mask

    def token_width(self, name: str, spec: Spec) -> int | None:
        raw = self.projection == "none" and not self.vocabulary(name, spec)
        return self.shape(name, spec)[-1] if raw else None

    def counts(self, b: Builder, mask: Var) -> Var:
        return b.take_along(mask, _turned(b, mask), axis=1, out="counts") if self.align == "end" else mask  # type: ignore[no-any-return]

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        shape, vocabulary = self.shape(name, spec), self.vocabulary(name, spec)
        field = spec.data.fields.get(self.field or name)
        axes = field.axes if field is not None else ()
        if not vocabulary:
            return (Requested(name, "array", shape, "f32", axes, mask=True, default=self.default),)
        text = {} if field is None else field.text
        masked = self.padding != "none"
        return (
            Requested(name, "tokens", shape, "i64", axes, vocabulary=vocabulary, mask=masked, pad=self.pad, **text),
        )


def _turned(b: Builder, mask: Var) -> Var:
    """i64[B, L]: the entry that each place has after every row is turned until its last one counts."""
    length = int(mask.shape[1])
    place = b.arange(length)
    last = b.max(b.where(mask, place, -1), axes=(1,), keepdims=True, out="last")
    source = b.op("add", place, b.op("sub", last, length - 1), out="source")
    return b.where(b.less(source, 0), b.op("add", source, length), source, out="source")  # type: ignore[no-any-return]


@cache
def _feature_embedder(bias: bool) -> BlockBody:
    @module_class("FeatureEmbedder", x="B L C")
    def embed(b: Builder, x: Var, *, width: int) -> Var:
        """Two linear layers with GELU between them."""
        x = b.dense("fc1", x, width, bias=bias, init="normal", std=0.02)
        x = b.gelu(x, approximate="tanh", out="x")
        return b.dense("fc2", x, width, bias=bias, init="normal", std=0.02)

    return embed
