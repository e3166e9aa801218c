"""Weight expressions against numpy: the same values, the same bytes, and plain file ranges where there are any."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.diagnostics import DiagnosticError
from latentc.weights import (
    Array,
    Expr,
    Stored,
    blocks,
    cast,
    concatenate,
    dtype_from_name,
    materialise,
    reshape,
    slice_axis,
    split,
    transpose,
)
from latentc.weights.expr import Cast, Concatenate, Slice, Transpose, permute_heads
from latentc.weights.read import stream


def stored(folder: Path, array: np.ndarray, lead: int = 0, name: str = "w.bin") -> Stored:
    path = folder / name
    path.write_bytes(b"\xee" * lead + array.tobytes() + b"\xee" * 3)
    return Stored(path, lead, array.nbytes, array.dtype, array.shape)


def written(expr: Expr) -> bytes:
    file = io.BytesIO()
    count = stream(expr, file)
    assert count == len(file.getvalue())
    return file.getvalue()


def check(expr: Expr, value: np.ndarray) -> None:
    assert expr.shape == value.shape
    assert expr.dtype == value.dtype
    np.testing.assert_array_equal(materialise(expr), value)
    assert written(expr) == value.tobytes()
    pieces = [np.asarray(block) for block in blocks(expr, limit=24)]
    np.testing.assert_array_equal(np.concatenate([*pieces, np.empty(0, value.dtype)]), value.reshape(-1))


@st.composite
def programs(draw: Any) -> tuple[np.ndarray, list[tuple[Any, ...]]]:
    """A small array and a list of operations, to be applied to both an expression and the array."""
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = draw(st.sampled_from([np.float32, np.int16, ml_dtypes.bfloat16]))
    array = np.arange(math.prod(shape)).reshape(shape).astype(dtype)
    ops: list[tuple[Any, ...]] = []
    shape = list(shape)
    for _ in range(draw(st.integers(0, 6))):
        op = draw(st.sampled_from(["transpose", "reshape", "slice", "double", "cut_and_join", "cast"]))
        axis = draw(st.integers(0, len(shape) - 1))
        if op == "transpose":
            perm = draw(st.permutations(range(len(shape))))
            ops.append((op, perm))
            shape = [shape[i] for i in perm]
        elif op == "reshape":
            size = math.prod(shape)
            first = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0] or [1]))
            ops.append((op, [first, -1] if size else shape))
            shape = [first, size // first] if size else shape
        elif op == "slice":
            low = draw(st.integers(0, shape[axis] - 1))
            high = draw(st.integers(low + 1, shape[axis]))
            ops.append((op, axis, low, high))
            shape[axis] = high - low
        elif op == "double" and math.prod(shape) < 200:
            ops.append((op, axis))
            shape[axis] *= 2
        elif op == "cut_and_join":
            ops.append((op, axis, draw(st.integers(0, shape[axis])), draw(st.booleans())))
        elif op == "cast":
            ops.append((op, draw(st.sampled_from(["f32", "f64", "i32"]))))
    return array, ops


def apply(expr: Expr, value: np.ndarray, op: tuple[Any, ...]) -> tuple[Expr, np.ndarray]:
    match op:
        case ("transpose", perm):
            return transpose(expr, perm), value.transpose(perm)
        case ("reshape", shape):
            return reshape(expr, shape), value.reshape(shape)
        case ("slice", axis, low, high):
            index = (slice(None),) * axis + (slice(low, high),)
            return slice_axis(expr, axis, low, high), value[index]
        case ("double", axis):
            return concatenate([expr, expr], axis), np.concatenate([value, value], axis)
        case ("cut_and_join", axis, at, swap):
            parts = split(expr, [at, expr.shape[axis] - at], axis)
            cut = np.split(value, [at], axis)
            return concatenate(parts[::-1] if swap else parts, axis), np.concatenate(cut[::-1] if swap else cut, axis)
        case ("cast", dtype):
            return cast(expr, dtype), value.astype(dtype_from_name(dtype))
    raise AssertionError(op)


@settings(max_examples=300, deadline=None)
@given(programs(), st.sampled_from([0, 1, 64]), st.booleans())
def test_any_expression_is_what_numpy_says(
    tmp_path_factory: pytest.TempPathFactory, program: Any, lead: int, in_file: bool
) -> None:
    array, ops = program
    expr: Expr = stored(tmp_path_factory.mktemp("expr"), array, lead) if in_file else Array(array)
    value = array
    for op in ops:
        expr, value = apply(expr, value, op)
    check(expr, np.ascontiguousarray(value))


def test_a_rearrangement_that_is_a_file_range_is_one(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(6, 4)
    whole = stored(tmp_path, array, 64)
    rows = slice_axis(whole, 0, 2, 5)
    assert rows == Stored(whole.file, 64 + 32, 48, whole.dtype, (3, 4))
    assert isinstance(reshape(rows, (2, 6)), Stored)
    assert isinstance(reshape(slice_axis(reshape(whole, (1, 6, 4)), 1, 1, 2), (4,)), Stored)
    assert concatenate(split(whole, [1, 2, 3], 0), 0) == whole
    assert not isinstance(transpose(whole, (1, 0)), Stored)
    assert not isinstance(cast(whole, "f16"), Stored)
    check(rows, array[2:5])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_operation_and_its_inverse_vanish(tmp_path: Path, axis: int) -> None:
    whole = stored(tmp_path, np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    assert concatenate(split(whole, [1, whole.shape[axis] - 1], axis), axis) == whole
    assert transpose(transpose(whole, (2, 0, 1)), (1, 2, 0)) == whole
    assert reshape(reshape(transpose(whole, (2, 0, 1)), (24,)), (4, 2, 3)) == transpose(whole, (2, 0, 1))
    assert cast(whole, "f32") is whole
    joined = concatenate([transpose(whole, (2, 1, 0)), Array(np.zeros((4, 3, 2), np.float32))], axis)
    assert split(joined, [whole.shape[::-1][axis], joined.shape[axis] - whole.shape[::-1][axis]], axis)[0] == (
        transpose(whole, (2, 1, 0))
    )
    assert isinstance(transpose(cast(whole, "f16"), (2, 1, 0)), Cast)
    assert isinstance(slice_axis(cast(whole, "f16"), 2, 0, 1), Cast)


def test_parts_that_do_not_touch_stay_apart(tmp_path: Path) -> None:
    whole = stored(tmp_path, np.arange(24, dtype=np.float32).reshape(6, 4))
    parts = split(whole, [2, 2, 2], 0)
    assert isinstance(concatenate(parts[::-1], 0), Concatenate)
    assert isinstance(concatenate([parts[0], parts[2]], 0), Concatenate)
    assert isinstance(concatenate(split(whole, [2, 2], 1), 1), Stored)
    assert isinstance(concatenate(split(whole, [2, 2], 1)[::-1], 1), Concatenate)


@pytest.mark.parametrize("heads", [None, 2, 0])
def test_permute_heads(tmp_path: Path, heads: int | None) -> None:
    array = np.arange(4 * 6 * 5, dtype=np.float32).reshape(24, 5)
    value = array.copy()
    for head in range(4 if heads is None else heads):
        rows = slice(6 * head, 6 * head + 6)
        value[rows] = np.concatenate([array[rows][0::2], array[rows][1::2]])
    whole = stored(tmp_path, array)
    half = permute_heads(whole, 6, heads, "half")
    check(half, value)
    assert permute_heads(half, 6, heads, "interleaved") == whole
    check(permute_heads(permute_heads(whole, 6, heads, "interleaved"), 6, heads, "half"), array)
    check(permute_heads(Array(array[:, 0]), 6, None, "half"), array[:, 0].reshape(4, 3, 2).swapaxes(1, 2).reshape(-1))


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    check(stored(tmp_path, np.float32(3).reshape(()), 1), np.float32(3).reshape(()))
    check(stored(tmp_path, np.zeros((0, 3), np.float32)), np.zeros((0, 3), np.float32))
    check(transpose(Array(np.zeros((0, 3), np.float32)), (1, 0)), np.zeros((3, 0), np.float32))
    check(cast(Array(np.float32(3).reshape(())), "bf16"), np.asarray(3, ml_dtypes.bfloat16))


@pytest.mark.parametrize("name", ["bf16", "f8e4m3", "f8e5m2", "f16", "f64"])
def test_casts_round_as_ml_dtypes_does(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(0).standard_normal((9, 7)).astype(np.float32)
    check(cast(stored(tmp_path, array), name), array.astype(dtype_from_name(name)))


@pytest.mark.parametrize("narrow", ["bf16", "f16"])
def test_a_widened_tensor_is_still_the_range_it_was(tmp_path: Path, narrow: str) -> None:
    """Half-precision weights of a model declared in f32, used in the same half: nothing is to be written."""
    half = stored(tmp_path, np.ones((4, 3), dtype_from_name(narrow)))
    wide = cast(half, "f32")
    assert cast(wide, narrow) is half
    assert cast(cast(slice_axis(wide, 0, 1, 3), "f64"), narrow) == slice_axis(half, 0, 1, 3)
    other = "f16" if narrow == "bf16" else "bf16"
    assert cast(wide, other) == Cast(half, dtype_from_name(other))


@pytest.mark.parametrize("narrow", ["bf16", "f16", "i32"])
def test_what_was_rounded_stays_rounded(tmp_path: Path, narrow: str) -> None:
    array = (np.random.default_rng(0).standard_normal((9, 7)) * 100).astype(np.float32)
    check(cast(cast(stored(tmp_path, array), narrow), "f32"), array.astype(dtype_from_name(narrow)).astype(np.float32))


@pytest.mark.parametrize(
    "call",
    [
        lambda e: transpose(e, (0, 0)),
        lambda e: reshape(e, (5, -1)),
        lambda e: reshape(e, (-1, -1)),
        lambda e: reshape(e, (-2, -3)),
        lambda e: slice_axis(e, 0, 1, 3),
        lambda e: slice_axis(e, 2, 0, 1),
        lambda e: split(e, [1, 2], 0),
        lambda e: concatenate([], 0),
        lambda e: concatenate([e, transpose(e, (1, 0))], 0),
        lambda e: concatenate([e, cast(e, "f16")], 0),
        lambda e: cast(e, "f33"),
        lambda e: permute_heads(e, 3, None, "half"),
        lambda e: permute_heads(e, 2, 2, "half"),
        lambda e: Stored(Path("x"), 0, 5, np.dtype(np.float32), (1,)),
    ],
)
def test_what_cannot_be_is_a_value_error(call: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        call(Array(np.zeros((2, 3), np.float32)))


def test_a_mapping_copies_nothing(tmp_path: Path) -> None:
    whole = stored(tmp_path, np.arange(24, dtype=np.float32).reshape(6, 4), 64)
    view = materialise(slice_axis(transpose(whole, (1, 0)), 0, 1, 3))
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert isinstance(slice_axis(transpose(whole, (1, 0)), 0, 1, 3), Slice)
    assert isinstance(transpose(whole, (1, 0)), Transpose)


@pytest.mark.parametrize("ruin", ["gone", "shorter"])
@pytest.mark.parametrize("read", [materialise, written])
def test_a_file_that_changed_is_a_diagnostic(tmp_path: Path, ruin: str, read: Any) -> None:
    whole = stored(tmp_path, np.zeros(8, np.float32))
    if ruin == "gone":
        whole.file.unlink()
    else:
        whole.file.write_bytes(b"1234567")
    with pytest.raises(DiagnosticError) as caught:
        read(whole)
    assert caught.value.diagnostics[0].code == "E0413"
