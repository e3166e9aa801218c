"""Redaction of words: a text encoder learns to encode texts with them as it encodes others.

Symbols: B batch, L tokens of a text, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.condition import encoded_null, encoders
from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objectives._common import publish
from latentc.components.objectives._distillation import TEACHER, Distillation
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, TensorType
from latentc_runtime.texts import tokens_from_text


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
        description="redacted words or phrases, and what stands in place of each occurrence; best with as many tokens",
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
            if self.network in encoders(name, condition, spec) and condition.nullable:
                pair = ({self.network: net} for net in (student, teacher))
                nulls = [encoded_null(b, name, condition, spec, networks) for networks in pair]
                if all(nulls):
                    (empty, *_), (kept, *_) = nulls
                    loss = b.add(loss, _mean(b, empty, b.stop_gradient(kept), None), out="mse")
        b.output(b.op("mul", factor, loss, out="loss"), loss)
        b.finish("The weighted squared error of the features of texts, and the squared error, one value per sample.")
        (update,) = publish(mb, ("loss", "mse"), tuple(fields), (), self.trained(spec))
        return (replace(update, partial=True),)


def _encoded(b: Builder, network: Network, tokens: Var, mask: Var | None, out: str) -> Var:
    return call(b, network, "encode", {}, out=out, state=tokens, mask=[] if mask is None else [mask])


def _mean(b: Builder, x: Var, y: Var, mask: Var | None) -> Var:
    """f32[B]: the mean squared error of x and y [B, L, D] over the tokens that count, or of vectors [B, D]."""
    difference = b.op("sub", x, y, out="difference")
    error = b.mean(b.mul(difference, difference), axes=(x.type.rank - 1,), keepdims=False, out="error")
    if error.type.rank == 1:
        return error
    if mask is None:
        return b.mean(error, axes=(1,), keepdims=False, out="mse")
    counts = b.cast(mask, to="f32", out="counts")
    total = b.sum(b.mul(error, counts), axes=(1,), keepdims=False, out="total")
    return b.div(total, b.maximum(b.sum(counts, axes=(1,), keepdims=False), 1.0, out="count"), out="mse")


def _rewritten(
    b: Builder, tokens: Var, mask: Var | None, redacted: Sequence[int], instead: Sequence[int]
) -> tuple[Var, Var, Var | None]:
    """(bool[B]: whether `redacted` occurs in tokens i64[B, L], the tokens with `instead` wherever it does, and which of
    these count). Tokens after an occurrence move along; those beyond the end are lost.
    """
    length, grown = int(tokens.shape[1]), len(instead) - len(redacted)
    begins = _occurrences(b, tokens, mask, redacted)
    found = b.less(0, b.max(begins, axes=(1,), keepdims=False, out="most"), out="found")
    if grown:
        marks, after = _moved(b, begins, grown)
        source = b.minimum(b.maximum(after, 0), length - 1, out="source")
        text = b.take_along(tokens, source, axis=1, out="text")
        counts = None if mask is None else b.take_along(mask, source, axis=1, out="counts")
        if grown < 0 and counts is not None:  # a shorter text has fewer valid tokens
            counts = b.where(b.less(after, length), counts, b.constant(False), out="counts")
    else:
        marks, text, counts = begins, tokens, mask
    for k, one in enumerate(instead):
        begun = b.slice(marks, axis=1, start=0, stop=length - k)
        here = b.less(0, b.pad(begun, axis=1, before=k, after=0, value=0) if k else begun, out="here")
        text = b.where(here, b.scalar(one, tokens), text, out="text")
        counts = None if counts is None else b.where(here, b.constant(True), counts, out="counts")
    return found, text, counts


def _moved(b: Builder, begins: Var, grown: int) -> tuple[Var, Var]:
    """(i64[B, L]: how many occurrences begin at each place of the new text, whose texts are `grown` tokens longer per
    occurrence; the place in the old text that each of its tokens comes from, which may lie outside).
    """
    batch, length = begins.shape[0], int(begins.shape[1])
    earlier = b.op("sub", b.cumsum(begins, axis=1), begins, out="earlier")
    moved = b.op("add", b.arange(length), b.op("mul", earlier, b.scalar(grown, earlier)), out="moved")
    moved = b.minimum(moved, length, out="moved")  # column L gathers those beyond the end
    ones = b.fill_like(b.slice(begins, axis=1, start=0, stop=1), 1)
    row = b.op("sub", b.cumsum(ones, axis=0), 1, out="row")
    index = b.op("add", b.op("mul", row, b.scalar(length + 1, row)), moved, out="index")
    places = b.pad(b.fill_like(begins, 0), axis=1, before=0, after=1, value=0, out="places")
    flat = (b.reshape(x, shape=(batch * x.shape[1],)) for x in (places, index, begins))
    marks = b.reshape(b.scatter_add(*flat, axis=0), shape=(batch, length + 1))
    marks = b.slice(marks, axis=1, start=0, stop=length, out="marks")
    passed = b.cumsum(marks, axis=1, out="passed")
    return marks, b.op("sub", b.arange(length), b.op("mul", passed, b.scalar(grown, passed)), out="after")


def _occurrences(b: Builder, tokens: Var, mask: Var | None, redacted: Sequence[int]) -> Var:
    """i64[B, L]: 1 where an occurrence of `redacted` begins that does not overlap with one before, from the left."""
    batch, length, size = tokens.shape[0], int(tokens.shape[1]), len(redacted)
    starts = length - size + 1
    hits = [
        b.cast(b.equal(b.slice(tokens, axis=1, start=k, stop=k + starts), b.scalar(one, tokens)), to="i64", out="hits")
        for k, one in enumerate(redacted)
    ]
    whole = hits[0]
    for more in hits[1:]:
        whole = b.op("mul", whole, more, out="whole")
    if mask is not None:
        whole = b.op("mul", whole, b.cast(b.slice(mask, axis=1, start=0, stop=starts), to="i64"), out="whole")
    if any(redacted[k:] == redacted[: size - k] for k in range(1, size)):  # it can overlap with itself
        columns = b.reshape(b.transpose(whole, perm=(1, 0)), shape=(starts, batch), out="columns")

        def choose(b: Builder, i: Var, kept: Any, carried: tuple[Var, ...], at: tuple[Var, ...]) -> Any:
            (blocked,), (hit,) = carried, at
            free = b.cast(b.less(blocked, 1), to="i64", out="free")
            chosen = b.op("mul", hit, free, out="chosen")
            left = b.maximum(b.op("sub", blocked, 1), 0, out="left")
            return (b.maximum(left, b.op("mul", chosen, b.scalar(size - 1, chosen)), out="blocked"),), (chosen,)

        nothing = b.op("mul", b.max(whole, axes=(1,), keepdims=False), 0, out="nothing")
        _, chosen = b.loop(f"{b.name}.choose", starts, choose, carried=[nothing], tables=[columns])
        whole = b.transpose(chosen, perm=(1, 0), out="whole")
    return b.pad(whole, axis=1, before=0, after=size - 1, value=0, out="begins") if size > 1 else whole
