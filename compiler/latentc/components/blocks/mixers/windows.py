"""Mixing within windows: squares of neighbouring tokens.

Symbols: B batch, T tokens, D width, E size of the condition, W windows along a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, Problem, Refusal, Spec, a_divisor, square_side, whole_sequences
from latentc.ir.builder import BlockBody, Builder, Var


class Windows(Mixer):
    """Another mixer within windows of a square of tokens (Swin Transformer, Liu et al. 2021, arXiv:2103.14030)."""

    kind: Literal["windows"]
    size: int = Field(gt=0, le=1_024, description="side of a window, in tokens")
    mixer: Annotated[Attention, OneOf("blocks/mixers", base=Attention)] = Field(
        description="how tokens of a window exchange information"
    )
    CLASS: ClassVar[str] = "Windows"
    AXES: ClassVar[tuple[int, int]] = (1, 3)
    """Axes of the windows when the square is split along both sides, [B, W, size, W, size, D]."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "windows", "size": 2, "mixer": {"kind": "attention", "heads": 2}}

    @property
    def head_count(self) -> int:
        return self.mixer.head_count

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.mixer.ordered:
            yield Problem(("mixer",), "tokens of a window have no causal order", "set `causal: false`")

    def static(self, dim: int) -> dict[str, Any]:
        return {**self.mixer.static(dim), "window": self.size}

    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        further = self.mixer.further(given)
        return (b.sub(name, windows(self, init, self.covers(x, given, static["grid"])), x, *further, **static),)

    def covers(self, x: Var, given: Given, grid: Any) -> bool:
        """True if one window holds all tokens x [B, T, D]. Refusal: windows do not tile them."""
        whole_sequences(self, given)
        side = int(square_side(self, x.shape[1], grid))
        if side > self.size and side % self.size:
            message = f"windows of {self.size} do not tile {side} by {side} tokens"
            raise Refusal(message, a_divisor(side), ("size",), self)
        return side <= self.size

    def split(self, b: Builder, x: Var, count: Any, window: Any) -> Var:
        """x [B, T, D] as windows [B * count^2, window^2, D]."""
        batch, _, dim = x.shape
        sizes = [window] * 4
        for axis in self.AXES:
            sizes[axis - 1] = count
        h = b.reshape(x, shape=(batch, *sizes, dim))
        return b.reshape(
            b.transpose(h, perm=self._order()), shape=(batch * count * count, window * window, dim), out="h"
        )

    def joined(self, b: Builder, h: Var, like: Var, count: Any, window: Any) -> Var:
        """The inverse of `split`: windows as tokens f32[B, T, D]."""
        batch, tokens, dim = like.shape
        order = self._order()
        h = b.reshape(h, shape=(batch, count, count, window, window, dim))
        h = b.transpose(h, perm=tuple(order.index(axis) for axis in range(6)))
        return b.reshape(h, shape=(batch, tokens, dim), out="h")

    def _order(self) -> tuple[int, ...]:
        return (0, *self.AXES, *(axis for axis in (1, 2, 3, 4) if axis not in self.AXES), 5)

    def beside(self, b: Builder, x: Var, grid: Any, init: str) -> tuple[Var, ...]:
        """Summands f32[B, T, D] that connect windows, of tokens x in several windows."""
        return ()


@cache
def windows(config: Windows, init: str, whole: bool, apart: bool = False) -> BlockBody:
    """The module; `whole`: one window covers all tokens; `apart`: it returns the summands."""
    inner = config.mixer

    def forward(b: Builder, x: Var, *c: Var, dim: int, grid: int, window: int, **static: Any) -> Any:
        sizes = {**static, "window": window, "grid": grid if whole else window}
        own = inner.own(dim, sizes)
        given = Given(c=c[0] if c else None)
        if whole:
            return inner.apply(b, "mixer", x, init, given, dim=dim, **own)[0]
        count = grid // window
        if c:
            given = replace(given, c=_for_each_window(b, c[0], count))
        (h,) = inner.apply(b, "mixer", config.split(b, x, count, window), init, given, dim=dim, **own)
        parts = (config.joined(b, h, x, count, window), *config.beside(b, x, grid, init))
        return parts if apart else sum(parts[1:], parts[0])

    forward.__doc__ = "Mixes the tokens of each window of a square."
    return BlockBody(forward, config.CLASS, "forward", {}, ("x",))


def _for_each_window(b: Builder, c: Var, count: int) -> Var:
    """The condition f32[B, E] repeated for the windows of each sample."""
    batch, size = c.shape
    c = b.broadcast_to(b.reshape(c, shape=(batch, 1, size)), c, shape=(batch, count * count, size))
    return b.reshape(c, shape=(batch * count * count, size), out="c")
