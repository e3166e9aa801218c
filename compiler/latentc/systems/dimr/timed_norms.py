"""Norms whose parameters depend on the time: a smooth step from one learned vector to another.

Symbols: B batch, D width.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Norm, Refusal
from latentc.ir.builder import BlockBody, Builder, Var, f32, module_class


class SituatedNorm(Norm):
    """A norm that depends on the time, or on the places of tokens in a square."""

    @abstractmethod
    def at(self, b: Builder, name: str, x: Var, t: Var, grid: Any) -> Var:
        """x [B, T, D] normalised at time t f32[B, 1], its tokens a square of this side if it is `spatial`."""

    def apply(self, b: Builder, name: str, x: Var) -> Var:
        message = f"`{self.kind}` depends on the time or on the square of tokens, which these blocks do not pass on"
        raise Refusal(message, "use `{kind: layer_norm}`, or the condition `{kind: time_norm}`", part=self)


class TimedLayerNorm(SituatedNorm):
    """LayerNorm whose scale and shift at time t are early + sigmoid(rate t + shift) (late - early) (DiMR).

    Liu et al. 2024, arXiv:2406.09416; all are learned vectors.
    """

    kind: Literal["timed_layer_norm"]
    eps: float = Field(1e-5, gt=0, description="added to the variance")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timed_layer_norm"}

    def at(self, b: Builder, name: str, x: Var, t: Var, grid: Any) -> Var:
        scale = timed(b, f"{name}_scale", t, x.shape[-1], "ones")
        return b.layer_norm(x, eps=self.eps) * scale + timed(b, f"{name}_shift", t, x.shape[-1], "zeros")


class TimedRmsNorm(SituatedNorm):
    """RMSNorm whose scale at time t is early + sigmoid(rate t + shift) (late - early) (DiMR, Liu et al. 2024).

    All four are learned vectors (arXiv:2406.09416). The eps of the authors' code is added outside the root.
    """

    kind: Literal["timed_rms_norm"]
    eps: float = Field(1e-12, gt=0, description="added to the mean square")
    CENTRED: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "timed_rms_norm"}

    def at(self, b: Builder, name: str, x: Var, t: Var, grid: Any) -> Var:
        return b.rms_norm(x, eps=self.eps) * timed(b, name, t, x.shape[-1], "ones")


def timed(b: Builder, name: str, t: Var, dim: int, init: Literal["ones", "zeros"]) -> Var:
    """A vector of `dim` numbers that starts as `init`, at time t f32[B, 1]: f32[B, 1, D]."""
    return b.sub(name, _timed(init), t, dim=dim, out=name)


@cache
def _timed(init: str) -> BlockBody:
    @module_class("TimedScale" if init == "ones" else "TimedShift")
    def forward(b: Builder, t: Var, *, dim: int) -> Var:
        """A vector that goes from `early` to `late` as t grows, each number at its own time and rate."""
        late, early = b.param("late", f32(dim), init), b.param("early", f32(dim), init)
        rate, shift = b.param("rate", f32(dim), "zeros"), b.param("shift", f32(dim), "zeros")
        t = b.reshape(t, shape=(t.shape[0], 1, 1), out="t")
        step = b.sigmoid(t * (rate + 1.0) + shift, out="step")
        return early + step * (late - early)

    return forward
