"""Masked tokens, the most confident first, in sets whose steps reuse keys and values of the other tokens.

Symbols: B batch, T tokens of a sample, V values drawn among, G most tokens of a set, m steps of a set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from latentc.components.kit.tokens import draw, filtered, rows
from latentc.components.parts import Problem, Spec
from latentc.components.sampler import Recall
from latentc.components.samplers._masked import Run, drawable, fraction_of, mask_of
from latentc.components.samplers.confidence import KNOWN, Confidence, among_free
from latentc.ir.builder import Builder, Var
from latentc.systems.recap.reuse import Reuse
from latentc_runtime.sources import RandomSource


class ConfidentReuse(Reuse):
    """Steps that reuse keys and values of the tokens that they leave as they are (ReCAP, arXiv:2505.19089).

    A step over all tokens begins a set of tokens, chooses them by the confidence of a first guess and draws some of
    them anew, the most confident first. The steps after it evaluate the tokens of the set and of the condition alone,
    which attend to the keys and values of the others. A step before the sets draws all that it chooses anew.
    """

    temperature: float = Field(
        1.0,
        gt=0,
        description="temperature of the logits from which tokens are redrawn at progress 1; from 1 by the square "
        "root of the progress",
    )
    catch_up: bool = Field(
        True,
        description="steps whose schedule rounds to no token draw one, and later steps make up for it; false: only "
        "the last step does (ReCAP's code)",
    )


class RecapConfidence(Confidence):
    """`confidence`, with steps that reuse results of the previous one (ReCAP, Liu et al. 2025, arXiv:2505.19089)."""

    kind: Literal["recap_confidence"]  # type: ignore[assignment]
    reuse: ConfidentReuse = Field(ConfidentReuse(), description="which steps reuse what")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "recap_confidence", "steps": 4, "guidance": {"scale": 3.0}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        lists = [n for n in ("temperature", "randomness") if isinstance(getattr(self, n), tuple)]
        for name in [*lists, *(["judged"] if self.judged == "predicted" else [])]:
            message = "steps of one set share the values of the first"
            yield Problem((name,), message, "use `confidence`, or give a single value")
        if self.redraw:
            message = "a step evaluates only the tokens of its set, but `redraw` redraws known tokens"
            yield Problem(("redraw",), message, "leave it out, or use `confidence`")
        network = spec.networks.get("main")
        if network is not None and not network.RECALLS:
            message = f"a {network.kind} cannot reuse keys and values"
            yield Problem((), message, "use a `bert`, or the sampler `confidence`")

    def recalls(self, tokens: int) -> Recall | None:
        most = self.reuse.most(self._left(tokens), tokens)
        return Recall(most, False) if most else None

    def counts(self, length: int) -> np.ndarray:
        if self.reuse.catch_up or self.progress == "start":
            return super().counts(length)
        real = np.float64 if self.double else np.float32
        fraction = fraction_of(self.schedule, self.progress_of_steps().astype(real), length)
        drawn = np.maximum(np.diff(length - np.floor(fraction * real(length)).astype(np.int64), prepend=0), 1)
        return np.minimum(np.append(np.cumsum(drawn[:-1]), length), length)

    def draws(self, length: int) -> dict[str, RandomSource]:
        return super().draws(length) | {"again": RandomSource("uniform", "set", self.steps)}

    def noise_progress(self, length: int) -> np.ndarray:
        """f64[N]: one number per set."""
        sets = self.reuse.sets(self._left(length), length)
        return np.array([i / len(sets) for i, (first, stop) in enumerate(sets, 1) for _ in range(first, stop)])

    def columns(self, length: int, keeps: bool = False) -> dict[str, np.ndarray]:
        cooled = np.linspace(0.0, 1.0, self.steps) ** 0.5
        known = np.concatenate([[0], self.counts(length)[:-1]])
        return {"known": known, "cooling": 1 / (1 + (self.reuse.temperature - 1) * cooled), **super().columns(length)}

    def run(self, b: Builder, run: Run, tokens: Var) -> Var:
        length = int(tokens.shape[-1])
        sets = self.reuse.sets(self._left(length), length)
        for steps, alike in groupby(sets, lambda ends: ends[1] - ends[0]):
            (first, _), *_ = ends = list(alike)
            step, name = partial(self._draw_set, steps), "step" if steps == 1 else "set"
            parts = {key: in_rows(b, table, first, ends[-1][1], steps) for key, table in run.tables.items()}
            tokens = replace(run, tables=parts).looped(b, name, len(ends), step, tokens)
        return tokens

    def _left(self, length: int) -> list[int]:
        """Hidden tokens before the first step, and after each."""
        return [length, *(length - int(known) for known in self.counts(length))]

    def _draw_set(self, steps: int, b: Builder, run: Run, tokens: Var) -> Var:
        """tokens i64[B, T] after a set of m steps, chosen by confidence and drawn anew, the most confident first.

        Rows of tables have the shape [m, …], or with one step that of its row.
        """
        network, fixed, row = run.network, run.fixed, run.tables
        if steps == 1:
            row = {key: b.reshape(part, shape=(1, *part.shape)) for key, part in row.items()}
        first = {**fixed, **{key: nth_row(b, table, 0) for key, table in row.items()}}
        all_, *caches = run.evaluated(b, "forward" if steps == 1 else "remember", first, state=tokens)
        sharp = drawable(b, network, all_)
        sharp = b.mul(sharp, first["sharpness"], out="logits") if "sharpness" in first else sharp
        drawn = draw(b, filtered(b, sharp, self.top_k, 1.0), first["u"], out="guess")
        confidence = self.confidence(b, sharp, drawn, first)
        hidden = b.equal(tokens, mask_of(network), out="hidden")
        confidence = b.where(hidden, confidence, b.scalar(-KNOWN, confidence), out="confidence")
        length = int(tokens.shape[1])
        most = length if steps == 1 else int(network.methods["recall"].input("state").type.shape[1])  # type: ignore[arg-type]
        order = b.argsort(b.neg(confidence), out="by_confidence")
        position, rank = b.slice(order, axis=1, start=0, stop=most, out="position"), b.argsort(order, out="rank")
        known = among_free(b, first["known"], fixed, length)
        counts = [among_free(b, nth_row(b, row["count"], k), fixed, length) for k in range(steps)]
        made = [b.op("sub", count, known, out="made") for count in counts]
        nth = b.add(b.mul(position, 0), b.arange(most), out="nth")
        mine = b.less(rank, made[-1], out="mine")
        others = b.op("sub", 1.0, b.cast(mine, to="f32"), out="others")
        counted = b.cast(b.less(nth, made[-1]), to="f32", out="counted")
        x = b.add(b.mul(position, 0), mask_of(network), out="x")
        # In this order, because OpenVINO drops a slice along other axes before it gathers.
        logits = drawable(b, network, rows(b, all_, position, "local"))
        before: Any = 0
        for k, after in enumerate(made):
            at = {**fixed, **{key: nth_row(b, table, k) for key, table in row.items()}}
            if k:
                given = {"state": x, "mask": [counted, others], "position": position, "cache": caches}
                logits = drawable(b, network, run.evaluated(b, "recall", at, **given)[0])
            sharp = logits
            for key in ("sharpness", "cooling"):
                if key in at:
                    sharp = b.mul(sharp, at[key], out="logits")
            u = b.slice(at["again"], axis=1, start=0, stop=most, out="u")
            drawn = draw(b, filtered(b, sharp, self.top_k, 1.0), u, out="drawn")
            now = b.logical_and(b.less_equal(before, nth), b.less(nth, after), out="now")
            x, before = b.where(now, drawn, x, out="x"), after
        back = b.minimum(rank, most - 1, out="back")
        return b.where(mine, b.take_along(x, back, axis=1), tokens, out="tokens")


def in_rows(b: Builder, table: Var, first: int, stop: int, steps: int) -> Var:
    """Rows `first` to `stop` of a table [N, …]: [stop - first, …], or with several `steps` [sets, steps, …]."""
    rest, count = table.shape[1:], stop - first
    part = table if count == int(table.shape[0]) else b.slice(table, axis=0, start=first, stop=stop)
    return part if steps == 1 else b.reshape(part, shape=(count // steps, steps, *rest))


def nth_row(b: Builder, table: Var, k: int) -> Var:
    """Row k of a table [m, …]."""
    row = b.slice(table, axis=0, start=k, stop=k + 1)
    return b.reshape(row, shape=table.shape[1:], out="row")
