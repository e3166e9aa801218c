"""Floats of 4 bits (e2m1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) in blocks, each with a scale of 8 bits.

| format | block | scale of a block |
|---|---|---|
| `nvfp4` | 16 | absmax / 6, as e4m3 times the scale of the tensor, a float32: its absmax / (6 · 448) |
| `mxfp4` | 32 | the power of two 2^(floor(log2(absmax)) - 2), as e8m0 |

Blocks run along the last axis. Sources: NVIDIA TensorRT documentation, "Working with Quantized Types"; OCP Microscaling
Formats (MX) Specification 1.0, sections 5.3.3 and 6.3 (the magnitudes above 6 scales that its rule leaves become 6).

Symbols: K inputs of a layer, N outputs, G blocks of K.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.ir.ops.row import Array, Attrs, Op, need
from latentc.ir.types import NUMPY, TensorType

LARGEST = 6.0
LARGEST_SCALE = 448.0
SMALLEST_SCALE = 2.0**-9
"""The largest and smallest positive e4m3. Scales must be positive, so smaller ones become the smallest."""

SMALLEST_POWER = -24
"""Smallest exponent of a scale that is a power of two: engines may hold scales in float16."""


@dataclass(frozen=True)
class Float4:
    """A format: numbers per block, dtype of the blocks' scales, and whether the tensor has a scale of its own."""

    block: int
    scales: str
    of_tensor: bool


FORMATS = {"nvfp4": Float4(16, "f8e4m3", True), "mxfp4": Float4(32, "f8e8m0", False)}


def rounded(x: Array) -> Array:
    """x rounded to the nearest e2m1, ties to the even mantissa; magnitudes above 6 become 6."""
    magnitude = np.minimum(np.abs(x), LARGEST)
    step = np.where(magnitude < 2, 0.5, np.where(magnitude < 4, 1.0, 2.0)).astype(x.dtype)
    return np.asarray(np.copysign(np.rint(magnitude / step) * step, x))


def tensor_scale(x: Array) -> Array:
    """The float32 scale of a tensor in NVFP4, in the dtype of x; 1 if all elements are zero, or below 1e-34."""
    scale = np.float32(np.abs(x).max(initial=0.0).astype(np.float64) / (LARGEST * LARGEST_SCALE))
    return np.asarray(1.0 if scale < np.finfo(np.float32).tiny else scale, x.dtype)


def scales_of(x: Array, of_tensor: Array | None, attrs: Attrs) -> Array:
    """The scales of the blocks of x [..., K] in their dtype, [..., G]; `of_tensor` is the tensor's scale in NVFP4."""
    form = FORMATS[attrs["format"]]
    largest = np.abs(_blocks(x, form.block)).max(-1)
    if of_tensor is not None:
        ratio = np.clip(largest / (LARGEST * of_tensor), SMALLEST_SCALE, LARGEST_SCALE)
        return np.asarray(ratio.astype(NUMPY[form.scales]))
    power = np.where(largest > 0, np.frexp(largest)[1] - 3, 0)  # frexp's fraction is in [0.5, 1)
    return np.asarray(np.ldexp(1.0, np.clip(power, SMALLEST_POWER, 127)).astype(NUMPY[form.scales]))


def block_scales(scales: Array, of_tensor: Array | None = None) -> Array:
    """The blocks' scales as float32 numbers, in the dtype of `of_tensor` if there is one."""
    wide = scales.astype(np.float32)
    return wide if of_tensor is None else np.asarray((wide * of_tensor.astype(np.float32)).astype(of_tensor.dtype))


def numbers_of(x: Array, scales: Array) -> Array:
    """x [..., K] in units of its blocks' scales [..., G], rounded to e2m1 but in the dtype of x."""
    blocks = _blocks(x, x.shape[-1] // scales.shape[-1])
    return rounded(blocks / scales[..., None]).reshape(x.shape)


def _blocks(x: Array, block: int) -> Array:
    return x.reshape(*x.shape[:-1], -1, block)


def in_blocks(x: Array, of_tensor: Array | None, attrs: Attrs) -> Array:
    """x [..., K] rounded to a format and dequantised; `of_tensor` is the tensor's scale in NVFP4."""
    steps = block_scales(scales_of(x, of_tensor, attrs), of_tensor).astype(x.dtype)
    return np.asarray(numbers_of(x, steps) * np.repeat(steps, FORMATS[attrs["format"]].block, -1))


def _weight_in_blocks(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    (weight,) = xs
    return [in_blocks(weight, tensor_scale(weight) if FORMATS[attrs["format"]].of_tensor else None, attrs)]


def scales_type(x: TensorType, attrs: Attrs) -> TensorType:
    """Type of the scales of the blocks of x. Raises OpError if blocks do not fill its last axis."""
    need(attrs["format"] in FORMATS, f"format is one of {', '.join(FORMATS)}, not {attrs['format']}")
    form = FORMATS[attrs["format"]]
    fits = x.is_float and x.rank > 0 and isinstance(x.shape[-1], int) and x.shape[-1] % form.block == 0
    need(fits, "takes floats in blocks of {}, got {}", form.block, x)
    return TensorType(form.scales, (*x.shape[:-1], int(x.shape[-1]) // form.block))  # type: ignore[arg-type]


def of_tensor_type(format: str, given: Sequence[TensorType]) -> None:
    """Raises OpError unless `given` holds the scale of a tensor, if the format has one."""
    if given:
        need(FORMATS[format].of_tensor, f"{format} has no scale of the tensor")
        need(given[0].is_float and given[0].rank == 0, "the tensor's scale is {}; wants one float", given[0])


def block_scales_type(scales: TensorType, given: Sequence[TensorType]) -> TensorType:
    """Type of `block_scales`. Raises OpError for operands that do not fit."""
    format = next((name for name, form in FORMATS.items() if form.scales == scales.dtype), None)
    need(format is not None, f"takes {', '.join(form.scales for form in FORMATS.values())}, got {scales}")
    assert format is not None
    need(len(given) == FORMATS[format].of_tensor, f"{format} has {'a' if not given else 'no'} scale of the tensor")
    of_tensor_type(format, given)
    return scales.with_dtype("f32")


def _weight_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    scales_type(ins[0], attrs)
    return [ins[0]]


_NVFP4 = {"format": "nvfp4"}


def _nvfp4_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, scale = ins
    scales_type(x, _NVFP4)
    of_tensor_type("nvfp4", [scale])
    return [x]


def _nvfp4_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    """For engines without such floats: whole multiples of 0.5, 1 and 2."""
    x, scale = ins
    *lead, size = x.shape
    block = FORMATS["nvfp4"].block
    blocks = b.reshape(x, shape=(*lead, size // block, block))
    largest = b.max(b.abs(blocks), axes=(-1,), keepdims=True)
    # Not a clamp: ONNX Runtime 1.32 looks at each before a rounding, and fails at one to 8-bit floats.
    ratio = b.minimum(b.maximum(b.div(largest, b.mul(scale, LARGEST)), SMALLEST_SCALE), LARGEST_SCALE)

    def whole(values: Any, step: float, to: str) -> Any:
        unit = b.constant(np.float32(step), dtype="f32")
        return b.dequantize(b.quantize(values, unit, to=to), unit)

    steps = b.mul(whole(ratio, 1.0, "f8e4m3"), scale)
    ratios = b.minimum(b.maximum(b.div(blocks, steps), -LARGEST), LARGEST)
    magnitude = b.abs(ratios)
    coarse = b.where(b.less(magnitude, 4.0), whole(ratios, 1.0, "i8"), whole(ratios, 2.0, "i8"))
    numbers = b.where(b.less(magnitude, 2.0), whole(ratios, 0.5, "i8"), coarse)
    return [b.reshape(b.mul(numbers, steps), shape=x.shape)]


_ROWS = [
    Op(
        "block_scales(numbers, scale)",
        "scales of NVFP4's blocks as f32: e4m3 numbers times the scale of their tensor",
        lambda ins, attrs: [block_scales_type(ins[0], ins[1:])],
        lambda xs, attrs: [block_scales(*xs)],
        source="ONNX DequantizeLinear",
        engine_only=True,
        differentiable=False,
    ),
    Op(
        "fake_quantize_nvfp4(x, scale)",
        "x rounded to NVFP4 along its last axis, under a given scale of the tensor, and dequantised; gradients pass as "
        "if it were not",
        _nvfp4_infer,
        lambda xs, attrs: [in_blocks(xs[0], xs[1], _NVFP4)],
        lambda b, ins, outs, grads, attrs: [grads[0], None],
        decompose=_nvfp4_decompose,
        source="NVIDIA TensorRT, DynamicQuantize",
    ),
    Op(
        "fake_quantize_blocks(weight; format)",
        "a weight rounded to NVFP4 or MXFP4 (`nvfp4`, `mxfp4`) along its last axis and dequantised; gradients pass as "
        "if it were not",
        _weight_infer,
        _weight_in_blocks,
        lambda b, ins, outs, grads, attrs: [grads[0]],
        source="NVIDIA TensorRT, Working with Quantized Types; OCP Microscaling Formats 1.0",
    ),
]
OPS = {row.name: row for row in _ROWS}
