"""Mixing within windows: squares of neighbouring tokens, or interleaved ones.

Symbols: B batch, T tokens, D width, W windows of a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOfThese
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.mixers.attention import Attention
from latentc.components.layers import depthwise
from latentc.components.parts import Mixer, Problem, a_divisor
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Windows(Mixer):
    """Another mixer within windows of a square of tokens (Swin Transformer, Liu et al. 2021, arXiv:2103.14030).

    An interleaved window takes every W-th row and column, so its tokens come from the whole square; a parallel
    depthwise convolution connects neighbours (Iwin Transformer, Huo and Li 2025, arXiv:2507.18405). If one window
    covers all tokens, there is no convolution.
    """

    kind: Literal["windows"]
    size: int = Field(gt=0, le=1_024, description="side of a window, in tokens")
    interleaved: bool = Field(False, description="the tokens of a window are evenly spaced instead of adjacent")
    convolution: int | None = Field(
        None, gt=0, le=63, description="kernel size of an added depthwise convolution; null: none"
    )
    mixer: Annotated[Mixer, OneOfThese("blocks/mixers", classes=(Attention,))] = Field(
        description="how tokens of a window exchange information"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "windows",
        "size": 2,
        "interleaved": True,
        "convolution": 3,
        "mixer": {"kind": "attention", "heads": 2},
    }

    @property
    def takes_vector(self) -> bool:
        return self.mixer.takes_vector

    @property
    def head_count(self) -> int:
        return self.mixer.head_count

    @property
    def spatial(self) -> bool:
        return True

    @property
    def branches(self) -> int:
        return 1 if self.convolution is None else 2

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.convolution is not None and self.convolution % 2 == 0:
            message = f"a kernel of side {self.convolution} has no centre: it must be odd"
            yield Problem(("convolution",), message, f"use {self.convolution + 1}")
        if self.mixer.ordered:
            yield Problem(("mixer",), "tokens of a window have no causal order", "set `causal: false`")
        if self.mixer.generates:
            message = "weights of a window's mixer cannot depend on the condition"
            yield Problem(("mixer",), message, "leave out `generated_projection` and `routed`")

    def problems_of_grid(self, grid: int) -> Iterator[Problem]:
        if grid > self.size and grid % self.size:
            message = f"windows of {self.size} do not tile {grid} by {grid} tokens"
            yield Problem(("size",), message, a_divisor(grid))

    def static(self, dim: int) -> dict[str, Any]:
        return {**self.mixer.static(dim), "window": self.size}

    def apply(
        self,
        b: Builder,
        name: str,
        x: Var,
        rotary: tuple[Var, ...],
        init: str,
        mask: Var | None = None,
        c: Var | None = None,
        **static: Any,
    ) -> Var:
        body = _forward(self, init, int(static["grid"]) <= self.size, False)
        return b.sub(name, body, x, *(() if c is None else (c,)), **static)  # type: ignore[no-any-return]

    def apply_branches(
        self, b: Builder, name: str, x: Var, rotary: tuple[Var, ...], init: str, **static: Any
    ) -> tuple[Var, ...]:
        body = _forward(self, init, int(static["grid"]) <= self.size, True)
        out = b.sub(name, body, x, out="mixed local" if self.convolution else "mixed", **static)
        return out if isinstance(out, tuple) else (out,)


@cache
def _forward(config: Windows, init: str, whole: bool, apart: bool) -> BlockBody:
    inner = config.mixer

    @module_class("InterleavedWindows" if config.interleaved else "Windows")
    def forward(b: Builder, x: Var, *c: Var, dim: int, grid: int, window: int, **static: Any) -> Any:
        """Mixes the tokens of each window of a square."""
        batch, tokens, _ = x.shape
        side = grid if whole else window
        sizes = {**static, "window": window, "grid": side}
        if whole:
            return inner.apply(b, "mixer", x, (), init, c=c[0] if c else None, dim=dim, **inner.own(dim, sizes))
        count = grid // window
        apart_axes = (window, count, window, count) if config.interleaved else (count, window, count, window)
        windows, within = ((2, 4), (1, 3)) if config.interleaved else ((1, 3), (2, 4))
        order = (0, *windows, *within, 5)
        h = b.reshape(x, shape=(batch, *apart_axes, dim))
        h = b.reshape(b.transpose(h, perm=order), shape=(batch * count * count, window * window, dim), out="h")
        told = _for_each_window(b, c[0], count) if c else None
        h = inner.apply(b, "mixer", h, (), init, c=told, dim=dim, **inner.own(dim, sizes))
        h = b.reshape(h, shape=(batch, count, count, window, window, dim))
        h = b.transpose(h, perm=tuple(order.index(axis) for axis in range(6)))
        h = b.reshape(h, shape=(batch, tokens, dim), out="h")
        if config.convolution is None:
            return h
        local = as_tokens(b, depthwise(b, "depthwise", as_map(b, x, grid), config.convolution, init), tokens, "local")
        return (h, local) if apart else h + local

    return forward


def _for_each_window(b: Builder, c: Var, count: int) -> Var:
    """The condition f32[B, E] repeated for the windows of each sample."""
    batch, size = c.shape
    c = b.broadcast_to(b.reshape(c, shape=(batch, 1, size)), c, shape=(batch, count * count, size))
    return b.reshape(c, shape=(batch * count * count, size), out="c")  # type: ignore[no-any-return]
