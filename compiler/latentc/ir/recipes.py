"""Recipes: how passes compute new weights from a model's weights. One row per op: type, numpy meaning, inverse.

A pass that merges or rescales weights adds a param with a `Recipe`. Nothing is computed at that time: the interpreter
evaluates it, the exporter streams it tensor by tensor, and `undo` recovers the model's weights from a finished bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentc.ir.core import Init, Param, Recipe
from latentc.ir.ops.float4 import (
    FORMATS,
    block_scales,
    block_scales_type,
    numbers_of,
    of_tensor_type,
    scales_of,
    scales_type,
    tensor_scale,
)
from latentc.ir.ops.norm import row_scales, singular_value
from latentc.ir.ops.quantize import (
    RANGES,
    blocks_type,
    channel_scale,
    dequantised,
    packed_blocks,
    quantised,
    scale_shape,
    spread,
    weight_of_blocks,
)
from latentc.ir.ops.row import OpError
from latentc.ir.types import NUMPY, TensorType

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]

MADE = Init("made")
"""The initialiser of a param with a recipe, which alone determines its value."""

Undo = Callable[[Array, Sequence[Array], Attrs], Array]


@dataclass(frozen=True)
class RecipeRow:
    """`type` of the result (OpError for operands that do not fit), `evaluate` and `undo`.

    `undo[i](result, others, attrs)` computes operand i from the result and the other operands in order; operands
    without an entry are lost. The inverse of a rounding op leaves the rounding error. If a row `folds`, the operands
    after the first are not part of the engine: a bundle stores those of rank 0 or 1 separately.
    """

    type: Callable[[Sequence[TensorType], Attrs], TensorType]
    evaluate: Callable[[Sequence[Array], Attrs], Array]
    undo: Mapping[int, Undo] = field(default_factory=dict)
    folds: bool = False


def _size(type: TensorType, axis: int) -> int:
    return int(type.shape[axis])  # type: ignore[arg-type]


def _concat_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    axis = attrs["axis"]
    if any(t.with_axis(axis) != types[0].with_axis(axis) for t in types):
        raise OpError(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
    return types[0].with_axis(axis, sum(_size(t, axis) for t in types))


def _mul_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    weight, factor = types
    fits = zip(reversed(factor.shape), reversed(weight.shape), strict=False)
    if factor.rank > weight.rank or any(f not in (1, w) for f, w in fits):
        raise OpError(f"{factor} does not scale {weight}")
    return weight


def _same_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    if types[0] != types[1]:
        raise OpError(f"{types[0]} and {types[1]} differ")
    return types[0]


def _scale_axis_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    weight, vector = types
    if vector.shape != (weight.shape[attrs["axis"]],):
        raise OpError(f"{vector} does not scale axis {attrs['axis']} of {weight}")
    return weight


def _scale_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    return TensorType(types[0].dtype, scale_shape(types[0], attrs))


def _quantize_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    weight, scale = types
    if attrs["to"] not in RANGES or scale.shape != scale_shape(weight, attrs):
        raise OpError(f"{weight} does not quantise to {attrs['to']} by {scale}")
    return weight.with_dtype(attrs["to"])


def _quantize(xs: Sequence[Array], attrs: Attrs) -> Array:
    _need_positive(xs[1])
    return quantised(xs[0], xs[1], attrs)


def _need_positive(scale: Array) -> None:
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise OpError("a scale is not a positive number")


def _pack_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    packed = blocks_type(types[0], attrs)
    if types[1].shape != packed.shape[:2]:
        raise OpError(f"the scales are {types[1]}; {types[0]} in blocks of {attrs['block']} wants {packed.shape[:2]}")
    return packed


def _pack(xs: Sequence[Array], attrs: Attrs) -> Array:
    weight, scale = xs
    _need_positive(scale)
    zero = 2 ** (attrs["bits"] - 1)
    blocks = weight.reshape(len(weight), -1, attrs["block"]) / scale[..., None]
    return packed_blocks(np.clip(np.rint(blocks) + zero, 0, 2 * zero - 1).astype(np.uint8), attrs["bits"])


def _float4_scales_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    found = scales_type(types[0], attrs)
    if len(types[1:]) != FORMATS[attrs["format"]].of_tensor:
        raise OpError(f"{attrs['format']} takes {FORMATS[attrs['format']].of_tensor:d} scales of the tensor")
    of_tensor_type(attrs["format"], types[1:])
    return found


def _float4_scales(xs: Sequence[Array], attrs: Attrs) -> Array:
    weight, *of_tensor = xs
    if of_tensor:
        _need_positive(of_tensor[0])
    # In float64, so that a weight has the same numbers in the oracle and in every engine.
    return scales_of(weight.astype(np.float64), of_tensor[0].astype(np.float64) if of_tensor else None, attrs)


def _float4_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    weight, scale = types
    if scale.shape != scales_type(weight, attrs).shape:
        raise OpError(f"the scales of {weight} in {attrs['format']} are not {scale}")
    return weight.with_dtype("f4e2m1")


def _float4(xs: Sequence[Array], attrs: Attrs) -> Array:
    weight, scale = xs
    _need_positive(scale)
    return numbers_of(weight.astype(np.float64), scale.astype(np.float64)).astype(NUMPY["f4e2m1"])


def _along(attrs: Attrs) -> Attrs:
    return {"axis": 1, "block": FORMATS[attrs["format"]].block}


def _pack_float4_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    _float4_type(types, attrs)
    return blocks_type(types[0], {"bits": 8, "block": FORMATS[attrs["format"]].block})


def _pack_float4(xs: Sequence[Array], attrs: Attrs) -> Array:
    weight, half = xs
    _need_positive(half)
    twice = 2 * numbers_of(weight.astype(np.float64), 2 * half.astype(np.float64)) + 128
    return twice.astype(np.uint8).reshape(*half.shape, FORMATS[attrs["format"]].block)


def _dequantize_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    numbers, scale = types
    if numbers.dtype not in RANGES or scale.shape != scale_shape(numbers, attrs):
        raise OpError(f"{numbers} does not dequantise by {scale}")
    return numbers.with_dtype(scale.dtype)


def _pick_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    (stack,) = types
    if stack.rank < 1 or not 0 <= attrs["index"] < _size(stack, 0):
        raise OpError(f"{stack} has no index {attrs['index']} along axis 0")
    return stack.with_shape(stack.shape[1:])


def _slice_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    axis, start, stop = attrs["axis"], attrs["start"], attrs["stop"]
    if not 0 <= start < stop <= _size(types[0], axis):
        raise OpError(f"{start}:{stop} is outside axis {axis} of {types[0]}")
    return types[0].with_axis(axis, stop - start)


def _slice(xs: Sequence[Array], attrs: Attrs) -> Array:
    return np.take(xs[0], np.arange(attrs["start"], attrs["stop"]), attrs["axis"])


RECIPES: dict[str, RecipeRow] = {
    # Joins along `axis`. The exporter inverts it by slices, without reading the whole.
    "concat": RecipeRow(_concat_type, lambda xs, a: np.concatenate(xs, a["axis"])),
    # Index `index` of axis 0. The exporter inverts it by stacking all of them.
    "pick": RecipeRow(_pick_type, lambda xs, a: xs[0][a["index"]]),
    # `start` to `stop` of an axis. The exporter inverts it by joining slices that cover the axis.
    "slice": RecipeRow(_slice_type, _slice),
    # A weight times nonzero factors that broadcast to it.
    "mul": RecipeRow(_mul_type, lambda xs, a: xs[0] * xs[1], {0: lambda y, xs, a: y / xs[0]}),
    # Every element times `mul` (not zero) plus `add`.
    "affine": RecipeRow(
        lambda types, a: types[0],
        lambda xs, a: xs[0] * a["mul"] + a["add"],
        {0: lambda y, xs, a: (y - a["add"]) / a["mul"]},
    ),
    # A weight times a vector without zeros along `axis`.
    "scale_axis": RecipeRow(
        _scale_axis_type,
        lambda xs, a: xs[0] * spread(xs[1], xs[0].ndim, a),
        {0: lambda y, xs, a: y / spread(xs[0], y.ndim, a)},
        folds=True,
    ),
    "sub": RecipeRow(_same_type, lambda xs, a: xs[0] - xs[1], {0: lambda y, xs, a: y + xs[0]}, folds=True),
    "add": RecipeRow(_same_type, lambda xs, a: xs[0] + xs[1], {0: lambda y, xs, a: y - xs[0]}, folds=True),
    # A weight divided by a number.
    "div": RecipeRow(_mul_type, lambda xs, a: xs[0] / xs[1], {0: lambda y, xs, a: y * xs[0]}, folds=True),
    # 1 / sqrt(variance + eps).
    "inverse_std": RecipeRow(
        lambda types, a: types[0],
        lambda xs, a: 1 / np.sqrt(xs[0] + a["eps"]),
        {0: lambda y, xs, a: 1 / (y * y) - a["eps"]},
        folds=True,
    ),
    # The largest singular value of a weight, estimated from u as in `ops.norm`.
    "singular_value": RecipeRow(
        lambda types, a: types[1].with_shape(()), lambda xs, a: singular_value(xs[0], xs[1], a["eps"])[0], folds=True
    ),
    # The scale of each row of a weight along `axis` that gives it length 1, as in `ops.norm`.
    "row_scales": RecipeRow(
        lambda types, a: types[0].with_shape([types[0].shape[a["axis"]]]),
        lambda xs, a: row_scales(xs[0], a["eps"], a["axis"]),
        folds=True,
    ),
    # A weight [O, C, ...] times a vector [C], summed over all but the first axis.
    "channel_sum": RecipeRow(
        lambda types, a: types[0].with_shape(types[0].shape[:1]),
        lambda xs, a: np.einsum("ock,c->o", xs[0].reshape(*xs[0].shape[:2], -1), xs[1]),
        folds=True,
    ),
    "reciprocal": RecipeRow(lambda types, a: types[0], lambda xs, a: 1 / xs[0], {0: lambda y, xs, a: 1 / y}),
    "transpose": RecipeRow(
        lambda types, a: types[0].with_shape(types[0].shape[p] for p in a["perm"]),
        lambda xs, a: xs[0].transpose(a["perm"]),
        {0: lambda y, xs, a: y.transpose(np.argsort(a["perm"]))},
    ),
    "channel_scale": RecipeRow(_scale_type, lambda xs, a: channel_scale(xs[0], a)),
    "quantize": RecipeRow(_quantize_type, _quantize, {0: lambda y, xs, a: dequantised(y, xs[0], a)}),
    # A weight [N, K] and its scales [N, G] as u8 blocks of `bits` bits for `linear_blocks`.
    "pack_blocks": RecipeRow(_pack_type, _pack, {0: lambda y, xs, a: weight_of_blocks(y, xs[0], a)}),
    "dequantize": RecipeRow(_dequantize_type, lambda xs, a: dequantised(xs[0], xs[1], a)),
    # The scale of a weight in NVFP4; the scales of its blocks in a format of 4-bit floats, and those as f32.
    "tensor_scale": RecipeRow(lambda types, a: types[0].with_shape(()), lambda xs, a: tensor_scale(xs[0])),
    "float4_scales": RecipeRow(_float4_scales_type, _float4_scales),
    "block_scales": RecipeRow(lambda types, a: block_scales_type(types[0], types[1:]), lambda xs, a: block_scales(*xs)),
    # A weight [N, K] as 4-bit floats, and the f32 scales of its blocks [N, G].
    "float4": RecipeRow(_float4_type, _float4, {0: lambda y, xs, a: dequantised(y, xs[0], _along(a))}),
    # The same as u8 blocks of 8 bits for `linear_blocks`: twice the numbers, by half the scales, which loses nothing.
    "pack_float4": RecipeRow(
        _pack_float4_type, _pack_float4, {0: lambda y, xs, a: weight_of_blocks(y, xs[0], {"bits": 8})}
    ),
}


def recipe_type(source: Recipe | Param) -> TensorType:
    """The type of a recipe's result. Raises OpError for an unknown op, or operands that do not fit."""
    if isinstance(source, Param):
        return source.type
    row = RECIPES.get(source.op)
    if row is None:
        raise OpError(f"there is no recipe {source.op!r}")
    return row.type([recipe_type(arg) for arg in source.args], source.attrs)


def evaluate(source: Recipe | Param, weight: Callable[[Param], Array]) -> Array:
    """The value of a recipe; `weight` returns the values of the model's weights."""
    if isinstance(source, Param):
        return weight(source) if source.recipe is None else evaluate(source.recipe, weight)
    return np.asarray(RECIPES[source.op].evaluate([evaluate(arg, weight) for arg in source.args], source.attrs))
