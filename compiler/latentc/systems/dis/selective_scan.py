"""Mamba blocks: a convolution along the tokens and a selective scan, gated.

Symbols: B batch, T tokens, D (`dim`) width, E (`inner`) channels inside, N (`state`) numbers of state per channel,
R (`rank`) of delta.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import PlainMixer, dense
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class SelectiveScan(PlainMixer):
    """Mamba (Gu and Dao 2023, arXiv:2312.00752), bidirectional (Vision Mamba, Zhu et al. 2024, arXiv:2401.09417).

    Tokens form a sequence. Each direction has its own convolution, projections and decays; both share the surrounding
    layers and the gate.
    """

    kind: Literal["selective_scan"]
    expand: float = Field(2.0, gt=0, le=64, description="inner channels, as a multiple of the width")
    state: int = Field(16, gt=0, le=1_024, description="state dimension per channel (N)")
    kernel: int = Field(4, gt=0, le=63, description="kernel size of the causal convolution, in tokens")
    rank: int | None = Field(
        None, gt=0, le=65_536, description="rank of the step sizes (R); null: a 16th of the width, rounded up"
    )
    bidirectional: bool = Field(True, description="also scan from the last token to the first, and add both")
    bias: bool = Field(False, description="biases of the first and last linear layer")
    conv_bias: bool = Field(True, description="biases of the convolutions")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "selective_scan", "state": 4}

    def static(self, dim: int) -> dict[str, Any]:
        rank = -(-dim // 16) if self.rank is None else self.rank
        return {"inner": int(dim * self.expand), "state": self.state, "rank": rank}

    def body(self, init: str) -> BlockBody:
        return _forward(self)


@cache
def _forward(config: SelectiveScan) -> BlockBody:
    @module_class("Mamba")
    def forward(b: Builder, x: Var, *, dim: int, inner: int, state: int, rank: int) -> Var:
        """Selective scans of the tokens, gated."""
        xz = dense(b, "in_proj", x, 2 * inner, config.bias, "linear_default", out="xz")
        x, z = b.split(xz, axis=2, sizes=(inner, inner), out="x z")
        sizes = {"inner": inner, "state": state, "rank": rank}
        y = b.sub("forwards", _direction(config), x, out="y", **sizes)
        if config.bidirectional:
            back = b.sub("backwards", _direction(config), _reversed(b, x), out="back", **sizes)
            y = y + _reversed(b, back)
        return dense(b, "out_proj", y * b.silu(z), dim, config.bias, "linear_default", out="x")

    return forward


def _reversed(b: Builder, x: Var) -> Var:
    order = b.arange(x.shape[1])
    last_to_first = b.op("sub", b.scalar(x.shape[1] - 1, order), order, out="last_to_first")
    return b.take(x, last_to_first, axis=1, out=x.value.name)


@cache
def _direction(config: SelectiveScan) -> BlockBody:
    @module_class("SelectiveScan", x="B T inner")
    def forward(b: Builder, x: Var, *, inner: int, state: int, rank: int) -> Var:
        """Convolves and scans the tokens x [B, T, E] from first to last."""
        kernel = b.param("conv.weight", f32(inner, 1, config.kernel), "linear_default", fan_in=config.kernel)
        bias = [b.param("conv.bias", f32(inner), "linear_default", fan_in=config.kernel)] if config.conv_bias else []
        h = b.pad(b.transpose(x, perm=(0, 2, 1)), axis=2, before=config.kernel - 1, after=0, value=0.0, out="h")
        h = b.conv(h, kernel, *bias, groups=inner, out="h")
        x = b.silu(b.transpose(h, perm=(0, 2, 1)), out="x")
        chosen = dense(b, "x_proj", x, rank + 2 * state, False, "linear_default", out="chosen")
        delta, enter, leave = b.split(chosen, axis=2, sizes=(rank, state, state), out="delta enter leave")
        weight = b.param("dt_proj.weight", f32(inner, rank), "linear_default", fan_in=rank)
        shift = b.param("dt_proj.bias", f32(inner), "softplus_inverse", low=1e-3, high=0.1)
        delta = b.softplus(b.linear(delta, weight, shift), out="delta")
        decay = -b.exp(b.param("A_log", f32(inner, state), "log_arange"))
        y = b.selective_scan(x, delta, decay, enter, leave, out="y")
        return y + x * b.param("D", f32(inner), "ones")

    return forward
