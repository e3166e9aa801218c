"""The functions that a process's formulas are written over, in numpy (tables) and in the IR (losses).

A formula such as ``m.sqrt(1.0 - t * t, out="sigma")`` is one text: with `NUMPY` it computes float64 arrays on the
host, with `Symbolic(b)` it appends ops to a loss. `out` names the result in the emitted code.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc.ir.builder import Builder, Var

Array = NDArray[np.float64]


class Maths(Protocol):
    """Functions available to formulas, besides + - * / between arguments and numbers."""

    def exp(self, x: Any, out: str = "") -> Any: ...
    def log(self, x: Any, out: str = "") -> Any: ...
    def sqrt(self, x: Any, out: str = "") -> Any: ...
    def sin(self, x: Any, out: str = "") -> Any: ...
    def cos(self, x: Any, out: str = "") -> Any: ...
    def atan(self, x: Any, out: str = "") -> Any: ...
    def sigmoid(self, x: Any, out: str = "") -> Any: ...
    def affine(self, x: Any, scale: float, shift: float, out: str = "") -> Any:
        """scale * x + shift."""

    def clamp(self, x: Any, low: float, high: float, out: str = "") -> Any:
        """x between two bounds."""

    def floor(self, x: Any, out: str = "") -> Any:
        """The largest whole number that is at most x."""

    def real(self, x: Any, out: str = "") -> Any:
        """A whole number as a float."""

    def single(self, x: Any) -> Any:
        """x as float32 has it."""

    def row(self, table: Array, t: Any, out: str = "") -> Any:
        """Entry t of a table over whole timesteps."""


class Numpy:
    """Float64 on the host."""

    def exp(self, x: ArrayLike, out: str = "") -> Any:
        return np.exp(x)

    def log(self, x: ArrayLike, out: str = "") -> Any:
        with np.errstate(divide="ignore"):
            return np.log(x)

    def sqrt(self, x: ArrayLike, out: str = "") -> Any:
        return np.sqrt(x)

    def sin(self, x: ArrayLike, out: str = "") -> Any:
        return np.sin(x)

    def cos(self, x: ArrayLike, out: str = "") -> Any:
        return np.cos(x)

    def atan(self, x: ArrayLike, out: str = "") -> Any:
        return np.arctan(x)

    def sigmoid(self, x: ArrayLike, out: str = "") -> Any:
        return 1.0 / (1.0 + np.exp(np.negative(x)))

    def affine(self, x: Any, scale: float, shift: float, out: str = "") -> Any:
        return x * scale + shift

    def clamp(self, x: ArrayLike, low: float, high: float, out: str = "") -> Any:
        return np.clip(x, low, high)

    def floor(self, x: ArrayLike, out: str = "") -> Any:
        return np.floor(x)

    def real(self, x: ArrayLike, out: str = "") -> Any:
        return np.asarray(x, np.float64)

    def single(self, x: ArrayLike) -> Any:
        return np.asarray(np.asarray(x, np.float32), np.float64)

    def row(self, table: Array, t: ArrayLike, out: str = "") -> Any:
        return table[np.asarray(t)]


class Symbolic:
    """Ops of the function that `b` builds; values of samples have shape [B, 1, …] of rank `rank`."""

    def __init__(self, b: Builder, rank: int) -> None:
        self.b, self.rank = b, rank

    def column(self, x: Var, out: str = "") -> Var:
        """f32[B] as [B, 1, …]."""
        return self.b.reshape(x, shape=(x.shape[0], *[1] * (self.rank - 1)), out=out)

    def exp(self, x: Var, out: str = "") -> Any:
        return self.b.exp(x, out=out)

    def log(self, x: Var, out: str = "") -> Any:
        return self.b.log(x, out=out)

    def sqrt(self, x: Var, out: str = "") -> Any:
        return self.b.sqrt(x, out=out)

    def sin(self, x: Var, out: str = "") -> Any:
        return self.b.sin(x, out=out)

    def cos(self, x: Var, out: str = "") -> Any:
        return self.b.cos(x, out=out)

    def atan(self, x: Var, out: str = "") -> Any:
        return self.b.atan(x, out=out)

    def sigmoid(self, x: Var, out: str = "") -> Any:
        return self.b.sigmoid(x, out=out)

    def affine(self, x: Var, scale: float, shift: float, out: str = "") -> Any:
        if shift == 0.0:
            return x if scale == 1.0 else self.b.mul(x, scale, out=out)
        return self.b.add(x if scale == 1.0 else x * scale, shift, out=out)

    def clamp(self, x: Var, low: float, high: float, out: str = "") -> Any:
        return self.b.clamp(x, low=low, high=high, out=out)

    def floor(self, x: Var, out: str = "") -> Any:
        return self.b.floor(x, out=out)

    def real(self, x: Var, out: str = "") -> Any:
        return self.b.cast(x, to="f32", out=out)

    def single(self, x: Any) -> Any:
        return x

    def row(self, table: Array, t: Var, out: str = "") -> Any:
        return self.column(self.b.take(self.b.constant(table, out=f"{out}_table"), t, axis=0), out)


NUMPY = Numpy()


def fractional(t: Any) -> bool:
    """True if t are numpy times, possibly between two timesteps."""
    return isinstance(t, np.ndarray | float) and np.asarray(t).dtype.kind == "f"
