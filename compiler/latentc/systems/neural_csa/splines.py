"""Monotone linear rational splines (Dolatabadi, Erfani and Leckie 2020, arXiv:2001.05168).

A spline maps [-bound, bound] onto itself, and is the identity outside. Each of its K bins is two pieces that are ratios
of linear functions.

Symbols: R rows, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentc.ir.builder import Builder, Var

LEAST_SIZE = 1e-3  # of a bin, in units of the whole interval
LEAST_SLOPE = 1e-3
LEAST_SHARE = 0.025  # of a bin, before or after the point between its pieces


@dataclass(frozen=True)
class _Bin:
    """The spline in the bin of each number; all f32[R, 1].

    Its left edge and size along both axes; weights of its ends and of the point between; heights of those; and how far
    along that point is.
    """

    left: Var
    width: Var
    low: Var
    high: Var
    middle: Var
    weight_b: Var
    weight_c: Var
    share: Var


def parameters(bins: Any) -> Any:
    """How many numbers a spline of so many bins is made of."""
    return 4 * bins - 1


def spline(b: Builder, x: Var, numbers: Var, bins: Any, bound: float, inverse: bool = False) -> tuple[Var, Var]:
    """(the spline's value at x f32[R, 1], or its inverse's; the logarithm of that one's slope), both f32[R, 1].

    `numbers` f32[R, 4 K - 1]: sizes of bins along both axes, slopes between bins, places of the points within.
    """
    parts = b.split(numbers, axis=1, sizes=(bins, bins, bins - 1, bins), out="widths heights slopes shares")
    at = b.maximum(b.minimum(x, bound), -bound, out="at")
    found = _bin(b, at, parts, bins, bound, inverse)
    if inverse:
        theta = _inverted(b, at, found)
        y = b.add(found.left, theta * found.width, out="y")
    else:
        theta = b.div(b.op("sub", at, found.left), found.width, out="theta")
        y = None
    below = b.less_equal(theta, found.share, out="below")
    first, last = b.minimum(theta, found.share, out="first"), b.maximum(theta, found.share, out="last")
    # Both pieces, each with theta clamped to where it is defined.
    before, after = b.op("sub", found.share, first), b.op("sub", last, found.share)
    left_base = b.add(before, found.weight_c * first, out="left_base")
    right_base = b.add(found.weight_c * (1.0 - last), found.weight_b * after, out="right_base")
    if y is None:
        left = (found.low * before + found.weight_c * found.middle * first) / left_base
        right = (found.weight_c * found.middle * (1.0 - last) + found.weight_b * found.high * after) / right_base
        y = b.where(below, left, right, out="y")
    left_slope = found.weight_c * found.share * b.op("sub", found.middle, found.low) / (left_base * left_base)
    rest = found.weight_b * found.weight_c * (1.0 - found.share)
    right_slope = rest * b.op("sub", found.high, found.middle) / (right_base * right_base)
    log_slope = b.log(b.where(below, left_slope, right_slope) / found.width, out="log_slope")
    log_slope = b.neg(log_slope, out="log_slope") if inverse else log_slope
    inside = b.less_equal(b.abs(x), bound, out="inside")
    return b.where(inside, y, x, out="y"), b.where(inside, log_slope, 0.0, out="log_slope")


def _bin(b: Builder, at: Var, parts: tuple[Var, ...], bins: Any, bound: float, inverse: bool) -> _Bin:
    widths, heights, slopes, shares = parts
    widths, right = _sizes(b, widths, bins, bound)
    heights, top = _sizes(b, heights, bins, bound)
    slopes = b.add(b.softplus(slopes), LEAST_SLOPE, out="slopes")
    # Nearly the slope of the identity outside at both ends, as in Pyro.
    slopes = b.pad(slopes, axis=1, before=1, after=1, value=1 - LEAST_SLOPE, out="slopes")
    shares = b.add(b.sigmoid(shares) * (1 - 2 * LEAST_SHARE), LEAST_SHARE, out="shares")
    inner = b.slice(top if inverse else right, axis=1, start=0, stop=bins - 1, out="inner")
    index = b.sum(b.cast(b.less_equal(inner, at), to="i64"), axes=(1,), keepdims=True, out="index")

    def there(values: Var, out: str, start: int = 0) -> Var:
        values = b.slice(values, axis=1, start=start, stop=start + bins) if int(values.shape[1]) > int(bins) else values
        return b.take_along(values, index, axis=1, out=out)

    width, height, share = there(widths, "width"), there(heights, "height"), there(shares, "share")
    slope_a, slope_b = there(slopes, "slope_a"), there(slopes, "slope_b", 1)
    left, low = b.op("sub", there(right, "right"), width, out="left"), b.op("sub", there(top, "top"), height, out="low")
    high = b.add(low, height, out="high")
    weight_b = b.sqrt(b.div(slope_a, slope_b), out="weight_b")
    weight_c = share * slope_a + (1.0 - share) * weight_b * slope_b
    weight_c = b.mul(weight_c, b.div(width, height), out="weight_c")
    of_a, of_b = 1.0 - share, b.mul(share, weight_b, out="of_b")
    middle = b.div(of_a * low + of_b * high, b.add(of_a, of_b), out="middle")
    return _Bin(left, width, low, high, middle, weight_b, weight_c, share)


def _sizes(b: Builder, logits: Var, bins: Any, bound: float) -> tuple[Var, Var]:
    """Sizes of bins f32[R, K], and their right ends."""
    shares = b.softmax(logits, axis=1, out="shares")
    least = (1.0 - shares * b.scalar(bins, shares)) * LEAST_SIZE
    sizes = b.mul(b.add(shares, least), 2 * bound, out="sizes")
    return sizes, b.add(b.cumsum(sizes, axis=1), -bound, out="ends")


def _inverted(b: Builder, y: Var, found: _Bin) -> Var:
    """Theta f32[R, 1], how far along its bin a spline has the value y."""
    below = b.less_equal(y, found.middle)
    first, last = b.minimum(y, found.middle), b.maximum(y, found.middle)
    up, rest = b.op("sub", first, found.low), found.weight_c * b.op("sub", found.middle, first)
    left = found.share * up / b.add(up, rest)
    over, left_over = found.weight_c * b.op("sub", last, found.middle), found.weight_b * b.op("sub", found.high, last)
    right = (over + found.share * left_over) / b.add(over, left_over)
    return b.where(below, left, right, out="theta")
