"""Quantised tensors: 8-bit or 4-bit numbers with a scale. Only passes create these ops: for engines, and for training
that rounds as engines do.

A scale is one number, one per index of `axis`, or one per `block` elements along `axis`. Quantisation is symmetric
around zero; u8 is i8 shifted by 128, for processors that multiply unsigned by signed numbers.

Symbols: K inputs of a layer, N outputs, G blocks of K.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, axis_of, need
from latentc.ir.types import NUMPY, TensorType

# dtype -> smallest number, largest number, zero point
RANGES: dict[str, tuple[float, float, int]] = {
    "i8": (-128, 127, 0),
    "u8": (0, 255, 128),
    "i4": (-8, 7, 0),
    "f8e4m3": (-448.0, 448.0, 0),
    "f4e2m1": (-6.0, 6.0, 0),
}


_TRAINED = ("i8", "i4", "f8e4m3")  # dtypes that training rounds to


def spread(scale: Array, rank: int, attrs: Attrs) -> Array:
    """A scale reshaped to broadcast to its tensor, which has this rank."""
    if scale.ndim == 0:
        return scale
    if attrs.get("block"):
        return np.repeat(scale, attrs["block"], attrs["axis"])
    axis = attrs["axis"] % rank
    return scale.reshape([-1 if i == axis else 1 for i in range(rank)])


def quantised(x: Array, scale: Array, attrs: Attrs) -> Array:
    """x / scale rounded to dtype `to` (ties to even) and clipped to its range."""
    low, high, zero = RANGES[attrs["to"]]
    ratio = x / spread(scale, x.ndim, attrs)
    if attrs["to"].startswith("f"):
        return np.asarray(np.clip(ratio, low, high).astype(NUMPY[attrs["to"]]))
    numbers = np.clip(np.rint(ratio) + zero, low, high)
    # Via i8, because floats do not convert to 4-bit integers.
    return np.asarray(numbers.astype(np.int8 if attrs["to"] == "i4" else np.float64).astype(NUMPY[attrs["to"]]))


def dequantised(q: Array, scale: Array, attrs: Attrs) -> Array:
    """Quantised numbers times their scale, in the scale's dtype."""
    numbers = q.astype(scale.dtype) - (128 if q.dtype == np.uint8 else 0)
    return np.asarray(numbers * spread(scale, q.ndim, attrs))


def scale_shape(x: TensorType, attrs: Attrs) -> tuple[Any, ...]:
    """Shape of the scale that the attributes describe. Raises OpError if they do not fit the tensor."""
    block, axis = attrs.get("block"), attrs.get("axis")
    if axis is None:
        need(block is None, "`block` needs `axis`")
        return ()
    axis = axis_of(axis, x.rank)
    if block is None:
        return (x.shape[axis],)
    need(isinstance(x.shape[axis], int) and x.shape[axis] % block == 0, "blocks of {} do not divide {}", block, x)
    return x.with_axis(axis, x.shape[axis] // block).shape


def channel_scale(weight: Array, attrs: Attrs) -> Array:
    """The scale that makes `most` the largest magnitude of each index of `axis`, or of each block along it.

    It is 1 if all elements are zero, because scales must be positive. It is rounded up to 8 significant bits, so that
    it is exact in f32 and bf16, and from 2^-17 on in f16, and no element exceeds `most`. The smallest is f16's, 2^-24.
    """
    axis, block = attrs["axis"], attrs.get("block")
    if block:
        shape = weight.shape
        split = weight.reshape(*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :])
        largest = np.abs(split).max(axis + 1)
    else:
        largest = np.abs(weight).max(tuple(i for i in range(weight.ndim) if i != axis))
    fraction, exponent = np.frexp(np.where(largest > 0, np.maximum(largest / attrs["most"], 2.0**-24), 1.0))
    return np.asarray(np.ldexp(np.ceil(fraction * 256) / 256, exponent).astype(weight.dtype))


def _scaled(x: TensorType, scale: TensorType, attrs: Attrs) -> None:
    wanted = scale_shape(x, attrs)
    need(scale.is_float and scale.shape == wanted, f"scale is {scale}; wants floats {list(wanted)}")


def _quantize_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, scale = ins
    need(x.is_float, "takes floats, got {}", x)
    need(attrs["to"] in RANGES, f"quantises to {', '.join(RANGES)}, not {attrs['to']}")
    _scaled(x, scale, attrs)
    return [x.with_dtype(attrs["to"])]


def _dequantize_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    q, scale = ins
    need(q.dtype in RANGES, f"takes {', '.join(RANGES)}, got {q}")
    _scaled(q, scale, attrs)
    return [q.with_dtype(scale.dtype)]


def _rounded_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, scale = ins
    need(x.is_float and scale.is_float and scale.rank == 0, "takes floats and one scale, got {} and {}", x, scale)
    need(attrs["to"] in _TRAINED, f"rounds to {', '.join(_TRAINED)}, not {attrs['to']}")
    return [x]


def _rounded_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    """Straight through where x is within the range; the scale is a constant."""
    x, scale = ins
    low, high, _ = RANGES[attrs["to"]]
    ratio = b.op("div", x, scale)
    inside = b.equal(b.clamp(ratio, low=low, high=high), ratio)
    return [b.where(inside, grads[0], b.fill_like(grads[0], 0.0)), None]


def _rounded_weight_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    (weight,) = ins
    need(weight.is_float, "takes floats, got {}", weight)
    need(attrs["to"] in _TRAINED, f"rounds to {', '.join(_TRAINED)}, not {attrs['to']}")
    need(attrs["most"] > 0, "the largest magnitude, {}, is not positive", attrs["most"])
    need(attrs.get("block") is None or attrs["to"] != "f8e4m3", "floats of 8 bits have one scale per output")
    scale_shape(weight, _of_weight(attrs))
    return [weight]


def _of_weight(attrs: Attrs) -> dict[str, Any]:
    """The attributes of a weight's scale: one per output, or per block of inputs."""
    return {**attrs, "axis": 1 if attrs.get("block") else 0}


def _rounded_weight(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    own = _of_weight(attrs)
    scale = channel_scale(xs[0], own)
    return [dequantised(quantised(xs[0], scale, own), scale, own)]


def _product_infer(x: TensorType, w: TensorType, scale: TensorType, bias: Sequence[TensorType]) -> TensorType:
    need(x.rank > 0 and w.rank == 2 and x.shape[-1] == w.shape[0], "weight {} does not take {}: wants [in, out]", w, x)
    need(w.dtype == "i8", "weight is {}; wants i8", w)
    for t in (scale, *bias):
        need(t.is_float and t.shape == (w.shape[1],), "scale or bias is {}; wants floats [{}]", t, w.shape[1])
    return TensorType(scale.dtype, (*x.shape[:-1], w.shape[1]))


def _int8_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w, x_scale, w_scale, *bias = ins
    need(x.dtype in ("u8", "i8"), "takes u8 or i8, got {}", x)
    need(x_scale.is_float and x_scale.rank == 0, "the input's scale is {}; wants one number", x_scale)
    return [_product_infer(x, w, w_scale, bias)]


def _int8(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, w, x_scale, w_scale, *bias = xs
    sums = (x.astype(np.int64) - (128 if x.dtype == np.uint8 else 0)) @ w.astype(np.int64)
    y = sums.astype(w_scale.dtype) * (x_scale * w_scale)
    return [y + bias[0] if bias else y]


def _int8_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    x, w, x_scale, w_scale, *bias = ins
    weight = b.transpose(b.dequantize(w, w_scale, axis=1), perm=(1, 0))
    return [b.linear(b.dequantize(x, x_scale), weight, *bias)]


def _dynamic_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, w, w_scale, *bias = ins
    need(x.is_float, "takes floats, got {}", x)
    return [_product_infer(x, w, w_scale, bias)]


def _dynamic(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    """ONNX's DynamicQuantizeLinear: the range always includes 0, which is represented exactly."""
    x, w, w_scale, *bias = xs
    low, high = min(float(x.min(initial=0)), 0.0), max(float(x.max(initial=0)), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    numbers = np.clip(np.rint(x / scale) + zero, 0, 255) - zero
    y = (numbers @ w.astype(x.dtype)) * (scale * w_scale)
    return [np.asarray(y + bias[0] if bias else y, dtype=w_scale.dtype)]


def packed_blocks(numbers: Array, bits: int) -> Array:
    """Packs u8[N, G, block] into u8[N, G, block * bits / 8]; of two 4-bit numbers the first is the low half."""
    return numbers if bits == 8 else (numbers[..., ::2] | numbers[..., 1::2] << 4).astype(np.uint8)


def weight_of_blocks(q: Array, scale: Array, attrs: Attrs) -> Array:
    """The weight [N, K] of packed blocks and their scales [N, G]."""
    bits = attrs["bits"]
    if bits == 4:
        q = np.stack([q & 15, q >> 4], axis=-1).reshape(*q.shape[:2], -1)
    weight = (q.astype(scale.dtype) - 2 ** (bits - 1)) * scale[..., None]
    return np.asarray(weight.reshape(len(q), -1))


def blocks_type(weight: TensorType, attrs: Attrs) -> TensorType:
    """Type of a weight [N, K] as packed blocks."""
    bits, block = attrs["bits"], attrs["block"]
    need(bits in (4, 8), "packs 4 or 8 bits, not {}", bits)
    need(block >= 16 and block & (block - 1) == 0, "block is {}; wants a power of two, at least 16", block)
    need(weight.rank == 2 and int(weight.shape[1]) % block == 0, "blocks of {} do not divide {}", block, weight)  # type: ignore[arg-type]
    return TensorType("u8", (weight.shape[0], int(weight.shape[1]) // block, block * bits // 8))  # type: ignore[arg-type]


def _blocks_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, q, scale, *bias = ins
    need(x.is_float and x.rank > 0, "takes floats with at least one axis, got {}", x)
    wanted = blocks_type(TensorType(x.dtype, (q.shape[0], x.shape[-1])), attrs)
    need(q == wanted, "weight is {}; wants {}", q, wanted)
    need(scale.is_float and scale.shape == q.shape[:2], f"scale is {scale}; wants floats {list(q.shape[:2])}")
    for t in bias:
        need(t.shape == (q.shape[0],), "bias is {}; wants [{}]", t, q.shape[0])
    return [x.with_shape([*x.shape[:-1], q.shape[0]])]


def _blocks(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    x, q, scale, *bias = xs
    y = x @ weight_of_blocks(q, scale, attrs).T
    return [y + bias[0] if bias else y]


def _flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return 2 * outs[0].count() * int(ins[0].shape[-1])  # type: ignore[arg-type]


_ROWS = [
    Op(
        "quantize(x, scale; to, axis?)",
        "x / scale rounded to dtype `to`; one scale, or one per index of `axis`",
        _quantize_infer,
        lambda xs, a: [quantised(xs[0], xs[1], a)],
        source="ONNX QuantizeLinear",
        engine_only=True,
    ),
    Op(
        "dequantize(x, scale; axis?, block?)",
        "quantised numbers times their scale; one scale, one per index of `axis`, or one per `block` along it",
        _dequantize_infer,
        lambda xs, a: [dequantised(xs[0], xs[1], a)],
        source="ONNX DequantizeLinear",
        engine_only=True,
    ),
    Op(
        "fake_quantize(x, scale; to)",
        "x rounded to dtype `to` by one scale and dequantised; gradients pass as if it were not, inside its range",
        _rounded_infer,
        lambda xs, a: [dequantised(quantised(xs[0], xs[1], a), xs[1], a)],
        _rounded_vjp,
        source="Jacob et al. 2018, arXiv:1712.05877; straight-through: Bengio et al. 2013, arXiv:1308.3432",
    ),
    Op(
        "fake_quantize_weight(weight; to, most, block?)",
        "a weight rounded to dtype `to` and dequantised, with a scale per output, or per `block` inputs of one, that "
        "makes its largest magnitude `most`; gradients pass as if it were not",
        _rounded_weight_infer,
        _rounded_weight,
        lambda b, ins, outs, grads, attrs: [grads[0]],
        source="Jacob et al. 2018, arXiv:1712.05877; straight-through: Bengio et al. 2013, arXiv:1308.3432",
    ),
    Op(
        "linear_int8(x, weight, x_scale, weight_scale, bias?)",
        "linear of quantised numbers: x, W i8[in, out], scale of x, scales of W [out], bias",
        _int8_infer,
        _int8,
        flops=_flops,
        decompose=_int8_decompose,
        source="ONNX Runtime MatMulIntegerToFloat",
        engine_only=True,
    ),
    Op(
        "linear_int8_dynamic(x, weight, scale, bias?)",
        "linear of x, quantised at run time over its whole range, and W i8[in, out]; scales of W [out], bias",
        _dynamic_infer,
        _dynamic,
        flops=_flops,
        source="ONNX DynamicQuantizeLinear",
        engine_only=True,
    ),
    Op(
        "linear_blocks(x, weight, scale, bias?; bits, block)",
        "linear with W as packed blocks of `bits` bits, u8[out, in / block, bytes]; scales [out, in / block], bias",
        _blocks_infer,
        _blocks,
        flops=_flops,
        source="ONNX Runtime MatMulNBits",
        engine_only=True,
    ),
]
OPS = {row.name: row for row in _ROWS}
