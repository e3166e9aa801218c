"""Token after token from one language model, towards a class that a second one tells from its opposite: GeDi.

Symbols: B batch, T tokens of a sample, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import log
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Need, Network, Program
from latentc.components.kit import Conditions, Operands, call
from latentc.components.kit.tokens import rank
from latentc.components.parts import Problem, Spec
from latentc.components.samplers.autoregressive import Autoregressive
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B, f32
from latentc.systems.gedi.class_language_model import next_class
from latentc_runtime.sources import RandomSource, Setting, SettingSource, Source


class Gedi(Autoregressive):
    """Generative discriminators (Krause et al. 2020, arXiv:2009.06367).

    The discriminator gives every next token a log-probability under the class and under another one; with those of
    the tokens so far, per token, they say how probable the class is if that token follows. Its logarithm, times
    `weight`, is added to the log-probabilities of the first model. Of the tokens that speak against the class most,
    which together have less than the probability `filter`, those with a class probability below `target` are out.
    """

    kind: Literal["gedi"]  # type: ignore[assignment]
    discriminator: str = Field("discriminator", description="network that takes the class")
    weight: float = Field(
        30.0, ge=0, description="exponent of the class's probability (omega); requests may override it"
    )
    filter: float = Field(
        0.8, ge=0, le=1, description="total probability of the tokens that may be filtered out (1 - rho); 0: none"
    )
    target: float = Field(
        0.8, gt=0, le=1, description="class probability above which a token is never filtered out (tau)"
    )
    bias: float = Field(0.0, description="bias added to the score of the class before it is compared with the other's")
    guidance: None = Field(None, description="always null: the discriminator guides instead")  # type: ignore[assignment]
    temperature: float = Field(
        0.0, ge=0, description="temperature of the logits; 0 takes the most likely token (greedy)"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gedi", "weight": 3.0, "repetition_penalty": 1.2}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return (
            Need("main", "next_token"),
            Need(self.discriminator, "weigh_classes", place=("discriminator",), who="a gedi sampler"),
        )

    def problems(self, spec: Spec) -> Iterator[Problem]:
        field = spec.data.fields.get("y")
        if field is None or (field.classes or 0) < 2:
            yield Problem((), "a gedi sampler needs at least two classes to tell apart", "set `data.classes: 2`")
        yield from self._problems_of_penalty()

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: y i64[B], prompt, weight f32[B], u f32[T, B] unless greedy -> i64[B, T]."""
        main, other, conditions = networks["main"], networks[self.discriminator], Conditions(spec, networks)
        length = int(main.methods["forward"].output("logits").type.shape[1])  # type: ignore[arg-type]
        entry = f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        weight = b.input("weight", f32(B))
        u = b.input("u", f32(length, B)) if self.temperature else None
        names = " ".join(port.role if port.role == "cache" else "logits" for port in main.methods["prefill"].outputs)
        logits, *caches = call(b, main, "prefill", cond, out=names)
        classes = spec.data.classes
        both = self._under_each(b, cond, classes)
        score, count = call(b, other, "score", both, out="score count")
        names = " ".join(port.role if port.role == "cache" else "logits" for port in other.methods["prefill"].outputs)
        opinions, *others = call(b, other, "prefill", both, out=names)
        count = b.split(count, axis=0, sizes=(B,) * classes, out=" ".join(["count", *["count_2"] * (classes - 1)]))[0]
        came = self._came(b, main, cond, logits, length, spec)
        first = b.reshape(b.slice(u, axis=0, start=0, stop=1), shape=(B,), out="u_0") if u else None
        y = [cond["y"]] if other.methods["weigh"].inputs_of("condition") else []
        token, *state = self._next(b, other, classes, logits, opinions, score, count, came, (weight, *y), first)
        tokens = [b.reshape(token, shape=(B, 1), out="tokens")]
        if length > 1:
            rows = [b.slice(u, axis=0, start=1, stop=length, out="u_rest")] if u else []
            body = partial(self._step_of_all, main, other, classes, len(caches), len(state))
            carried = [token, *state, *caches, *others]
            outs = b.loop(f"{entry}.decode", length - 1, body, invariants=[weight, *y], carried=carried, tables=rows)
            tokens.append(b.transpose(outs[-1], perm=(1, 0), out="tokens"))
        b.output(b.concat(*tokens, axis=1, out="tokens") if len(tokens) > 1 else tokens[0])
        mb.entries[entry] = b.finish(doc=f"Draws {length} tokens, led by the discriminator.")
        sources: dict[str, Source] = {**conditions.sources(), "weight": SettingSource("weight")}
        if u:
            sources["u"] = RandomSource("uniform", "token", length)
        return Program(entry, self.kind, length, 2 * length, sources, (Setting("weight", self.weight),))

    def _under_each(self, b: Builder, cond: Operands, classes: int) -> dict[str, Var]:
        """The conditions with the class, then with each other one: a batch of K B."""
        found = {}
        for name, x in cond.items():
            others = [next_class(b, x, k, classes, "other") if name == "y" else x for k in range(1, classes)]
            found[name] = b.concat(x, *others, axis=0, out=name)
        return found

    def _step_of_all(
        self,
        main: Network,
        other: Network,
        classes: int,
        caches: int,
        states: int,
        b: Builder,
        i: Var,
        kept: tuple[Var, ...],
        state: tuple[Var, ...],
        rows: tuple[Var, ...],
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        """One token: (token, scores, count, history, caches of both) -> the same after it, and the token to keep."""
        token, *rest = state
        (score, count, *came), own, others = rest[:states], rest[states : states + caches], rest[states + caches :]
        position = b.op("add", i, 1, out="position")
        names = " ".join(["logits", *["cache"] * len(own)])
        operands: dict[str, Any] = {"token": token, "position": position, "cache": own}
        logits, *own = call(b, main, "decode", {}, out=names, **operands)
        names = " ".join(["logits", *["cache"] * len(others)])
        operands = {"token": b.concat(*[token] * classes, axis=0), "position": position, "cache": others}
        opinions, *others = call(b, other, "decode", {}, out=names, **operands)
        u = rows[0] if rows else None
        token, *found = self._next(b, other, classes, logits, opinions, score, count, came, kept, u)
        return (token, *found, *own, *others), (token,)

    def _next(
        self,
        b: Builder,
        other: Network,
        classes: int,
        logits: Var,
        opinions: Var,
        score: Var,
        count: Var,
        came: Sequence[Var],
        kept: Sequence[Var],
        u: Var | None,
    ) -> list[Var]:
        """The next token i64[B], the scores with it f32[K B], the tokens scored f32[B], and the history, if any.

        `kept`: the weight f32[B], and the class i64[B] if the discriminator has to know it to weigh scores.
        """
        batch, size = logits.shape
        weight, *y = kept
        count = b.add(count, 1.0, out="count")
        scores = b.add(_log_softmax(b, opinions), b.reshape(score, shape=(classes * batch, 1)), out="scores")
        names = " ".join(["for_class", *["against"] * (classes - 1)])
        each = b.split(scores, axis=0, sizes=(batch,) * classes, out=names)
        per_token = [b.div(x, b.reshape(count, shape=(batch, 1)), out="per_token") for x in each]
        stacked = b.concat(*(b.reshape(x, shape=(batch * size, 1)) for x in per_token), axis=1, out="pairs")
        cond = {}
        for c in y:
            every = b.broadcast_to(b.reshape(c, shape=(batch, 1)), shape=(batch, size), out="y")
            cond["y"] = b.reshape(every, shape=(batch * size,), out="y")
        weighed = call(b, other, "weigh", cond, state=stacked, out="weighed")
        if self.bias:
            weighed = b.add(
                weighed,
                b.constant(np.eye(1, classes, dtype=np.float32)[0] * np.float32(self.bias), out="bias"),
                out="weighed",
            )
        own = b.reshape(b.slice(weighed, axis=1, start=0, stop=1), shape=(batch, size))
        total = b.reshape(b.logsumexp(weighed, axis=1), shape=(batch, size))
        log_class = b.op("sub", own, total, out="log_class")
        led = b.add(_log_softmax(b, logits), b.reshape(weight, shape=(batch, 1)) * log_class, out="led")
        if self.filter:
            led = self._filtered(b, led, log_class)
        token, *history = self._picked(b, led, came, u)
        column = b.reshape(token, shape=(batch, 1))
        found = [b.take_along(x, column, axis=1) for x in each]
        score = b.reshape(b.concat(*found, axis=0), shape=(classes * batch,), out="score")
        return [token, score, count, *history]

    def _filtered(self, b: Builder, led: Var, log_class: Var) -> Var:
        """`led` without the tokens that are out, by as much as the authors' code lowers them."""
        order = b.argsort(log_class, out="order")
        mass = b.cumsum(b.take_along(b.softmax(led, axis=1), order, axis=1), axis=1, out="mass")
        own = b.take_along(mass, rank(b, log_class), axis=1, out="mass")
        out = b.logical_and(b.less(own, self.filter), b.less(log_class, log(self.target)))
        return b.where(out, led - 10_000.0, led, out="led")


def _log_softmax(b: Builder, logits: Var) -> Var:
    total = b.reshape(b.logsumexp(logits, axis=1), shape=(logits.shape[0], 1))
    return b.op("sub", logits, total, out="log_p")
