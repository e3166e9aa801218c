"""Cases of quantised numbers and of the products that take them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from op_draws import Case, Draw, Lead, Operand, case

from latentc.ir.ops.quantize import RANGES


def _numbers(d: Draw, *shape: Any, dtype: str) -> Operand:
    low, high, _ = RANGES[dtype]
    floats = {"f8e4m3": [-448.0, -1.5, 0.0, 0.125, 20.0, 448.0], "f4e2m1": [-6.0, -1.5, 0.0, 0.5, 4.0, 6.0]}
    if dtype in floats:
        return d.operand(shape, lambda s: d.rng.choice(floats[dtype], s), dtype)
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
        if to == "f4e2m1":
            return _e2m1(ratio)
        return (torch.round(ratio) + zero).clamp(low, high).long()

    return Case([d.floats(*shape, low=-9, high=9), scale], reference, {"to": to, **attrs})


@case("dequantize")
def dequantize(d: Draw) -> Case:
    shape, dtype = d.shape(1), d.choose(RANGES)
    scale, attrs, spread = _scale_of(d, shape, blocks=True)
    return Case(
        [_numbers(d, *shape, dtype=dtype), scale], lambda q, s: (q - RANGES[dtype][2]).double() * spread(s), attrs
    )


def _e2m1(x: Any) -> Any:
    """The nearest of all 15 numbers; of two, that with the even mantissa, which comes first in `order`."""
    magnitudes = [0.0, 1.0, 2.0, 4.0, 0.5, 1.5, 3.0, 6.0]
    order = torch.tensor([sign * m for m in magnitudes for sign in (1, -1)], dtype=torch.float64)
    return order[(x.detach()[..., None] - order).abs().argmin(-1)]


def _blocks_of(x: Any, format: str, scale: Any) -> Any:
    """x in NVFP4 or MXFP4, block by block."""
    size = 16 if format == "nvfp4" else 32
    out = torch.empty_like(x.detach())
    for index in np.ndindex(*x.shape[:-1], x.shape[-1] // size):
        part = (*index[:-1], slice(index[-1] * size, (index[-1] + 1) * size))
        block = x.detach()[part]
        most = float(block.abs().max())
        if format == "nvfp4":
            ratio = torch.tensor(min(max(most / (6 * scale), 2**-9), 448))
            step = float(np.float32(float(ratio.to(torch.float8_e4m3fn)) * scale))
        else:
            step = 2.0 ** (math.floor(math.log2(most)) - 2) if most else 1.0
        out[part] = _e2m1(block / step) * step
    return out


@case("block_scales")
def block_scales(d: Draw) -> Case:
    numbers = d.operand(d.shape(1), lambda s: d.rng.choice([2.0**-9, 0.125, 20.0, 448.0], s), "f8e4m3")
    # The product is rounded to float32; this scale has few digits, so that none is lost.
    return Case([numbers, d.operand((), lambda s: 0.375, "f32")], lambda q, s: q * s)


@case("fake_quantize_nvfp4")
def fake_quantize_nvfp4(d: Draw) -> Case:
    x = d.floats(*d.shape(0, 2), d.int(1, 3) * 16, low=-9, high=9)
    scale = d.operand((), lambda s: 0.0078125, "f32")  # few digits, so that no product with it is rounded

    def reference(x: Any, s: Any) -> Any:
        return x + (_blocks_of(x, "nvfp4", float(s.detach())) - x.detach())

    return Case([x, scale], reference)


@case("fake_quantize_blocks")
def fake_quantize_blocks(d: Draw) -> Case:
    format = d.choose(["nvfp4", "mxfp4"])
    weight = d.floats(d.int(1, 3), d.int(1, 3) * (16 if format == "nvfp4" else 32))

    def reference(w: Any) -> Any:
        scale = float((w.detach().abs().max() / (6 * 448)).float()) if format == "nvfp4" else None
        return w + (_blocks_of(w, format, scale) - w.detach())

    return Case([weight], reference, {"format": format})


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
