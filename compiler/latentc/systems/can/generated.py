"""Layers whose weights depend on the condition: a learned weight plus a linear map of the embedded condition.

CAN (Cai et al. 2024, arXiv:2404.01143). The maps start at zero, so that a layer starts as one without a condition.
Symbols: B batch, T tokens, D width, E size of the condition c.
"""

from __future__ import annotations

from functools import cache

from latentc.components.parts import dense, table
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


def _weights(b: Builder, weight: Var, c: Var) -> Var:
    """The weight of each sample: [B, *weight.shape] of a weight and c [B, E]."""
    count = 1
    for size in weight.shape:
        count = size * count
    own = dense(b, "generate", b.silu(c), count, True, "zeros", out="own")
    return b.add(weight, b.reshape(own, shape=(c.shape[0], *weight.shape), out="own"), out="weight")


@cache
def generated_linear(bias: bool, init: str) -> BlockBody:
    @module_class("GeneratedLinear")
    def forward(b: Builder, x: Var, c: Var, *, features: int) -> Var:
        """A linear layer of x [B, T, D] whose weight depends on c [B, E]."""
        weight = _weights(b, table(b, "weight", features, x.shape[2], init), c)
        x = b.matmul(x, b.transpose(weight, perm=(0, 2, 1)), out="x")
        return x + b.param("bias", f32(features), "zeros") if bias else x

    return forward


@cache
def generated_depthwise(kernel: int) -> BlockBody:
    @module_class("GeneratedDepthwise", x="B channels H W")
    def forward(b: Builder, x: Var, c: Var, *, channels: int) -> Var:
        """A depthwise convolution of x [B, C, H, W] whose kernel depends on c [B, E]."""
        fan_in = kernel * kernel
        weight = b.param("weight", f32(channels, 1, kernel, kernel), "linear_default", fan_in=fan_in)
        bias = b.param("bias", f32(channels), "linear_default", fan_in=fan_in)
        kernels = b.reshape(_weights(b, weight, c), shape=(x.shape[0], channels, kernel, kernel), out="kernels")
        return b.depthwise_each(x, kernels, out="x") + b.reshape(bias, shape=(channels, 1, 1))

    return forward


@module_class("GeneratedPatches", x="B channels size size")
def generated_patches(b: Builder, x: Var, c: Var, *, size: int, patch: int, channels: int, width: int) -> Var:
    """Embeds the patches of x [B, C, H, W] as tokens [B, T, D] by a linear map that depends on c [B, E]."""
    batch, grid = x.shape[0], size // patch
    weight = b.param("weight", f32(width, channels, patch, patch), "xavier_uniform", of="matrix")
    x = b.reshape(x, shape=(batch, channels, grid, patch, grid, patch))
    x = b.reshape(
        b.transpose(x, perm=(0, 2, 4, 1, 3, 5)), shape=(batch, grid * grid, channels * patch * patch), out="x"
    )
    weight = b.reshape(_weights(b, weight, c), shape=(batch, width, channels * patch * patch), out="weight")
    x = b.matmul(x, b.transpose(weight, perm=(0, 2, 1)), out="x")
    return x + b.param("bias", f32(width), "zeros")
