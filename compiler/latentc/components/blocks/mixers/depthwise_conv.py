"""A depthwise convolution in the place of attention.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.layers import depthwise
from latentc.components.parts import PlainMixer, Problem, dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class DepthwiseConv(PlainMixer):
    """A depthwise convolution between two linear layers, with channel attention (DiCo, Ai et al. 2025,
    arXiv:2505.11196).

    Channel attention multiplies each channel by the sigmoid of a linear map of the channel means.
    Without norm, linear layers, activation and attention, this is the convolution of ConvNeXt (Liu et al. 2022).
    """

    kind: Literal["depthwise_conv"]
    kernel: int = Field(3, gt=0, le=63, description="kernel size, odd")
    linear: bool = Field(True, description="linear layers before and after the convolution")
    activation: Literal["gelu", "none"] = Field("gelu", description="activation after the convolution")
    channel_attention: bool = Field(
        True, description="channel attention: scale channels by a function of their means, before the last linear layer"
    )
    norm: bool = Field(True, description="blocks normalise the input of the convolution")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "depthwise_conv"}

    @property
    def head_count(self) -> int:
        return 1

    @property
    def spatial(self) -> bool:
        return True

    @property
    def rectangular(self) -> bool:
        return True

    @property
    def normalised(self) -> bool:
        return self.norm

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.kernel % 2 == 0:
            yield Problem(
                ("kernel",), f"a kernel of side {self.kernel} has no centre: it must be odd", f"use {self.kernel + 1}"
            )

    def static(self, dim: int) -> dict[str, Any]:
        return {}

    def body(self, init: str) -> BlockBody:
        return _forward(self, init)


@cache
def _forward(config: DepthwiseConv, init: str) -> BlockBody:
    @module_class("DepthwiseConv")
    def forward(b: Builder, x: Var, *, dim: int, grid: int) -> Var:
        """A depthwise convolution of tokens in rows."""
        tokens = x.shape[1]
        if config.linear:
            x = dense(b, "enter", x, dim, True, init, out="x")
        x = depthwise(b, "depthwise", as_map(b, x, grid), config.kernel, init, out="x")
        if config.activation == "gelu":
            x = b.gelu(x, approximate="none", out="x")
        x = as_tokens(b, x, tokens)
        if config.channel_attention:
            means = b.mean(x, axes=(1,), keepdims=True, out="means")
            x = x * b.sigmoid(dense(b, "attend", means, dim, True, init), out="weights")
        return dense(b, "leave", x, dim, True, init, out="x") if config.linear else x

    return forward
