"""Low-rank adapters of weights that stay as they are.

LoRA (Hu et al. 2021, arXiv:2106.09685): a weight + alpha / rank * B A with B and A of low rank; B starts at 0.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentc.components import Closed
from latentc.components.parts import table
from latentc.ir.builder import Builder, Var, f32


class LowRank(Closed):
    """An adapter: the weights `lora_A` and `lora_B` of a layer, beside its own."""

    rank: int = Field(8, gt=0, le=4_096, description="rank of the update; for a kernel of k by k it is k times this")
    alpha: float = Field(8.0, gt=0, description="the update is scaled by alpha / rank")

    def adapted(self, b: Builder, name: str, weight: Var, rank: Any = None) -> Var:
        """The weight [out, in, ...] of layer `name` plus the change; `rank`: that with its name.

        A kernel's change is a matrix [out k, in k], as loralib has it.
        """
        rank = self.rank if rank is None else rank
        features, channels, *kernel = weight.shape
        side = kernel[0] if kernel else 1
        down = b.param(f"{name}.lora_A", f32(rank * side, channels * side), "linear_default", fan_in=channels * side)
        up = b.param(f"{name}.lora_B", f32(features * side, rank * side), "zeros")
        change = b.matmul(up, down, out="change")
        if kernel:
            change = b.reshape(change, shape=tuple(weight.shape), out="change")
        scale = self.alpha / self.rank
        return b.add(weight, change if scale == 1.0 else b.mul(change, scale, out="change"), out="w")

    def dense(self, b: Builder, name: str, x: Var, features: Any, bias: bool, init: str, out: str = "") -> Var:
        """A Linear of x [..., in] whose weight starts as `init` says, with the change."""
        weight = self.adapted(b, name, table(b, f"{name}.weight", features, x.shape[-1], init))
        biases = [b.param(f"{name}.bias", f32(features), "zeros")] if bias else []
        return b.linear(x, weight, *biases, out=out)
