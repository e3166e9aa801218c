"""Interleaved windows: their tokens come from the whole square, and a convolution connects neighbours.

Symbols: B batch, T tokens, D width, W windows along a side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.mixers.depthwise_conv import problems_of_kernel
from latentc.components.blocks.mixers.windows import Windows, windows
from latentc.components.decoding import Given
from latentc.components.layers import depthwise
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var


class InterleavedWindows(Windows):
    """Windows of every W-th row and column, and a parallel depthwise convolution (Iwin Transformer, Huo and Li 2025).

    If one window covers all tokens, there is no convolution.
    """

    kind: Literal["interleaved_windows"]  # type: ignore[assignment]
    convolution: int = Field(3, gt=0, le=63, description="kernel size of the convolution, odd")
    CLASS: ClassVar[str] = "InterleavedWindows"
    AXES: ClassVar[tuple[int, int]] = (2, 4)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "interleaved_windows",
        "size": 2,
        "mixer": {"kind": "attention", "heads": 2},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from problems_of_kernel(self.convolution, "convolution")

    def beside(self, b: Builder, x: Var, grid: Any, init: str) -> tuple[Var, ...]:
        h = depthwise(b, "depthwise", as_map(b, x, grid), self.convolution, init)
        return (as_tokens(b, h, x.shape[1], "local"),)

    def branches(self, b: Builder, name: str, x: Var, init: str, given: Given, **static: Any) -> tuple[Var, ...]:
        """The summands f32[B, T, D], of windows and convolution, if there are several windows."""
        whole = self.covers(x, given, static["grid"])
        out = b.sub(name, windows(self, init, whole, True), x, out="mixed" if whole else "mixed local", **static)
        return (out,) if whole else out
