"""Values of pixels: their numbers, what the levels read of them, and the image they are.

Symbols: B batch, C channels, V values of a channel.
"""

from __future__ import annotations

from latentc.components.layers import MEAN, STD
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var


def range_of(spec: Spec) -> tuple[float, float]:
    """The smallest and the largest value of the data."""
    low, high = spec.data.fields["x"].range or (-1.0, 1.0)
    return float(low), float(high)


def shares(b: Builder, x: Var, spec: Spec) -> Var:
    """Images x f32[B, C, H, H] from 0 to 1."""
    low, high = range_of(spec)
    return x if (low, high) == (0.0, 1.0) else b.mul(x - low, 1 / (high - low), out="share")


def numbers(b: Builder, share: Var, values: int) -> Var:
    """i64[...]: the number of the nearest of V evenly spaced values to numbers from 0 to 1."""
    index = b.floor(share * float(values - 1) + 0.5)
    return b.cast(b.clamp(index, low=0.0, high=float(values - 1)), to="i64", out="number")


def read(b: Builder, share: Var, channels: int, axis: int = 1) -> Var:
    """What the levels read: numbers from 0 to 1, of three channels less ImageNet's mean over its deviation."""
    if channels != 3:
        return b.add(share * 2.0, -1.0, out="x")
    shape = [1] * share.type.rank
    shape[axis] = 3
    mean, std = (b.reshape(b.constant(list(v), "f32"), shape=tuple(shape)) for v in (MEAN, STD))
    return b.div(share - mean, std, out="x")


def of_range(b: Builder, x: Var, channels: int, spec: Spec, out: str = "x") -> Var:
    """Images of the data's range, from what the levels read; the reverse of `read` and `shares`."""
    low, high = range_of(spec)
    if channels != 3:
        share = b.mul(x + 1.0, 0.5)
    else:
        mean, std = (b.reshape(b.constant(list(v), "f32"), shape=(1, 3, 1, 1)) for v in (MEAN, STD))
        share = b.add(x * std, mean)
    return b.add(share * (high - low), low, out=out)
