"""Linear attention with a depthwise convolution of the values.

Symbols: B batch, T tokens, D (`dim`) width, H heads, d = D / H channels of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.decoding import Given
from latentc.components.parts import Mixer, Problem, Spec, dense, square_side, whole_sequences
from latentc.ir.builder import BlockBody, Builder, Var, f32

TINY = 1e-6
"""Added to the features and to what they are divided by."""


class LinearAttention(Mixer):
    """f(q) (f(k)^T v) / (f(q) sum f(k)) with f = ReLU (Katharopoulos et al. 2020), plus a convolution of v (LiT).

    LiT, Wang et al. 2025, arXiv:2501.12976. Linear time in T; the cost is T D^2 / H, so fewer heads cost more.
    """

    kind: Literal["linear_attention"]
    heads: int = Field(gt=0, le=1_024, description="heads; must divide the width")
    kernel: int = Field(
        5, ge=0, le=63, description="kernel size of the depthwise convolution of the values, odd; 0: none"
    )
    shared_kernel: bool = Field(True, description="all heads share one kernel, with the channels of a head")
    bias: bool = Field(False, description="biases of the query, key and value projections")
    CLASS: ClassVar[tuple[str, str]] = (
        "LinearAttention",
        "Linear attention over H heads, and a depthwise convolution of the values.",
    )
    """Name and docstring of the emitted class."""
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "linear_attention", "heads": 2, "kernel": 3}

    @property
    def head_count(self) -> int:
        return self.heads

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",) if self.kernel else ()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.kernel and self.kernel % 2 == 0:
            yield Problem(
                ("kernel",), f"a kernel of side {self.kernel} has no centre: it must be odd", f"use {self.kernel + 1}"
            )

    def static(self, dim: int) -> dict[str, Any]:
        return {"heads": self.heads}

    def apply(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        whole_sequences(self, given)
        further = self.further(given)
        return (b.sub(name, _forward(self, init, len(further)), x, *further, **static),)

    def further(self, given: Given) -> tuple[Var, ...]:
        """Operands after x: the condition, if weights depend on it. Refusal: there is none."""
        return ()

    def convolved(self, b: Builder, v: Var, c: tuple[Var, ...], dim: int, heads: int, grid: int) -> Var:
        """The values f32[B, H, T, d] as a square of tokens, convolved per channel: f32[B, T, D]."""
        batch, _, tokens, head_dim = v.shape
        channels, rows = (head_dim, batch * heads) if self.shared_kernel else (dim, batch)
        fan_in = self.kernel**2
        weight = b.param("dwc.weight", f32(channels, 1, self.kernel, self.kernel), "linear_default", fan_in=fan_in)
        bias = b.param("dwc.bias", f32(channels), "linear_default", fan_in=fan_in)
        h = b.reshape(b.transpose(v, perm=(0, 1, 3, 2)), shape=(rows, channels, grid, grid), out="h")
        h = b.conv(h, weight, bias, padding=self.kernel // 2, groups=channels, out="h")
        return b.transpose(b.reshape(h, shape=(batch, dim, tokens)), perm=(0, 2, 1), out="h")

    def projected(self, b: Builder, x: Var, c: tuple[Var, ...], dim: int, init: str) -> Var:
        """The output projection of x [B, T, D]."""
        return dense(b, "proj", x, dim, True, init, out="x")


@cache
def _forward(config: LinearAttention, init: str, further: int) -> BlockBody:
    cls, doc = config.CLASS

    def attention(b: Builder, x: Var, *c: Var, dim: int, heads: int, grid: int = 0) -> Var:
        return _attended(b, config, init, x, c, dim, heads, grid)

    attention.__doc__ = doc
    return BlockBody(attention, cls, "forward", {}, ("x", *("c",) * further))


def _attended(
    b: Builder, config: LinearAttention, init: str, x: Var, c: tuple[Var, ...], dim: int, heads: int, grid: int
) -> Var:
    tokens = x.shape[1]
    if config.kernel and config.shared_kernel:
        heads = int(heads)  # multiplies the batch, whose size is no expression of the class's sizes
    q = dense(b, "q", x, dim, config.bias, init, out="q")
    kv = dense(b, "kv", x, 2 * dim, config.bias, init, out="kv")
    k, v = b.split(kv, axis=2, sizes=(dim, dim), out="k v")
    q, k, v = (split_heads(b, part, heads, dim // heads, label) for part, label in ((q, "q"), (k, "k"), (v, "v")))
    q, k = (b.op("add", b.relu(part), TINY, out=label) for part, label in ((q, "q"), (k, "k")))
    # Means over the tokens, not sums: they stay small in half precision.
    keys = b.transpose(b.op("div", k, tokens), perm=(0, 1, 3, 2), out="keys")
    total = b.sum(keys, axes=(3,), keepdims=True, out="total")
    x = b.matmul(q, b.matmul(keys, v, out="memory")) / (b.matmul(q, total) + TINY)
    x = joined_heads(b, x, dim, out="x")
    if config.kernel:
        x = x + config.convolved(b, v, c, dim, heads, square_side(config, tokens, grid))
    return config.projected(b, x, c, dim, init)
