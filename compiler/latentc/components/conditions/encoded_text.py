"""A text that another network encodes as a sequence of features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, encoding_networks
from latentc.components.condition import GivenInput
from latentc.components.conditions.features import Features
from latentc.components.conditions.tokens import TokenSequence
from latentc.components.contract import Network, Port
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.parts import Problem, Spec
from latentc.components.read_fields import CachedFeatures, EncodedField
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B, TensorType


class EncodedText(TokenSequence, Features):
    """Features f32[B, L, D] that a network of the spec computes, once per sample, from tokens i64[B, L] and a mask of
    the valid ones, the data's field `FIELD_mask`.
    """

    kind: Literal["encoded_text"]  # type: ignore[assignment]
    encoder: str = Field(description="one of `networks`, which encodes the tokens as features")
    cached: bool = Field(
        False,
        description="training reads features that the frozen `encoder` computes once, into a file beside the data, "
        "instead of encoding captions in each step",
    )
    null_embedding: Literal["zeros", "vector", "sequence", "empty_text"] = Field(  # type: ignore[assignment]
        "zeros",
        description="features that replace dropped ones: zeros, one learned vector for all tokens, a learned "
        "sequence, or those of a text without words",
    )
    padding: Literal["masked", "zeros", "none"] = Field(
        "masked",
        description="invalid features are hidden from attention, or are zeros that are seen; none: all are valid, and "
        "the data has no mask (texts for CLIP)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "encoded_text", "encoder": "text"}

    def _encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType] | None:
        """Inputs and output of the encoder; None if it is none."""
        network = encoding_networks(spec).get(self.encoder)
        return None if network is None else network.encoding(spec)

    def shape(self, name: str, spec: Spec) -> tuple[int, ...]:
        of = self._encoding(spec)
        return () if of is None else tuple(int(d) for d in of[1].shape[1:])  # type: ignore[arg-type]

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        found = list(self._problems_of_encoder(name, spec))
        yield from found or super().problems_as(name, spec)

    def _problems_of_encoder(self, name: str, spec: Spec) -> Iterator[Problem]:
        """Reasons why the network cannot encode this condition."""
        encoder, of, field = self.encoder, self._encoding(spec), self.field or name
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

    def _empty_text(self, name: str, spec: Spec) -> tuple[int, ...]:
        """The tokens of a text without words: those that begin and end it."""
        field = spec.data.fields.get(self.field or name)
        marks = () if field is None else (field.start, field.end)
        return tuple(token for token in marks if token is not None)

    def _fill(self, text: tuple[int, ...]) -> int:
        """The token after an empty text; a text without a mask is filled up with the token that ends it."""
        return text[-1] if text and self.padding == "none" else self.pad

    def _cached(self, name: str, spec: Spec) -> CachedFeatures | None:
        """The features that training reads; None: it encodes the tokens."""
        if not self.cached or (of := self._encoding(spec)) is None:
            return None
        field, empty = self.field or name, None
        if self.nullable and self.null_embedding == "empty_text":
            empty = self._empty_text(name, spec)
        mask = None if self.padding == "none" else f"{field}_mask"
        masked: bool = spec.networks[self.encoder].encodes_masked  # type: ignore[attr-defined]
        encoded = EncodedField(self.encoder, field, mask, masked, empty, self._fill(empty or ()))
        return CachedFeatures(f"{name}_features", of[1], encoded)

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        value, *masks = super().inputs(name, spec)
        tokens = i64(B, *super().shape(name, spec))
        value = replace(value, type=tokens, encoder=self.encoder, cached=self._cached(name, spec))
        if self.null_embedding != "empty_text":
            return value, *masks
        text, length = self._empty_text(name, spec), int(tokens.shape[1])  # type: ignore[arg-type]
        row = [*text, *[self._fill(text)] * (length - len(text))]
        valid = [i < len(text) for i in range(length)]
        return (
            replace(value, null=lambda b: b.constant([row], "i64", out="empty")),
            *(replace(mask, null=lambda b: b.constant([valid], out="first")) for mask in masks),
        )

    def operands(
        self, b: Builder, name: str, given: tuple[Var, ...], networks: Mapping[str, Network]
    ) -> tuple[Var, ...]:
        value, *mask = given
        if value.type.dtype == "i64":  # not encoded before training
            network = networks[self.encoder]
            masks = mask if network.methods["encode"].inputs_of("mask") else []
            value = call(b, network, "encode", {}, out=name, state=value, mask=masks)
        return super().operands(b, name, (value, *mask), networks)
