"""The likeliest text that a search finds: beginnings of it side by side, of which the best go on.

Beside autoregressive: nothing is drawn, caches follow their beginnings from beam to beam, and texts end at different
times.

Symbols: B batch, T tokens of a sample, V vocabulary, K beams, N beams that a step goes on from, C candidates of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.contract import Network, Program
from latentc.components.kit import Conditions, call
from latentc.components.kit.beams import of_beams, repeated
from latentc.components.kit.tokens import NEVER
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Sampler
from latentc.components.samplers.autoregressive import window_problems
from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.types import B


class BeamSearch(Sampler):
    """Beam search by fairseq's rules (Ott et al. 2019, arXiv:1904.01038).

    Of the 2 K most likely continuations, those among the first K that end a text are finished, and the first K others
    are continued. The search ends once K texts are finished or the maximum length is reached. The result has the
    highest log-probability divided by its number of tokens, including the end token, to the power `length_penalty`. The
    last token of a sample always ends the text.
    """

    kind: Literal["beam_search"]
    beams: int = Field(5, gt=0, le=64, description="number of beams (K)")
    length_penalty: float = Field(
        1.0,
        ge=-16,
        le=16,
        description="exponent of the length by which log-probabilities are divided; above 0 favours long texts",
    )
    no_repeat: int = Field(
        0,
        ge=0,
        le=64,
        description="n-grams of this length occur at most once per text, its prefix tokens included; 0: no limit",
    )
    shortest: int = Field(1, ge=0, le=1_048_576, description="minimum number of tokens before the end token")
    ahead: int = Field(0, ge=0, le=1_048_576, description="prefix tokens included in a text's length, as in fairseq")
    never: tuple[Annotated[int, Field(ge=0, le=16_777_215)], ...] = Field(
        (),
        max_length=64,
        description="tokens that are never generated, such as padding (fairseq's)",
    )
    stops: bool = Field(True, description="stop once every text of the batch is finished; false: always run all steps")
    guidance: None = Field(None, description="always null: there is no guidance")
    COUNTS_REPEATED: ClassVar[bool] = True
    NEEDS = "next_token"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "beam_search", "beams": 2, "no_repeat": 2}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from window_problems(spec)
        tokens, end = spec.data.tokens, spec.data.fields.get("tokens")
        if tokens is None or end is None:
            return
        if end.end is None:
            yield Problem(
                (),
                "beam search needs texts with an end token, but those of the data have none",
                "set `data.fields.tokens.end`",
            )
        if 2 * self.beams > tokens.vocabulary:
            message = (
                f"{self.beams} beams need {2 * self.beams} continuations, but there are only {tokens.vocabulary} tokens"
            )
            yield Problem(("beams",), message, f"use {tokens.vocabulary // 2} at most")
        if self.shortest >= tokens.length:
            message = f"texts of at least {self.shortest} tokens and an end token do not fit in {tokens.length}"
            yield Problem(("shortest",), message, f"use at most {tokens.length - 1}")
        for token in self.never:
            if token >= tokens.vocabulary or token == end.end:
                message = f"token {token} is the end token, or is not between 0 and {tokens.vocabulary - 1}"
                yield Problem(("never",), message, "leave it out")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> Program:
        """Adds entry `sample.T`: the conditions -> i64[B, T]."""
        network, conditions = networks["main"], Conditions(spec, networks)
        end = spec.data.modelled.end
        assert spec.data.tokens is not None and end is not None
        length = spec.data.tokens.length
        entry = f"sample.{length}"
        b = mb.function(entry)
        cond = conditions.operands(b, conditions.inputs(b))
        roles = [port.role for port in network.methods["prefill"].outputs]
        names = {"cache": "cache", "output": "log_p", "token": "repeated"}
        logits, *caches = call(b, network, "prefill", cond, out=" ".join(names.get(role, "logits") for role in roles))
        prefix = caches.pop() if "token" in roles else None
        score = b.reshape(caches.pop(), shape=(B, 1), out="score") if "output" in roles else None
        caches = [repeated(b, cache, self.beams, "cache") for cache in caches]
        # `end` pads a text, so a beginning followed by it is that text.
        blank = b.full(logits, shape=(length,), value=end, dtype="i64", factor=self.beams, out="blank")
        nothing = b.full(logits, shape=(), value=0.0, dtype="f32", out="done")
        best = b.add(nothing, NEVER, out="best")
        empty = b.full(logits, shape=(length,), value=end, dtype="i64", out="text")
        begun, before = None, 0 if prefix is None else int(prefix.shape[1])
        if prefix is not None:  # rows of tokens that occur once may begin in it
            begun = b.concat(prefix, empty, axis=1, out="begun")
            blank = b.concat(repeated(b, prefix, self.beams, "repeated"), blank, axis=1, out="blank")
        found = _Found(best, empty, nothing)
        norms = 1.0 / (self.ahead + np.arange(1.0, length + 1)) ** self.length_penalty
        rows = {"norm": norms, "early": np.arange(length) < self.shortest, "late": np.arange(length) == length - 1}
        row = {name: b.constant(column[:1].astype(np.float32), out=name) for name, column in rows.items()}
        start = b.constant(0, "i64")
        first = self._chosen(b, logits, score, blank, start, row, end, found, begun, before, first=True)
        token, written, score, _, found = first
        if length > 1:
            tables = [b.constant(column[1:].astype(np.float32), out=name) for name, column in rows.items()]
            shown = [port.name for port in network.methods["decode"].inputs_of("condition")]
            body = partial(self._step, network, tuple(shown), end, before)
            invariants = [repeated(b, cond[name], self.beams) for name in shown]
            carried = [found.over(b, self.beams), token, written, score, *found.parts, *caches]
            # After the last text is found, nothing changes any more.
            until = 0 if self.stops else None
            outs = b.loop(
                f"{entry}.decode", length - 1, body, invariants=invariants, carried=carried, tables=tables, until=until
            )
            found = _Found(*outs[4:7])
        b.output(found.text)
        mb.entries[entry] = b.finish(doc=f"Searches a text of at most {length} tokens with {self.beams} beams.")
        return Program(entry, self.kind, length, length, conditions.sources())

    def _step(
        self,
        network: Network,
        shown: tuple[str, ...],
        end: int,
        before: int,
        b: Builder,
        i: Var,
        kept: tuple[Var, ...],
        state: tuple[Var, ...],
        rows: tuple[Var, ...],
    ) -> tuple[Sequence[Var], Sequence[Var]]:
        """One more token of each beam: (over, token, written, score, what is found, caches) -> the same after it."""
        _, token, written, score, best, text, done, *caches = state
        position = b.op("add", i, 1, out="position")
        names = " ".join(["logits", *["cache"] * len(caches)])
        operands: dict[str, Any] = {"token": token, "position": position, "cache": caches}
        cond = dict(zip(shown, kept, strict=True))
        logits, *caches = call(b, network, "decode", cond, out=names, **operands)
        row = dict(zip(("norm", "early", "late"), rows, strict=True))
        found = _Found(best, text, done)
        chosen = self._chosen(b, logits, score, written, position, row, end, found, written, before)
        token, written, score, beam, found = chosen
        caches = [of_beams(b, cache, beam, self.beams, "cache") for cache in caches]
        return (found.over(b, self.beams), token, written, score, *found.parts, *caches), ()

    def _chosen(
        self,
        b: Builder,
        logits: Var,
        score: Var | None,
        written: Var,
        position: Var,
        row: Mapping[str, Var],
        end: int,
        found: _Found,
        came: Var | None,
        before: int,
        first: bool = False,
    ) -> tuple[Var, Var, Var, Var, _Found]:
        """Beams that go on from logits f32[B N, V]: their tokens i64[B K], texts so far i64[B K, E + T], scores
        f32[B, K], the beams they continue i64[B, K], and what is found.

        `score` f32[B, N] and `written` i64[B K, E + T] are the beams before, and `came` i64[B N, E + T] what they go on
        from, if that is any token. Of the `first` tokens N is 1, and the score is that of the E = `before` tokens that
        texts follow, if any.
        """
        beams, wide = self.beams, 2 * self.beams
        lanes = 1 if first else beams
        place = b.op("add", position, before, out="place") if before else position
        values, ids = self._candidates(b, logits, came, place, row, end)
        count = int(values.shape[1])
        values = b.reshape(values, shape=(B, lanes, count), out="values")
        if score is not None:
            values = b.add(values, b.reshape(score, shape=(B, lanes, 1)), out="values")
        values, which = b.top_k(b.reshape(values, shape=(B, lanes * count)), k=wide, out="values which")
        ids = b.take_along(b.reshape(ids, shape=(B, lanes * count)), which, axis=1, out="ids")
        lane = b.div(which, count, out="lane")
        ends = b.logical_and(b.equal(ids, b.scalar(end, ids)), b.greater(values, NEVER / 2), out="ends")
        ended = b.cast(ends, to="f32", out="ended")
        found = self._finished(b, values, ended, lane, written, row["norm"], found, before)
        order = b.argsort(b.add(ended * float(wide), b.cast(b.arange(wide), to="f32")), out="order")
        order = b.slice(order, axis=1, start=0, stop=beams, out="order")
        values, ids, lane = (
            b.take_along(x, order, axis=1, out=out) for x, out in ((values, "score"), (ids, "ids"), (lane, "lane"))
        )
        written = of_beams(b, written, lane, beams, "written")
        token = b.reshape(ids, shape=(B * beams,), out="token")
        put = b.reshape(ids, shape=(B * beams, 1))
        return token, b.update_slice(written, put, place, axis=1, out="written"), values, lane, found

    def _candidates(
        self, b: Builder, logits: Var, written: Var | None, position: Var, row: Mapping[str, Var], end: int
    ) -> tuple[Var, Var]:
        """Log-probabilities f32[B N, C] of the likeliest next tokens, and these i64[B N, C]."""
        size = int(logits.shape[1])
        is_end = np.arange(size) == end
        barred = b.where(b.constant(is_end, out="is_end"), row["early"], row["late"], out="barred")
        if self.never:
            barred = b.maximum(barred, b.constant(np.isin(np.arange(size), self.never).astype(np.float32), out="never"))
        log_p = b.log_softmax(logits, axis=1, out="log_p")
        log_p = b.where(b.greater(barred, 0.5, out="barred"), b.scalar(NEVER, log_p), log_p, out="log_p")
        again = 0 if written is None or not self.no_repeat else max(int(written.shape[1]) - self.no_repeat + 1, 0)
        # As many more as repetitions may rule out.
        values, ids = b.top_k(log_p, k=min(2 * self.beams + again, size), out="values ids")
        if again and written is not None:
            values = b.where(self._repeats(b, ids, written, position), b.scalar(NEVER, values), values, out="values")
        return values, ids

    def _repeats(self, b: Builder, ids: Var, written: Var, position: Var) -> Var:
        """bool[B K, C]: whether ids i64[B K, C], as token `position`, would end a row that came before."""
        size, length = self.no_repeat, int(written.shape[1])
        starts = length - size + 1
        batch = written.shape[0]
        same = b.less(b.arange(starts) + (size - 1), position, out="came")
        for m in range(size - 1):
            before = b.maximum(b.add(position, m - size + 1), 0, out="before")
            last = b.reshape(b.take(written, before, axis=1), shape=(batch, 1), out="last")
            came = b.slice(written, axis=1, start=m, stop=m + starts)
            same = b.logical_and(same, b.equal(came, last), out="same")
        following = b.slice(written, axis=1, start=size - 1, stop=length, out="following")
        count = int(ids.shape[1])
        hit = b.equal(b.reshape(ids, shape=(batch, count, 1)), b.reshape(following, shape=(batch, 1, starts)))
        if same.type.rank == 1:
            same = b.reshape(same, shape=(1, starts))
        rows = b.reshape(same, shape=(same.shape[0], 1, starts))
        hits = b.cast(b.logical_and(hit, rows), to="f32", out="hits")
        return b.greater(b.max(hits, axes=(2,), keepdims=False), 0.5, out="again")

    def _finished(
        self, b: Builder, values: Var, ended: Var, lane: Var, written: Var, norm: Var, found: _Found, before: int
    ) -> _Found:
        """The found texts with those that end here, among the first K candidates."""
        beams = self.beams
        values, ended, lane = (
            b.slice(x, axis=1, start=0, stop=beams, out=out)
            for x, out in ((values, "values"), (ended, "ended"), (lane, "lane"))
        )
        number = b.add(b.cumsum(ended, axis=1), b.reshape(found.done, shape=(B, 1)), out="number")
        counts = b.logical_and(b.greater(ended, 0.5), b.less(number, beams + 0.5), out="counts")
        rated = b.where(counts, values * norm, b.scalar(NEVER, values), out="rated")
        which = b.reshape(b.argmax(rated, axis=1), shape=(B, 1), out="which")
        top = b.reshape(b.take_along(rated, which, axis=1), shape=(B,), out="top")
        text = of_beams(b, written, b.take_along(lane, which, axis=1, out="lane"), beams, "text")
        text = b.slice(text, axis=1, start=before, stop=int(text.shape[1]), out="text") if before else text
        better = b.greater(top, found.best, out="better")
        text = b.where(b.reshape(better, shape=(B, 1)), text, found.text, out="text")
        done = b.add(found.done, b.sum(b.cast(counts, to="f32"), axes=(1,), keepdims=False), out="done")
        return _Found(b.maximum(top, found.best, out="best"), text, done)


@dataclass(frozen=True)
class _Found:
    """The rating of the best text f32[B], the text i64[B, T], and how many are done f32[B]."""

    best: Var
    text: Var
    done: Var

    @property
    def parts(self) -> tuple[Var, Var, Var]:
        return self.best, self.text, self.done

    def over(self, b: Builder, beams: int) -> Var:
        """bool[]: whether every text of the batch is found."""
        going_on = b.cast(b.less(self.done, beams - 0.5), to="f32", out="going_on")
        return b.less(b.max(going_on, axes=(0,), keepdims=False), 0.5, out="over")
