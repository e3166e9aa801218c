"""A sequence of tokens or features, with a mask of those that count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, encoding_networks
from latentc.components.condition import CachedFeatures, EncodedField, Form, GivenInput, TokenShape
from latentc.components.conditions._arrays import ArrayCondition, or_learned, present
from latentc.components.contract import Network, Port
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Applies, Problem
from latentc.ir.builder import BlockBody, Builder, Var, f32, i64, module_class
from latentc.ir.types import B, TensorType
from latentc_runtime.sources import Condition as Requested

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Sequence(ArrayCondition):
    """Tokens i64[B, L], or features f32[B, L, D] of a text encoder, and a mask of the valid entries.

    With an `encoder`, a network of the spec turns tokens into features once per sample. The data has the mask in the
    field `NAME_mask`. In the null only the first token is valid: `pad`, or for features zeros or a learned vector.
    """

    kind: Literal["sequence"]
    encoder: str | None = Field(
        None,
        description="one of `networks`, which encodes the tokens as features; null: networks embed them themselves, or "
        "the data holds features",
    )
    cached: bool = Field(
        False,
        description="training reads features that the frozen `encoder` computes once, into a file beside the data, "
        "instead of encoding captions in each step",
    )
    pad: int = Field(0, ge=0, le=16_777_215, description="padding token of shorter sequences, also used as the null")
    APPLIES: ClassVar[Applies] = {"untrained_null": ("dropout", (0,))}
    untrained_null: bool = Field(
        False,
        description="has a null although `dropout` is 0, as in LlamaGen's checkpoints",
    )
    null_embedding: Literal["zeros", "learned", "learned_input", "learned_features", "empty_text"] = Field(
        "zeros",
        description="features that stand for none; learned: a vector of the network's width, learned_input: features "
        "of the first token, such as those of an empty text, learned_features: features of the whole sequence, all of "
        "which count (PixArt), empty_text: what the `encoder` makes of a text without words",
    )
    projection: Literal["linear", "mlp", "none"] = Field(
        "linear",
        description="projection of features to the network's width; mlp: two linear layers with GELU between them; "
        "none: unchanged, for blocks that attend to features of any width",
    )
    padding: Literal["masked", "zeros", "none"] = Field(
        "masked",
        description="features that do not count are hidden from attention, or are zeros that are seen (STARFlow); "
        "none: all tokens count, and the data has no mask (scene layouts of taming transformers, texts for CLIP)",
    )
    FORMS: ClassVar[tuple[Form, ...]] = ("tokens",)
    RANKS: ClassVar[tuple[int, ...]] = (1, 2)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "sequence"}

    @property
    def nullable(self) -> bool:
        return super().nullable or self.untrained_null

    @property
    def learns_null(self) -> bool:
        """True if networks have learned features for the null of a condition of features."""
        return self.nullable and self.null_embedding.startswith("learned")

    def vocabulary(self, name: str, spec: Spec) -> int:
        """Size of the vocabulary of tokens that networks embed; 0 for features."""
        return 0 if self.encoder is not None else self._classes(name, spec)

    def _classes(self, name: str, spec: Spec) -> int:
        """Size of the vocabulary of the field; 0 if it holds features."""
        field = spec.data.fields.get(self.field or name)
        return (field.classes or 0) if field is not None and len(field.shape) == 1 else 0

    def shape(self, name: str, spec: Spec) -> tuple[int, ...]:
        of = _encoding(self.encoder, spec)
        return super().shape(name, spec) if of is None else tuple(int(d) for d in of[1].shape[1:])  # type: ignore[arg-type]

    def learned(self, name: str, spec: Spec) -> bool:
        """True if networks have learned features for the null."""
        return self.learns_null and not self.vocabulary(name, spec)

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        if self.encoder is not None and (found := list(self._problems_of_encoder(self.encoder, name, spec))):
            yield from found
            return
        yield from super().problems_as(name, spec)
        field, vocabulary = self.field or name, self.vocabulary(name, spec)
        if self.null_embedding == "empty_text" and self.encoder is None:
            message = "an empty text cannot be encoded: the condition has no `encoder`"
            yield Problem(("null_embedding",), message, "set `encoder`, or use `learned_input`")
        if self.cached and self.encoder is None:
            message = "no features are computed: the condition has no `encoder`"
            yield Problem(("cached",), message, "set `encoder`, or leave it out")
        if len(self.shape(name, spec)) == 1 and not vocabulary:
            yield Problem(
                (), f"field `{field}` holds tokens, but declares no `classes`", f"set `data.fields.{field}.classes`"
            )
        elif self.padding == "none" and not self._classes(name, spec):
            yield Problem(("padding",), "`padding: none` is for tokens, but these are features", "leave it out")
        elif vocabulary and self.padding == "zeros":
            yield Problem(("padding",), "`padding: zeros` is for features, but these are tokens", "leave it out")
        elif self.projection == "none" and self.null_embedding == "learned" and self.nullable:
            message = "a learned null vector has the network's width, but the features do not"
            yield Problem(("null_embedding",), message, "use `learned_input`")
        elif (known := self._classes(name, spec)) and self.pad >= known:
            yield Problem(
                ("pad",), f"token {self.pad} is out of range: the field has tokens 0 to {known - 1}", "use one of these"
            )

    def _problems_of_encoder(self, encoder: str, name: str, spec: Spec) -> Iterator[Problem]:
        """Reasons why a network cannot encode this condition."""
        of, field = _encoding(encoder, spec), self.field or name
        if of is None:
            what = "encodes nothing" if encoder in spec.networks else "does not exist"
            mend = f"networks that encode: {', '.join(encoding_networks(spec)) or 'none'}"
            yield Problem(("encoder",), f"network `{encoder}` {what}", mend)
            return
        network = spec.networks[encoder]
        assert isinstance(network, Backbone)
        read = [port.name for port in of[0]]
        if read != [field]:
            message = f"network `{encoder}` encodes {', '.join(map(repr, read))}, but this condition reads `{field}`"
            yield Problem(("encoder",), message.replace("'", "`"), f"set `networks.{encoder}.reads: {field}`")
        elif of[1].rank != 3:
            message = f"network `{encoder}` returns {list(of[1].shape[1:])} per sample, which is not a sequence"
            yield Problem(("encoder",), message, "leave out its `pooled`, or use `kind: encoded`")
        elif network.encodes_masked and self.padding == "none":
            message = f"network `{encoder}` takes a mask of valid tokens, but without padding all tokens are valid"
            yield Problem(("padding",), message, f"leave it out, or set `networks.{encoder}.masked: false`")
        elif self.cached and (network.trainable or network.pretrained is None):
            message = f"network `{encoder}` is trained, so its features change in every step"
            yield Problem(("cached",), message, f"set `networks.{encoder}.pretrained: FILE`, or leave it out")
        elif self.cached and isinstance(spec.objective, Objective) and spec.objective.reward_settings:
            message = "training draws samples from the captions themselves, which the network encodes anyway"
            yield Problem(("cached",), message, "leave it out")
        elif (features := self._cached(name, spec)) and (
            taken := [key for key in features.fields if key in spec.data.fields]
        ):
            message = f"the features would be the field `{taken[0]}` of a batch, which the data has already"
            yield Problem(("cached",), message, "rename that field")
        elif self.null_embedding == "empty_text" and not self._empty_text(name, spec):
            message = f"an empty text has no tokens: field `{field}` has neither `start` nor `end`"
            yield Problem(("null_embedding",), message, f"set `data.fields.{field}.end`")

    def _empty_text(self, name: str, spec: Spec) -> list[int]:
        """The tokens of a text without words: those that begin and end it."""
        field = spec.data.fields.get(self.field or name)
        marks = () if field is None else (field.start, field.end)
        return [token for token in marks if token is not None]

    def _fill(self, text: SequenceOf[int] | None) -> int:
        """The token after an empty text; a text without a mask is filled up with the token that ends it."""
        return text[-1] if text and self.padding == "none" else self.pad

    def _cached(self, name: str, spec: Spec) -> CachedFeatures | None:
        """The features that training reads; None: it encodes the tokens, or nothing does."""
        if not self.cached or self.encoder is None or (of := _encoding(self.encoder, spec)) is None:
            return None
        field, empty = self.field or name, None
        if self.nullable and self.null_embedding == "empty_text":
            empty = tuple(self._empty_text(name, spec))
        mask = None if self.padding == "none" else f"{field}_mask"
        masked: bool = spec.networks[self.encoder].encodes_masked  # type: ignore[attr-defined]
        encoded = EncodedField(self.encoder, field, mask, masked, empty, self._fill(empty))
        return CachedFeatures(f"{name}_features", of[1], encoded)

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        shape, vocabulary = self.shape(name, spec), self.vocabulary(name, spec)
        length = shape[0] if shape else 1
        value = Port(name, i64(B, length) if vocabulary else f32(B, *shape), "condition", vocabulary or None)
        masks = () if self.padding == "none" else (Port(f"{name}_mask", TensorType("bool", (B, length)), "condition"),)
        given = (Port(f"{name}_given", f32(B), "condition"),) if self.learned(name, spec) else ()
        return (value, *masks, *given)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        value, *others = self.ports(name, spec)
        field, type = self.field or name, value.type
        if self.encoder is not None:
            type = i64(B, *super().shape(name, spec))
        masks, (null, null_mask) = () if self.padding == "none" else others[:1], self._empty(name, spec)
        cached = self._cached(name, spec)
        return (
            GivenInput(value.name, type, field, name, encoder=self.encoder, cached=cached, null=null),
            *(GivenInput(m.name, m.type, f"{field}_mask", name, "mask", null=null_mask) for m in masks),
        )

    def _empty(self, name: str, spec: Spec) -> tuple[Callable[[Builder], Var] | None, ...]:
        """The tokens of an empty text and their mask, [1, L]; two None if it is not the null."""
        if self.encoder is None or self.null_embedding != "empty_text":
            return None, None
        text, shape = self._empty_text(name, spec), super().shape(name, spec)
        length = shape[0] if shape else 1
        tokens = [*text, *[self._fill(text)] * (length - len(text))]
        return (
            lambda b: b.constant([tokens], "i64", out="empty"),
            lambda b: b.constant([[i < len(text) for i in range(length)]], out="first"),
        )

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        value, *mask = given
        if self.encoder is not None and value.type.dtype == "i64":  # not encoded before training
            value = _encoded(b, networks[self.encoder], value, mask, name)
        given = (present(b, value),) if value.type.rank == 3 and self.learns_null else ()
        return (value, *mask, *given)

    def null_operands(self, b: Builder, name: str, operands: tuple[Var, ...], spec: Spec) -> tuple[Var, ...]:
        value, *others = operands
        null = b.scalar(self.pad if value.type.dtype == "i64" else 0.0, value)
        if self.padding == "none":
            return null, *(b.scalar(0.0, g) for g in others)
        mask, *given = others
        whole = self.null_embedding == "learned_features"
        counts = b.constant([[i == 0 or whole for i in range(int(mask.shape[1]))]], out="first")
        return null, counts, *(b.scalar(0.0, g) for g in given)

    def token_shape(self, name: str, spec: Spec) -> TokenShape:
        shape, vocabulary = self.shape(name, spec), self.vocabulary(name, spec)
        raw = self.projection == "none" and not vocabulary and len(shape) > 0
        return TokenShape(shape[0] if shape else 1, self.padding == "masked", shape[-1] if raw else None)

    def sizes(self, name: str, spec: Spec) -> dict[str, int]:
        vocabulary = self.vocabulary(name, spec)
        return {f"{name}_vocabulary": vocabulary} if vocabulary else {}

    def tokens(
        self, b: Builder, prefix: str, name: str, operands: tuple[Var, ...], width: Any, sizes: Mapping[str, Any]
    ) -> tuple[Var, Var | None]:
        x, *given = operands
        mask = None if self.padding == "none" else given.pop(0)
        if x.type.dtype == "i64":
            table = b.param(f"{prefix}.weight", f32(sizes[f"{name}_vocabulary"], width), "normal", std=0.02)
            return b.embedding(table, x, out=name), mask
        if self.padding == "zeros" and mask is not None:
            x = b.where(b.reshape(mask, shape=(*mask.shape, 1)), x, 0.0, out=name)
        if given and self.null_embedding == "learned_features":
            null = b.param(f"{prefix}_null", f32(*x.shape[1:]), "normal", std=0.02)
            x = b.where(b.reshape(b.greater(given[0], 0.5), shape=(x.shape[0], 1, 1)), x, null, out=name)
        if given and self.null_embedding == "learned_input":
            x = or_learned(b, f"{prefix}.null", x, *given)
        embedded = self.projected(b, prefix, x, width, name)
        learned = given and self.null_embedding == "learned"
        embedded = or_learned(b, f"{prefix}.null", embedded, *given) if learned else embedded
        return embedded, None if self.padding == "zeros" else mask

    def projected(self, b: Builder, prefix: str, x: Var, width: Any, out: str) -> Var:
        """Features f32[B, L, D] at the width of the network, params under `prefix`."""
        if self.projection == "none":
            return x
        if self.projection == "mlp":
            return b.sub(prefix, feature_embedder(True), x, width=width, out=out)  # type: ignore[no-any-return]
        return b.dense(prefix, x, width, init="normal", std=0.02, out=out)

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        shape, vocabulary = super().shape(name, spec), self._classes(name, spec)
        field = spec.data.fields.get(self.field or name)
        axes = field.axes if field is not None else ()
        if not vocabulary:
            return (Requested(name, "array", shape, "f32", axes, mask=True, default=self.default),)
        text = {} if field is None else field.text
        masked = self.padding != "none"
        return (
            Requested(name, "tokens", shape, "i64", axes, vocabulary=vocabulary, mask=masked, pad=self.pad, **text),
        )


def _encoding(encoder: str | None, spec: Spec) -> tuple[tuple[Port, ...], TensorType] | None:
    """Inputs and output of the network that encodes a condition; None if there is none, or it encodes nothing."""
    network = encoding_networks(spec).get(encoder or "")
    return None if network is None else network.encoding(spec)


def _encoded(b: Builder, network: Network, tokens: Var, mask: SequenceOf[Var], out: str) -> Var:
    """The features f32[B, L, D] of tokens i64[B, L], by a network that may take their mask."""
    masks = mask if network.methods["encode"].inputs_of("mask") else ()
    return call(b, network, "encode", {}, out=out, state=tokens, mask=list(masks))  # type: ignore[no-any-return]


@cache
def feature_embedder(bias: bool) -> BlockBody:
    """A block: features f32[B, L, C] -> f32[B, L, width]."""

    @module_class("FeatureEmbedder", x="B L C")
    def embed(b: Builder, x: Var, *, width: int) -> Var:
        """Two linear layers with GELU between them."""
        x = b.dense("fc1", x, width, bias=bias, init="normal", std=0.02)
        x = b.gelu(x, approximate="tanh", out="x")
        return b.dense("fc2", x, width, bias=bias, init="normal", std=0.02)

    return embed
