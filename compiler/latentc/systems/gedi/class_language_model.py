"""A language model that tells classes apart by the sequences it gives them: GeDi's class-conditional language model.

Symbols: B batch, K classes, N tokens of a prompt.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks.language_model import LanguageModel, context_of, features_of, logits_of, with_start
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B


class ClassLanguageModel(LanguageModel):
    """`language_model` with scores of classes, if it takes a prompt (Krause et al. 2020, arXiv:2009.06367).

    `score`: conditions -> log-probability in nats of the prompt's tokens after the first f32[B], and how many these are
    f32[B]. `weigh`: scores f32[B, K] of a class and the K - 1 after it, times a learned number; with `class_bias` it
    also takes the class, and adds a number of each.
    """

    kind: Literal["class_language_model"]  # type: ignore[assignment]
    class_bias: bool = Field(False, description="learned bias per class, added to the scaled score")
    EXAMPLE: ClassVar[dict[str, Any]] = {**LanguageModel.EXAMPLE, "kind": "class_language_model"}

    PROVIDES: ClassVar[frozenset[Capability]] = LanguageModel.PROVIDES | {"weigh_classes"}

    def provides(self, spec: Spec) -> frozenset[Capability]:
        prompted = any(entry.form == "array" for entry in self.entries(spec))
        return super().provides(spec) - (frozenset() if prompted else {"weigh_classes"})

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        network, entries = super().build(mb, name, spec, out_channels), self.entries(spec)
        if "weigh_classes" not in network.provides:
            return network
        before, classes = self.before(entries, spec), max(spec.data.classes, 2)
        static, score = self.sizes(spec, before), _score(self, entries, before)
        which = (Port("y", i64(B), "condition", classes),) if self.class_bias else ()
        ports = (Port("scores", f32(B, classes), "state"), *which)
        methods = {
            "score": add_method(mb, name, "score", score, ports_of(entries), static, ("output", "output")),
            "weigh": add_method(mb, name, "weigh", _weigh(self.class_bias), ports, static, ("output",)),
        }
        return replace(network, methods={**network.methods, **methods})


@cache
def _score(config: LanguageModel, entries: tuple[Entry, ...], before: int) -> BlockBody:
    @module_class("LanguageModel", "score")
    def score(b: Builder, *conditions: Var, **static: Any) -> tuple[Var, Var]:
        """Log-probability in nats of the prompt given what stands before each of its tokens, and their number."""
        vocabulary, width = static["vocabulary"], static["width"]
        context, counts, prompt = context_of(config, b, entries, conditions, static)
        x, known = with_start(config, b, context, counts, static)
        assert prompt is not None
        batch, size = prompt.shape
        if before == 1:  # a prompt of one token, which nothing predicts
            none = b.sum(known * 0.0, axes=(1,), keepdims=False, out="none")
            return none, b.mul(none, 1.0, out="count")
        h = features_of(config, b, x, known, width, static)
        first = max(before - int(size) - 1, 0)  # nothing predicts the first token of a sequence
        skipped = 1 if before == int(size) else 0
        h = b.slice(h, axis=1, start=first, stop=before - 1, out="h")
        targets = b.slice(prompt, axis=1, start=skipped, stop=size, out="targets")
        counted = b.slice(known, axis=1, start=before - int(size) + skipped, stop=before, out="counted")
        rows = int(size) - skipped
        logits = logits_of(config, b, h, vocabulary, width)
        log_p = b.op(
            "sub",
            b.take_along(logits, b.reshape(targets, shape=(batch, rows, 1)), axis=2),
            b.reshape(b.logsumexp(logits, axis=2), shape=(batch, rows, 1)),
        )
        log_p = b.mul(b.reshape(log_p, shape=(batch, rows)), counted, out="log_p")
        total = b.sum(log_p, axes=(1,), keepdims=False, out="log_p")
        return total, b.sum(counted, axes=(1,), keepdims=False, out="count")

    return score


@cache
def _weigh(biased: bool) -> BlockBody:
    """Scores f32[B, K] of a class and the K - 1 after it, times a learned number; `biased`: plus one of each class."""

    @module_class("LanguageModel", "weigh")
    def weigh(b: Builder, scores: Var, *y: Var, **static: Any) -> Var:
        scores = b.mul(scores, b.param("logit_scale", f32(1, 1), "ones"), out="scores")
        count = int(scores.shape[1])
        for own in y:
            table = b.reshape(b.param("class_bias", f32(1, count), "zeros"), shape=(count, 1))
            classes = [own, *(next_class(b, own, k, count) for k in range(1, count))]
            scores = b.add(
                scores, b.concat(*(b.take(table, c, axis=0) for c in classes), axis=1, out="bias"), out="scores"
            )
        return scores

    weigh.body.__doc__ = "Scores of a class and the others, times the learned number" + (
        ", and that of each class added." if biased else "."
    )
    return weigh


def next_class(b: Builder, y: Var, k: int, count: int, out: str = "") -> Var:
    """i64[B]: (y + k) mod `count`, for y i64[B]."""
    if count == 2:
        return b.op("sub", 1, y, out=out)
    return b.take(b.constant((np.arange(count) + k) % count, out="next"), y, axis=0, out=out)
