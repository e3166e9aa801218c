"""Prediction of hidden tokens of texts.

Beside masked_token: a fixed share of the tokens up to the end of each text is predicted, some of them hidden by other
tokens than the mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import Conditions, call
from latentc.components.networks.bert import Bert
from latentc.components.objective import Objective
from latentc.components.objectives._common import mean_of_counted, publish
from latentc.components.parts import Fraction, Problem, Spec
from latentc.ir.builder import ModuleBuilder, f32, i64
from latentc.ir.types import B, Named
from latentc.systems.class_prefix.hidden_words import hidden_words, inside, problems_of_starts


class MaskedText(Objective):
    """Cross-entropy of a share of the tokens of each text given the others (Devlin et al. 2018, arXiv:1810.04805).

    It predicts round(share (n + beside)) of the n tokens or words, at least one, excluding the end token. All hidden
    tokens of a batch have equal weight, as in Hugging Face's transformers.
    """

    kind: Literal["masked_text"]
    share: float = Field(0.15, gt=0, le=1, description="fraction of tokens that are predicted")
    beside: int = Field(
        0, ge=0, le=64, description="tokens that count in the length of a text beside its own (BERT: [CLS] and [SEP])"
    )
    most: int | None = Field(
        None, gt=0, le=16_777_216, description="tokens or words hidden at most; null: as many as the share says"
    )
    starts: str | None = Field(
        None,
        description="data field that is 1 for tokens that begin a word, otherwise 0; words are then hidden as a whole",
    )
    kept: Fraction = Field(0.1, description="fraction of these that the network sees unchanged")
    replaced: Fraction = Field(
        0.1, description="fraction of these replaced by another token of the same text; the rest are masked"
    )
    NEEDS = "masked_tokens"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_text"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.kept + self.replaced > 1:
            yield Problem(
                ("kept",),
                f"`kept` and `replaced` add up to {self.kept + self.replaced:g}",
                "make them add up to at most 1",
            )
        main = spec.networks.get("main")
        if isinstance(main, Bert) and main.splits > 1:
            yield Problem((), "texts are masked by whole tokens, but the network splits tokens", "leave out `splits`")
        yield from problems_of_starts(self.starts, spec)

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, conditions = networks["main"], Conditions(spec, networks)
        port, end = network.methods["forward"].input("state"), spec.data.modelled.end
        assert spec.data.tokens is not None and port.null is not None
        length = Named(spec.data.tokens.length, "T")
        b = mb.function("loss.terms")
        tokens = b.input("tokens", i64(B, length))
        given = conditions.inputs(b, by_field=True)
        starts = None if self.starts is None else b.input(self.starts, f32(B, length))
        u, v, w = (b.input(name, f32(B, length)) for name in "uvw")
        cond = conditions.dropped(b, conditions.operands(b, given))
        within = inside(b, tokens, end)
        hidden = hidden_words(b, tokens, u, self.share, end, starts, beside=self.beside, most=self.most)
        count = b.sum(within, axes=(1,), keepdims=True, out="count")
        other = b.minimum(b.floor(w * count), b.maximum(count - 1.0, 0.0), out="other")
        other = b.take_along(tokens, b.cast(other, to="i64"), axis=1, out="other")
        shown = b.where(b.less(v, self.kept + self.replaced), other, b.scalar(port.null, tokens))
        shown = b.where(b.less(v, self.kept), tokens, shown, out="shown")
        seen = b.where(hidden, shown, tokens, out="seen")
        logits = call(b, network, "forward", cond, state=seen, out="logits")
        rows = B * length
        flat = b.reshape(logits, shape=(rows, logits.shape[2]))
        losses = b.reshape(b.cross_entropy(flat, b.reshape(tokens, shape=(rows,))), shape=(B, length), out="losses")
        # A text without tokens has none to predict, and no loss.
        weight = b.add(b.cast(hidden, to="f32"), 1e-9, out="weight")
        b.output(mean_of_counted(b, losses, weight))
        b.finish("The cross-entropy of hidden tokens in nats per token, one value per sample.")
        draws = (*(Draw(name, "uniform") for name in "uvw"), *conditions.draws())
        fields = ("tokens", *conditions.fields, *([] if self.starts is None else [self.starts]))
        return publish(mb, ("loss",), fields, draws, self.trained(spec))
