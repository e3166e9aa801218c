"""Penalties of tokens by how often they came before.

Symbols: B batch, V vocabulary, P places of a history.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

from latentc.components.kit.tokens import NEVER
from latentc.ir.builder import Builder, Var


@dataclass(frozen=True)
class History:
    """The tokens so far, the last one at the end, i64[B, P] with -1 in free places in front; and the last place of each
    token, i64[B, V], below 0 for those that did not come.
    """

    came: Var
    last: Var

    @staticmethod
    def of(b: Builder, logits: Var, text: tuple[Var, Var] | None, places: int) -> History:
        """That of a text i64[B, L] of which those tokens came that a mask bool[B, L] names, with free places for more.

        `logits` f32[B, V] gives the sizes.
        """
        batch, size = logits.shape
        free = b.full(logits, shape=(places,), value=-1, dtype="i64", out="free")
        if text is None:
            return History(free, b.full(logits, shape=(size,), value=-1, dtype="i64", out="last"))
        length = int(text[0].shape[1])
        known = b.where(text[1], text[0], b.scalar(-1, text[0]), out="known")
        same = b.equal(b.reshape(known, shape=(batch, length, 1)), b.arange(int(size)), out="same")
        place = b.reshape(b.cast(b.arange(length) + places, to="f32"), shape=(1, length, 1), out="place")
        last = b.max(b.where(same, place, -1.0), axes=(1,), keepdims=False)
        return History(b.concat(free, known, axis=1, out="came"), b.cast(last, to="i64", out="last"))

    def with_token(self, b: Builder, token: Var) -> History:
        """The history with token i64[B]; every other one moves a place to the front."""
        column, places = b.reshape(token, shape=(token.shape[0], 1), out="column"), int(self.came.shape[1])
        came = b.concat(b.slice(self.came, axis=1, start=1, stop=places), column, axis=1, out="came")
        here = b.equal(b.arange(int(self.last.shape[1])), column, out="here")
        return History(came, b.where(here, places - 1, b.op("sub", self.last, 1), out="last"))

    def penalised(self, b: Builder, logits: Var, penalty: float, scale: float) -> Var:
        """logits f32[B, V], shifted to a maximum of `scale` and penalised once for every time that a token came.

        With a positive scale the logit is divided by `penalty`, whatever its sign, and all logits are shifted to the
        maximum again, token after token (Krause et al.'s generator). With 0 none is positive, and they are multiplied.
        """
        batch, places = self.came.shape[0], int(self.came.shape[1])
        top = b.max(logits, axes=(1,), keepdims=True, out="top")
        logits = b.add(b.op("sub", logits, top), scale, out="shifted")
        said = b.less(-0.5, b.cast(self.last, to="f32"), out="said")
        own = b.take_along(logits, b.maximum(self.came, 0), axis=1, out="own")
        columns = b.transpose(self.came, perm=(1, 0), out="columns")
        if not scale:
            pairs = b.equal(
                b.reshape(self.came, shape=(batch, places, 1)), b.reshape(self.came, shape=(batch, 1, places))
            )
            times = b.sum(b.cast(pairs, to="f32"), axes=(2,), keepdims=False, out="times")
            own = b.mul(own, b.exp(times * log(penalty)), out="own")
            rest = logits
        else:
            # An empty place holds no logit and no token to penalise.
            own = b.where(b.less(self.came, 0), b.scalar(NEVER, own), own, out="own")
            other = b.max(b.where(said, b.scalar(NEVER, logits), logits), axes=(1,), keepdims=True, out="other")

            def penalise(
                b: Builder, i: Var, kept: tuple[Var, ...], state: tuple[Var, ...], rows: tuple[Var, ...]
            ) -> tuple[tuple[Var, ...], tuple[Var, ...]]:
                """One place more: the logits of what came f32[B, P], and the highest of all others f32[B, 1]."""
                (came,), (own, other), (token,) = kept, state, rows
                same = b.equal(came, b.reshape(token, shape=(batch, 1)), out="same")
                own = b.where(same, own * (1 / penalty), own, out="own")
                top = b.maximum(b.max(own, axes=(1,), keepdims=True), other, out="top")
                return tuple(b.add(b.op("sub", x, top), scale, out=x.value.name) for x in (own, other)), ()

            name = f"{b.name}.penalise"
            own, after = b.loop(name, places, penalise, invariants=[self.came], carried=[own, other], tables=[columns])
            rest = b.add(logits, b.op("sub", after, other), out="rest")
        new = b.take_along(own, b.maximum(self.last, 0), axis=1, out="new")
        return b.where(said, new, rest, out="logits")
