"""MAR's sampler in sets whose steps reuse keys and values of the other tokens.

Symbols: B batch, T tokens of a sample, C channels of a token, D channels of its features, G tokens of a set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.guidance.guidance import scale_at
from latentc.components.kit import call
from latentc.components.parts import Problem, Spec, under
from latentc.components.sampler import Recall
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.ddpm import Ddpm
from latentc.components.samplers.euler import Euler
from latentc.components.samplers.masked_autoregressive import (
    MaskedAutoregressive,
    Row,
    TokenSets,
    along,
    diffusion_problems,
)
from latentc.components.samplers.table import Table
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B
from latentc.systems.recap.reuse import Reuse


class TokenReuse(Reuse):
    """Steps that reuse keys and values of the tokens that they leave as they are (ReCAP, arXiv:2505.19089).

    A step over all tokens begins a set of tokens and draws the first of them, in order of position. The steps after it
    evaluate the tokens of the set alone, which attend to the keys and values that step computed of the others.
    """

    condition: bool = Field(True, description="also reuse the tokens that hold the condition")
    diffusion: Annotated[ArraySampler, OneOfThese("samplers", classes=(Ddim, Ddpm, Euler))] | None = Field(
        None, description="sampler of `head` in these steps; null: as in the others"
    )


@dataclass(frozen=True)
class RecapSets(TokenSets):
    """Sets of several steps, all but the first of which evaluate the tokens of the set alone."""

    def body(self, steps: int) -> Callable[..., Any]:
        return self.step if steps == 1 else self.steps

    def steps(self, blocks: tuple[int, ...], b: Builder, i: Var, invariants: Row, state: Row, rows: Row) -> Any:
        """One set in several steps, its tokens in order of position; all but the first evaluate the set alone."""
        (tokens,), (before, *rest) = state, rows
        operands, at = self.given(invariants)
        length = int(tokens.shape[1])
        weights, after = rest[len(blocks) :], rest[: len(blocks)]
        names = ["before", *["after"] * len(after)]
        before, *after = self.among_free(b, at, length, (before, *after), names)
        recall = self.main.methods["recall"]
        most = int(recall.input("state").type.shape[1])  # type: ignore[arg-type]
        waiting = b.less(at["ranks"], before, out="waiting")
        mine = b.logical_and(waiting, b.less_equal(after[-1], at["ranks"]), out="mine")
        # Tokens of the set first, each kind in order of position; others pad it to the recalled size.
        outside = b.op("sub", 1, b.cast(mine, to="i64"), out="outside")
        order = b.argsort(b.add(b.arange(length), b.op("mul", outside, length), out="key"), out="by_set")
        position = b.slice(order, axis=1, start=0, stop=most, out="position")
        place = b.argsort(order, out="place")
        nth = b.add(b.op("mul", position, 0), b.arange(most), out="nth")
        made_before = [b.op("sub", before, column, out="made_before") for column in after]
        hidden = b.cast(waiting, to="f32", out="hidden")
        both = (lambda x: b.concat(x, x, axis=0)) if "scale" in at else (lambda x: x)
        branches = dict(operands)
        if "scale" in at:
            null = self.conditions.null(b, operands)
            branches = {key: b.concat(value, null[key], axis=0, out=key) for key, value in operands.items()}
        caches = len(recall.inputs_of("cache"))
        out = " ".join(["z", *["cache"] * caches])
        z, *remembered = call(b, self.main, "remember", branches, state=both(tokens), mask=both(hidden), out=out)
        z = along(b, z, both(position), "z")
        known = b.op("sub", 1.0, hidden, out="known")
        others = b.cast(outside, to="f32", out="others")
        counted = b.cast(b.less(nth, made_before[-1]), to="f32", out="counted")
        x = b.mul(along(b, tokens, position), 0.0, out="x")
        first: Any = 0
        for k, count in enumerate(blocks):
            if k:
                unknown = b.cast(b.less_equal(first, nth), to="f32", out="unknown")
                masks = [both(unknown), both(counted), both(known), both(others)]
                given = {"state": both(x), "mask": masks, "position": both(position), "cache": remembered}
                z = call(b, self.main, "recall", branches, out="z", **given)
            chosen = b.minimum(b.add(first, b.arange(count)), most - 1, out="chosen")
            places = b.minimum(b.add(after[-1], chosen), length - 1, out="places")
            scale = scale_at(b, at["scale"], weights[k]) if "scale" in at else None
            cond, null_z = (z, None) if scale is None else b.split(z, axis=0, sizes=(B, B), out="z null_z")
            made = self.drawn(b, at, self.tables[-1 if k else 0], cond, null_z, chosen, places, scale, k)
            drawn = b.logical_and(b.less_equal(first, nth), b.less(nth, made_before[k]), out="drawn")
            index = b.clamp(b.op("sub", nth, first), low=0, high=count - 1, out="index")
            x = b.where(b.reshape(drawn, shape=(B, most, 1)), along(b, made, index), x, out="x")
            first = made_before[k]
        back = b.minimum(place, most - 1, out="back")
        put = b.where(b.reshape(mine, shape=(B, length, 1)), along(b, x, back), tokens, out="tokens")
        return (put,), ()


class RecapAutoregressive(MaskedAutoregressive):
    """`masked_autoregressive`, with steps that reuse results of the previous one (ReCAP, Liu et al. 2025,
    arXiv:2505.19089).
    """

    SETS: ClassVar[type[TokenSets]] = RecapSets

    kind: Literal["recap_autoregressive"]  # type: ignore[assignment]
    reuse: TokenReuse = Field(TokenReuse(), description="which steps reuse what")
    EXAMPLE: ClassVar[dict[str, Any]] = {**MaskedAutoregressive.EXAMPLE, "kind": "recap_autoregressive"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.reuse.diffusion is not None:
            yield from under("reuse", "diffusion", problems=diffusion_problems(self.reuse.diffusion))

    def recalls(self, tokens: int) -> Recall | None:
        most = self.reuse.most(self.hidden_counts(tokens), tokens)
        return Recall(most, self.reuse.condition) if most else None

    def tables(self, spec: Spec) -> tuple[Table, ...]:
        faster = self.reuse.diffusion
        return super().tables(spec) if faster is None else (*super().tables(spec), self.table(spec, faster))

    def sets(self, left: Sequence[int]) -> list[tuple[int, int]]:
        return self.reuse.sets(left, left[0])

    def known(self, left: Sequence[int]) -> list[float]:
        return [(left[0] - after) / left[0] for after in left[1:]]
