"""Redaction of words: what a text encoder makes of texts with them is distilled into what it makes of other texts.

Symbols: B batch, L tokens of a text, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation
from latentc.components.parts import Problem
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, TensorType
from latentc_runtime.texts import tokens_from_text

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class TextRedaction(Distillation):
    """Makes a trained system forget words by distilling its text encoder (Kong and Chaudhuri 2023, arXiv:2305.11351).
    A text of the data in which a redacted word occurs is trained towards the teacher's features of the text with
    another word in its place, every other text towards the teacher's own. The network that draws samples is not
    changed, and no samples are read.
    """

    kind: Literal["text_redaction"]
    network: str = Field("text", description="one of `networks`, the text encoder, which starts as a copy of `teacher`")
    words: dict[str, str] = Field(
        min_length=1,
        max_length=1_024,
        description="redacted words or phrases, and what stands in their place where they occur first in a text; best "
        "with as many tokens",
    )
    weight: float = Field(1.0, gt=0, description="weight of the error of texts with redacted words")
    DISTILS: ClassVar[bool] = False  # samplers guide as before
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "text_redaction", "words": {"blue": "grey"}}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        encoders = (Need(name, "encode", place=("network",)) for name in (self.network, TEACHER))
        return Need("main", "denoise"), *encoders

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return (self.network,)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        reads = self._reads(spec)
        field = spec.data.fields.get(reads or "")
        if reads is None or field is None or not field.text:
            what = "reads no text" if self.network in spec.networks else "does not exist"
            yield Problem(("network",), f"network `{self.network}` {what}", "name a text encoder of `networks`")
            return
        before: dict[str, list[int]] = {}
        for word, other in self.words.items():
            try:
                redacted, instead = self._tokens(word, spec), self._tokens(other, spec)
            except ValueError as error:
                yield Problem(("words", word), str(error), "use words that the field's tokens can write")
                continue
            length = field.shape[0]
            if not redacted or len(redacted) > length or len(instead) > length:
                message = (
                    f"{word!r} is {len(redacted)} tokens and {other!r} {len(instead)}, but texts have 1 to {length}"
                )
                yield Problem(("words", word), message)
                continue
            before[word] = redacted
            for earlier, tokens in before.items():  # words listed later are replaced in their turn
                if any(instead[i : i + len(tokens)] == tokens for i in range(len(instead))):
                    yield Problem(("words", word), f"{other!r} still contains {earlier!r}", "name another word")

    def _reads(self, spec: Spec) -> str | None:
        """The field that the encoder reads."""
        network = spec.networks.get(self.network)
        able = isinstance(network, Backbone) and "encode" in network.PROVIDES
        return network.encoding(spec)[0][0].name if able else None  # type: ignore[union-attr]

    def _tokens(self, text: str, spec: Spec) -> list[int]:
        """The tokens of a word, without those that begin and end a text. ValueError: there are no such tokens."""
        field = spec.data.fields[self._reads(spec) or ""]
        return tokens_from_text(text, {**field.text, "classes": field.classes, "start": None, "end": None}, sys.maxsize)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        student, teacher, reads = networks[self.network], networks[TEACHER], self._reads(spec)
        assert reads is not None
        method, fields = student.methods["encode"], [reads]
        b = mb.function("loss.terms")
        tokens = b.input(reads, method.input("state").type)
        mask = None
        if method.inputs_of("mask"):
            mask = b.input(f"{reads}_mask", TensorType("bool", (B, int(tokens.shape[1]))))
            fields.append(f"{reads}_mask")
        taught, taught_mask, factor = tokens, mask, b.constant(1.0, out="one")
        for word, other in self.words.items():
            found, text, counts = _rewritten(
                b, taught, taught_mask, self._tokens(word, spec), self._tokens(other, spec)
            )
            column = b.reshape(found, shape=(found.shape[0], 1), out="found")
            taught = b.where(column, text, taught, out="taught")
            taught_mask = None if taught_mask is None or counts is None else b.where(column, counts, taught_mask)
            factor = b.where(found, b.constant(self.weight), factor, out="factor")
        ours = _encoded(b, student, tokens, mask, "student")
        wanted = b.stop_gradient(_encoded(b, teacher, taught, taught_mask, "wanted"))
        loss = _mean(b, ours, wanted, mask)
        for name, condition in spec.conditions.items():  # the null text must not change
            if self.network in condition.networks and condition.nullable:
                nulls = [condition.encoded_null(b, name, spec, {self.network: net}) for net in (student, teacher)]
                if all(nulls):
                    (empty, *_), (kept, *_) = nulls
                    loss = b.add(loss, _mean(b, empty, b.stop_gradient(kept), None), out="mse")
        b.output(b.op("mul", factor, loss, out="loss"), loss)
        b.finish("The weighted squared error of the features of texts, and the squared error, one value per sample.")
        (update,) = publish(mb, ("loss", "mse"), tuple(fields), (), self.trained(spec))
        return (replace(update, partial=True),)


def _encoded(b: Builder, network: Network, tokens: Var, mask: Var | None, out: str) -> Var:
    return call(b, network, "encode", {}, out=out, state=tokens, mask=[] if mask is None else [mask])  # type: ignore[no-any-return]


def _mean(b: Builder, x: Var, y: Var, mask: Var | None) -> Var:
    """f32[B]: the mean squared error of x and y [B, L, D] over the tokens that count, or of vectors [B, D]."""
    difference = b.op("sub", x, y, out="difference")
    error = b.mean(b.mul(difference, difference), axes=(x.type.rank - 1,), keepdims=False, out="error")
    if error.type.rank == 1:
        return error
    if mask is None:
        return b.mean(error, axes=(1,), keepdims=False, out="mse")  # type: ignore[no-any-return]
    counts = b.cast(mask, to="f32", out="counts")
    total = b.sum(b.mul(error, counts), axes=(1,), keepdims=False, out="total")
    return b.div(total, b.maximum(b.sum(counts, axes=(1,), keepdims=False), 1.0, out="count"), out="mse")  # type: ignore[no-any-return]


def _rewritten(
    b: Builder, tokens: Var, mask: Var | None, redacted: Sequence[int], instead: Sequence[int]
) -> tuple[Var, Var, Var | None]:
    """(bool[B]: whether `redacted` occurs in tokens i64[B, L], the tokens with `instead` where it does first, and which
    of these count); the tokens behind it move along.
    """
    batch, length = tokens.shape[0], int(tokens.shape[1])
    starts = length - len(redacted) + 1
    hits = [
        b.cast(b.equal(b.slice(tokens, axis=1, start=k, stop=k + starts), b.scalar(one, tokens)), to="i64", out="hits")
        for k, one in enumerate(redacted)
    ]
    whole = hits[0]
    for more in hits[1:]:
        whole = b.op("mul", whole, more, out="whole")
    if mask is not None:
        whole = b.op("mul", whole, b.cast(b.slice(mask, axis=1, start=0, stop=starts), to="i64"), out="whole")
    found = b.less(0, b.max(whole, axes=(1,), keepdims=False, out="most"), out="found")
    first = b.reshape(b.argmax(whole, axis=1), shape=(batch, 1), out="first")
    place = b.op("sub", b.arange(length), first, out="place")  # from this word on
    shift = len(redacted) - len(instead)
    after = b.op("add", b.arange(length), shift, out="after")
    source = b.where(b.less(place, 0), b.arange(length), after, out="source")
    source = b.minimum(b.maximum(source, 0), length - 1, out="source")
    text = b.take_along(tokens, source, axis=1, out="text")
    counts = None if mask is None else b.take_along(mask, source, axis=1, out="counts")
    if shift > 0 and counts is not None:  # a shorter text has fewer valid tokens
        counts = b.where(b.less(after, length), counts, b.constant(False), out="counts")
    for k, one in enumerate(instead):
        here = b.equal(place, k)
        text = b.where(here, b.scalar(one, tokens), text, out="text")
        counts = None if counts is None else b.where(here, b.constant(True), counts, out="counts")
    return found, text, counts


__all__ = ["TextRedaction"]
