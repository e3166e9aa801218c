"""A depthwise convolution instead of attention.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.layers import depthwise
from latentc.components.parts import PlainMixer, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class DepthwiseConv(PlainMixer):
    """A depthwise convolution between two linear layers, with channel attention (DiCo, Ai et al. 2025,
    arXiv:2505.11196).

    Channel attention multiplies each channel by the sigmoid of a linear map of the channel means.
    """

    kind: Literal["depthwise_conv"]
    kernel: int = Field(3, gt=0, le=63, description="kernel size, odd")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "depthwise_conv"}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_kernel(self.kernel)

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


def problems_of_kernel(side: int, field: str = "kernel") -> Iterator[Problem]:
    """A kernel with an even side."""
    if side % 2 == 0:
        yield Problem((field,), f"a kernel of side {side} has no centre: it must be odd", f"use {side + 1}")


@cache
def _forward(config: DepthwiseConv, init: str) -> BlockBody:
    @module_class("DepthwiseConv")
    def forward(b: Builder, x: Var, *, dim: int, grid: int) -> Var:
        """A depthwise convolution of tokens in rows."""
        tokens = x.shape[1]
        x = dense(b, "enter", x, dim, True, init, out="x")
        x = depthwise(b, "depthwise", as_map(b, x, grid), config.kernel, init, out="x")
        x = as_tokens(b, b.gelu(x, approximate="none", out="x"), tokens)
        means = b.mean(x, axes=(1,), keepdims=True, out="means")
        x = x * b.sigmoid(dense(b, "attend", means, dim, True, init), out="weights")
        return dense(b, "leave", x, dim, True, init, out="x")

    return forward
