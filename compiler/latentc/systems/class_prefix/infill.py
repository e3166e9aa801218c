"""New words in given texts.

Beside the program `inpaint` of masked samplers: what is hidden is drawn at random, and all of it is predicted at once.

Symbols: B batch, T tokens of a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network, OutputField, Program
from latentc.components.kit import Conditions, call
from latentc.components.kit.tokens import draw, filtered
from latentc.components.networks.bert import Bert
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.class_prefix.hidden_words import hidden_words, inside, most_places, places_again
from latentc_runtime.sources import Condition, ConditionSource, RandomSource, Source


class Infill(Sampler):
    """Hides a share of the tokens of a given text and draws them anew (Kumar et al. 2020, arXiv:2003.02245).

    Requests pass the text as `text`; masks in it are also filled in.
    """

    kind: Literal["infill"]
    share: float = Field(
        1 / 7, ge=0, le=1, description="fraction of hidden tokens, rounded, at least one; 0: only masks that are given"
    )
    again: bool = Field(
        False,
        description="places are drawn one by one, also again, that of the token that ends a text among them, and their "
        "number is rounded down (the authors' code)",
    )
    temperature: float = Field(1.0, gt=0, description="temperature of the logits")
    top_k: int = Field(0, ge=0, le=16_777_216, description="draw only from the k most likely tokens; 0: all")
    top_p: float = Field(
        1.0, gt=0, le=1, description="draw from the most likely tokens that together reach this probability"
    )
    guidance: None = Field(None, description="always null: there is no guidance")
    NEEDS = "masked_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "infill", "top_k": 8}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        if isinstance(main, Bert) and main.splits > 1:
            yield Problem((), "tokens of a text are whole, and the network splits them", "leave out `splits`")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.1`: conditions, text i64[B, T], where f32[B, T or K], u f32[B, T] -> tokens i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        port, field = network.methods["forward"].input("state"), spec.data.fields["tokens"]
        values = network.methods["forward"].output("logits").values
        assert spec.data.tokens is not None and port.null is not None
        length = Named(spec.data.tokens.length, "T")
        b = mb.function("sample.1")
        cond = conditions.operands(b, conditions.inputs(b))
        text = b.input("text", i64(B, length))
        hidden = b.equal(text, b.scalar(port.null, text), out="hidden")
        sources: dict[str, Source] = {**conditions.sources(), "text": ConditionSource("text")}
        if self.share:
            count = most_places(int(length), self.share) if self.again else length
            where = b.input("where", f32(B, count))
            sources["where"] = RandomSource("uniform", "hidden")
            hide = places_again if self.again else hidden_words
            hidden = b.logical_or(hidden, hide(b, text, where, self.share, field.end), out="hidden")
        u = b.input("u", f32(B, length))
        sources["u"] = RandomSource("uniform", "token")
        seen = b.where(hidden, b.scalar(port.null, text), text, out="seen")
        logits = call(b, network, "forward", cond, state=seen, out="logits")
        if values is not None and values < int(logits.shape[2]):
            logits = b.slice(logits, axis=2, start=0, stop=values, out="logits")
        if self.temperature != 1.0:
            logits = b.mul(logits, 1 / self.temperature, out="logits")
        drawn = draw(b, filtered(b, logits, self.top_k, self.top_p), u, out="drawn")
        if self.again and field.end is not None:
            hidden = b.logical_and(hidden, b.greater(inside(b, text, field.end), 0.5), out="hidden")
        b.output(b.where(hidden, drawn, text, out="tokens"))
        mb.entries["sample.1"] = b.finish(doc="Hides some of the tokens of a text and draws them anew.")
        size = spec.data.tokens.length
        own = Condition(
            "text", "tokens", (size,), "i64", field.axes, vocabulary=spec.data.tokens.vocabulary, **field.text
        )
        outputs = (OutputField("samples", "tokens"),)
        return Program("sample.1", self.kind, 1, 1, sources, (), "sample", outputs, (own,))
