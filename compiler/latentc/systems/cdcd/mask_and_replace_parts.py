"""A diffusion of tokens that masks and replaces them: VQ-Diffusion's transition matrices, in log space.

A step keeps a token with probability a + b, makes it another given one with b, and masks it with c; masked tokens stay.
Symbols: B batch, T tokens of a sample, V categories (category V is the mask), S steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentc.components.kit.tokens import filtered
from latentc.ir.builder import Builder, Var

LEAST = -70.0
"""Log-probabilities are clamped to this from below."""
ZERO = math.log(1e-30)
"""Logarithm of the probability of a category that a token is not."""
NEVER = -1e30
"""Logarithm of 0."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MaskAndReplace:
    """S steps over V categories; what is kept and what is masked after t + 1 steps runs linearly between two ends.

    `kept`, `masked`: (after the first step, after the last) as probabilities.
    """

    categories: int
    steps: int
    kept: tuple[float, float]
    masked: tuple[float, float]

    @cached_property
    def tables(self) -> dict[str, Array]:
        """Logarithms by name: `a`, `b`, `c`, `1-c` f64[S] of a step, `A`, `B`, `C`, `1-C` f64[S + 1] of all up to it.

        The last entry of the latter is no step at all.
        """
        left = np.arange(self.steps) / max(self.steps - 1, 1)
        kept = np.append(1.0, left * (self.kept[1] - self.kept[0]) + self.kept[0])
        masked = np.append(0.0, left * (self.masked[1] - self.masked[0]) + self.masked[0])
        a, c = kept[1:] / kept[:-1], 1.0 - (1.0 - masked[1:]) / (1.0 - masked[:-1])
        every_a, every_c = np.append(kept[1:], 1.0), np.append(masked[1:], 0.0)
        found = {"a": a, "b": (1.0 - a - c) / self.categories, "c": c, "1-c": 1.0 - c}
        found |= {"A": every_a, "B": (1.0 - every_a - every_c) / self.categories, "C": every_c, "1-C": 1.0 - every_c}
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: np.maximum(np.log(np.maximum(column, 0.0)), NEVER) for name, column in found.items()}

    def row(self, b: Builder, name: str, t: Var) -> Var:
        """f32[B, 1, 1]: an entry of a table at t i64[B]."""
        words = {"1-c": "log_1_min_c", "1-C": "log_1_min_cum_c"}
        word = words.get(name, f"log_{'cum_' if name.isupper() else ''}{name.lower()}")
        taken = b.take(b.constant(self.tables[name], out=f"{word}_table"), t, axis=0)
        return b.reshape(taken, shape=(t.shape[0], 1, 1), out=word)

    def log_one_hot(self, b: Builder, tokens: Var, out: str = "log_x") -> Var:
        """f32[B, T, V + 1] of tokens i64[B, T]."""
        column = b.reshape(tokens, shape=(*tokens.shape, 1))
        mine = b.equal(column, b.arange(self.categories + 1))
        zero = b.constant(0.0, "f32")
        return b.where(mine, zero, b.constant(ZERO, "f32"), out=out)

    def marginal(self, b: Builder, log_x: Var, t: Var, out: str = "log_q") -> Var:
        """log q(x_t | x) f32[B, T, V + 1] of log-probabilities of x, after t + 1 steps."""
        a, bb, c, left = (self.row(b, name, t) for name in ("A", "B", "C", "1-C"))
        return self._mixed(b, log_x, a, bb, c, left, out)

    def _mixed(self, b: Builder, log_x: Var, a: Var, bb: Var, c: Var, left: Var, out: str) -> Var:
        given, mask = b.split(log_x, axis=2, sizes=(self.categories, 1), out="given mask")
        return b.concat(log_add_exp(b, given + a, bb), log_add_exp(b, mask + left, c), axis=2, out=out)

    def posterior(self, b: Builder, log_x0: Var, tokens: Var, t: Var, out: str = "log_posterior") -> Var:
        """log p(x_{t-1} | x_t) f32[B, T, V + 1]: a mixture over x_0, with log-probabilities `log_x0` of those.

        `tokens` i64[B, T] are x_t; t i64[B] counts steps from 0.
        """
        masked = b.equal(b.reshape(tokens, shape=(*tokens.shape, 1)), self.categories, out="masked")
        log_x_t = self.log_one_hot(b, tokens, "log_x_t")
        seen = b.slice(log_x_t, axis=2, start=0, stop=self.categories, out="seen")
        row = {name: self.row(b, name, t) for name in ("A", "B", "C", "a", "b", "c")}
        from_x0 = b.where(masked, row["C"], log_add_exp(b, seen + row["A"], row["B"]), out="log_q")
        one = b.where(masked, row["c"], log_add_exp(b, seen + row["a"], row["b"]), out="log_q_one")
        last = b.where(masked, b.constant(0.0, "f32"), b.constant(ZERO, "f32"), out="last")
        ratio = b.op("sub", b.slice(log_x0, axis=2, start=0, stop=self.categories), from_x0, out="ratio")
        ratio = b.concat(ratio, b.mul(last, 0.0) + ZERO, axis=2, out="ratio")
        total = b.logsumexp(ratio, axis=2, out="total")
        total = b.reshape(total, shape=(*tokens.shape, 1), out="total")
        # One step fewer; the entry at the end stands for the first step, which has none before it.
        before = b.where(b.equal(t, 0), b.scalar(self.steps, t), t - 1, out="before")
        reached = self.marginal(b, ratio - total, before, "reached")
        mixed = reached + b.concat(one, last, axis=2, out="log_q_one") + total
        return b.clamp(mixed, low=LEAST, high=0.0, out=out)

    def prediction(self, b: Builder, logits: Var, top_p: float = 1.0, out: str = "log_x0") -> Var:
        """log-probabilities f32[B, T, V + 1] of x_0 from logits f32[B, T, V]; x_0 is never masked.

        Categories outside the nucleus of `top_p` get the least; the others keep theirs.
        """
        known = filtered(b, b.log_softmax(logits, axis=2), 0, top_p)
        known = b.clamp(known, low=LEAST, high=0.0, out="known")
        never = b.full(known, shape=(logits.shape[1], 1), value=LEAST, dtype="f32", out="never")
        return b.concat(known, never, axis=2, out=out)

    def drawn(self, b: Builder, log_p: Var, u: Var, out: str = "tokens") -> Var:
        """i64[B, T]: categories drawn by the Gumbel-max trick from uniform numbers u f32[B, T, V + 1]."""
        gumbel = b.neg(b.log(b.neg(b.log(u + 1e-30)) + 1e-30), out="gumbel")
        return b.argmax(log_p + gumbel, axis=2, out=out)


def log_add_exp(b: Builder, x: Var, y: Var) -> Var:
    """log(exp(x) + exp(y)), elementwise."""
    most = b.maximum(x, y, out="most")
    return b.add(most, b.log(b.exp(x - most) + b.exp(y - most)), out="log_sum")
