"""The depthwise convolution of a ConvNeXt block."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.mixers.depthwise_conv import problems_of_kernel
from latentc.components.layers import depthwise
from latentc.components.parts import PlainMixer, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class ConvNextConv(PlainMixer):
    """A depthwise convolution (ConvNeXt, Liu et al. 2022); `time_norm` blocks do not normalise its input."""

    kind: Literal["convnext_conv"]
    kernel: int = Field(7, gt=0, le=63, description="kernel size, odd")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "convnext_conv", "kernel": 3}

    @property
    def needs(self) -> tuple[str, ...]:
        return ("grid",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_kernel(self.kernel)

    def body(self, init: str) -> BlockBody:
        return _forward(self.kernel, init)


@cache
def _forward(kernel: int, init: str) -> BlockBody:
    @module_class("DepthwiseConv")
    def forward(b: Builder, x: Var, *, dim: int, grid: int) -> Var:
        """A depthwise convolution of tokens in rows."""
        return as_tokens(b, depthwise(b, "depthwise", as_map(b, x, grid), kernel, init, out="x"), x.shape[1])

    return forward
