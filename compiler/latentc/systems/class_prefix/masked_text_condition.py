"""The text itself, partly masked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.condition import Derived, Form, GivenInput
from latentc.components.contract import Draw, Port
from latentc.components.kit.texts import counted
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var, f32, i64
from latentc.ir.types import B, TensorType
from latentc.systems.class_prefix.hidden_words import problems_of_starts, without_span, without_words
from latentc_runtime.sources import Condition as Requested
from latentc_runtime.sources import RandomSource


class MaskedText(Derived):
    """A text of which a random share is hidden, in training and in programs (BART, Lewis et al. 2020).

    Training hides parts of the sample itself; requests pass a text, which may already contain masks, and optionally
    which tokens begin words. Network inputs are tokens i64[B, T] and a mask of those up to the end token.
    """

    kind: Literal["masked_text"]
    mask: int = Field(ge=0, le=16_777_215, description="mask token")
    share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="fraction of words hidden in training, rounded up, at least one; 0: only masks that are given",
    )
    end: int | None = Field(
        None,
        ge=0,
        le=16_777_215,
        description="token that ends a text, as in the field; null: none",
    )
    shape: Literal["words", "span"] = Field(
        "words",
        description="hide individual words, each replaced by a mask, or a span of words, replaced by a single mask",
    )
    starts: str | None = Field(
        None, description="data field that is 1 for tokens that begin a word, otherwise 0; null: every token is a word"
    )
    prior: None = Field(None, description="requests pass the text")
    FORMS: ClassVar[tuple[Form, ...]] = ("array",)
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_text", "mask": 1}

    def problems_as(self, name: str, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            yield Problem((), f"a masked text needs tokens, but the data has {spec.data.words}")
        elif self.mask >= tokens.vocabulary:
            message = f"token {self.mask} is out of range: the data has tokens 0 to {tokens.vocabulary - 1}"
            yield Problem(("mask",), message, "give the number of the mask token")
        elif self.end != spec.data.modelled.end:
            end = spec.data.modelled.end
            message = f"`end` is {self.end}, but texts in the data end with {end}"
            yield Problem(("end",), message, "use the same in both places")
        yield from problems_of_starts(self.starts, spec)
        if self.starts is not None and self.end is None:
            message = "masking words of several tokens shortens a text, so it needs an end token"
            yield Problem(("starts",), message, "set `data.fields.tokens.end` and `end`")

    def ports(self, name: str, spec: Spec) -> tuple[Port, ...]:
        length, vocabulary = _sizes(spec)
        value = Port(name, i64(B, length), "condition", vocabulary)
        return value, Port(f"{name}_mask", TensorType("bool", (B, length)), "condition")

    def inputs(self, name: str, spec: Spec) -> tuple[GivenInput, ...]:
        (text, _), (length, _) = self.ports(name, spec), _sizes(spec)
        given = GivenInput(name, text.type, "tokens", name)
        if not self.share:
            return (given,)
        key = f"{name}_hidden"
        drawn = f32(B, length if self.shape == "words" else 1)
        source = RandomSource("uniform", key)
        found = (given, GivenInput(key, drawn, "", name, draw=Draw(key, "uniform"), random=source))
        if self.starts is None:
            return found
        return *found, GivenInput(f"{name}_starts", f32(B, length), self.starts, f"{name}_starts")

    def operands(self, b: Builder, name: str, given: tuple[Var, ...], networks: Any) -> tuple[Var, ...]:
        text, *where = given
        if where:
            hide = without_words if self.shape == "words" else without_span
            text = hide(b, text, where[0], self.share, self.end, self.mask, *where[1:])
        counts = counted(b, text, self.end)
        if counts is None:
            counts = b.full(text, shape=text.shape[1:], value=1.0, dtype="f32", out="counts")
        return text, b.greater(counts, 0.5, out=f"{name}_mask")

    def requests(self, name: str, spec: Spec) -> tuple[Requested, ...]:
        length, vocabulary = _sizes(spec)
        field = spec.data.fields["tokens"]
        text = Requested(name, "tokens", (length,), "i64", field.axes, vocabulary=vocabulary, **field.text)
        if self.starts is None or not self.share:
            return (text,)
        return text, Requested(f"{name}_starts", "array", (length,), "f32", field.axes, default=1.0)


def _sizes(spec: Spec) -> tuple[int, int]:
    """The number of tokens of a sample, and of different ones."""
    tokens = spec.data.tokens
    return (1, 1) if tokens is None else (tokens.length, tokens.vocabulary)
