"""Cases of quantised numbers and of the products that take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from op_draws import Case, Draw, Lead, Operand, case

from latentc.ir.ops.quantize import RANGES


def _numbers(d: Draw, *shape: Any, dtype: str) -> Operand:
    low, high, _ = RANGES[dtype]
    if dtype == "f8e4m3":
        return d.operand(shape, lambda s: d.rng.choice([-448.0, -1.5, 0.0, 0.125, 20.0, 448.0], s), dtype)
    return d.operand(shape, lambda s: d.rng.integers(low, high + 1, s), dtype)


def _scale_of(d: Draw, shape: Any, blocks: bool = False) -> tuple[Operand, dict[str, Any], Callable[[Any], Any]]:
    """A scale for a tensor of this shape, its attributes, and how it spreads over the tensor."""
    axes = [i for i, n in enumerate(shape) if not isinstance(n, Lead)]
    if not axes or d.flag():
        return d.floats(low=0.05, high=0.5), {}, lambda s: s
    axis = d.choose(axes)
    if blocks and d.flag():
        block = d.choose([n for n in (1, 2, 3) if shape[axis] % n == 0])
        whole = [*shape[:axis], shape[axis] // block, *shape[axis + 1 :]]
        attrs = {"axis": axis, "block": block}
        return d.floats(*whole, low=0.05, high=0.5), attrs, lambda s: s.repeat_interleave(block, axis)
    column = [-1 if i == axis else 1 for i in range(len(shape))]
    return d.floats(shape[axis], low=0.05, high=0.5), {"axis": axis}, lambda s: s.reshape(column)


@case("quantize")
def quantize(d: Draw) -> Case:
    shape, to = d.shape(1), d.choose(RANGES)
    low, high, zero = RANGES[to]
    scale, attrs, spread = _scale_of(d, shape)

    def reference(x: Any, s: Any) -> Any:
        ratio = (x / spread(s)).detach()
        if to == "f8e4m3":
            return ratio.clamp(low, high).float().to(torch.float8_e4m3fn).double()
        return (torch.round(ratio) + zero).clamp(low, high).long()

    return Case([d.floats(*shape, low=-9, high=9), scale], reference, {"to": to, **attrs})


@case("dequantize")
def dequantize(d: Draw) -> Case:
    shape, dtype = d.shape(1), d.choose(RANGES)
    scale, attrs, spread = _scale_of(d, shape, blocks=True)
    return Case(
        [_numbers(d, *shape, dtype=dtype), scale], lambda q, s: (q - RANGES[dtype][2]).double() * spread(s), attrs
    )


def _straight(x: Any, to: str) -> Any:
    """x rounded to a dtype, with the gradient of the identity."""
    rounded = x.detach().float().to(torch.float8_e4m3fn).double() if to == "f8e4m3" else torch.round(x.detach())
    return x + (rounded - x.detach())


@case("fake_quantize")
def fake_quantize(d: Draw) -> Case:
    to = d.choose(["i8", "i4", "f8e4m3"])
    low, high, _ = RANGES[to]

    def reference(x: Any, s: Any) -> Any:
        s = s.detach()
        return _straight((x / s).clamp(low, high), to) * s

    return Case([d.floats(*d.shape(1), low=-9, high=9), d.floats(low=0.05, high=0.5)], reference, {"to": to})


@case("fake_quantize_weight")
def fake_quantize_weight(d: Draw) -> Case:
    to, n, blocks, size = d.choose(["i8", "i4", "f8e4m3"]), d.int(1, 4), d.int(1, 3), d.int(1, 4)
    most = {"i8": d.choose([63.0, 127.0]), "i4": 7.0, "f8e4m3": 448.0}[to]
    block = {"block": size} if to != "f8e4m3" and d.flag() else {}

    def reference(w: Any) -> Any:
        rows = w.reshape(-1, size) if block else w
        largest = rows.detach().abs().amax(1, keepdim=True) / most
        step = 2.0 ** (torch.floor(torch.log2(largest)) - 7)
        scale = torch.ceil(largest / step) * step
        return (_straight(rows / scale, to) * scale).reshape(w.shape)

    return Case([d.floats(n, blocks * size, low=-2, high=2)], reference, {"to": to, "most": most, **block})


@case("linear_int8")
def linear_int8(d: Draw) -> Case:
    k, n, dtype = d.int(1, 4), d.int(1, 4), d.choose(["i8", "u8"])
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, w: Any, sx: Any, sw: Any, *b: Any) -> Any:
        return F.linear((x - RANGES[dtype][2]) * sx, (w * sw).T, *b)

    operands = [_numbers(d, *d.shape(0, 2), k, dtype=dtype), _numbers(d, k, n, dtype="i8"), d.floats(low=0.1)]
    return Case([*operands, d.floats(n, low=0.1), *bias], reference)


@case("linear_int8_dynamic")
def linear_int8_dynamic(d: Draw) -> Case:
    k, n = d.int(1, 4), d.int(1, 4)
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, w: Any, s: Any, *b: Any) -> Any:
        low, high = x.detach().min().clamp(max=0), x.detach().max().clamp(min=0)
        step = (high - low) / 255
        zero = torch.round(-low / step)
        whole = (torch.round(x.detach() / step) + zero).clamp(0, 255) - zero
        return F.linear(whole * step, (w * s).T, *b)

    return Case([d.floats(*d.shape(0, 2), k), _numbers(d, k, n, dtype="i8"), d.floats(n, low=0.1), *bias], reference)


@case("linear_blocks")
def linear_blocks(d: Draw) -> Case:
    bits, n, groups = d.choose([4, 8]), d.int(1, 3), d.int(1, 2)
    bias = [d.floats(n) for _ in range(d.int(0, 1))]

    def reference(x: Any, q: Any, s: Any, *b: Any) -> Any:
        if bits == 4:
            q = torch.stack([q % 16, q // 16], -1).flatten(2)
        return F.linear(x, ((q - 2 ** (bits - 1)) * s[..., None]).flatten(1), *b)

    operands = [d.floats(*d.shape(0, 2), groups * 16), _numbers(d, n, groups, 2 * bits, dtype="u8")]
    return Case([*operands, d.floats(n, groups, low=0.1), *bias], reference, {"bits": bits, "block": 16})
