"""Products with weights: matmul, linear, embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentc.ir.ops.row import Array, Attrs, Op, OpError, broadcast, need, shaped, sum_to
from latentc.ir.types import Sym, TensorType, product


def same_dtype(ins: Sequence[TensorType]) -> None:
    if any(t.dtype != ins[0].dtype for t in ins):
        raise OpError(f"operands have dtypes {', '.join(t.dtype for t in ins)}; cast them to one")


def _matmul_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    x, y = ins
    need(x.rank >= 2 and y.rank >= 2, "takes matrices (rank 2 or more)")
    need(x.shape[-1] == y.shape[-2], "inner sizes differ: {} times {}", x, y)
    same_dtype(ins)
    return [x.with_shape([*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-1]])]


def swap(b: Any, x: Any) -> Any:
    """x with its last two axes swapped."""
    rank = x.type.rank
    return b.transpose(x, perm=(*range(rank - 2), rank - 1, rank - 2))


def _matmul_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, y = ins
    g = grads[0]
    return [sum_to(b, b.matmul(g, swap(b, y)), x.type), sum_to(b, b.matmul(swap(b, x), g), y.type)]


def _matmul_flops(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    inner = ins[0].shape[-1]
    return 2 * outs[0].count() * int(inner.factor if isinstance(inner, Sym) else inner)


def _linear(xs: Sequence[Array], attrs: Attrs) -> Sequence[Array]:
    y = xs[0] @ xs[1].T
    return [y + xs[2] if len(xs) > 2 else y]


def _flat_rows(b: Any, x: Any) -> Any:
    """[..., D] as [rows, D]."""
    return x if x.type.rank == 2 else b.reshape(x, shape=(product(x.shape[:-1]), x.shape[-1]))


def _linear_vjp(b: Any, ins: Any, outs: Any, grads: Any, attrs: Attrs) -> Sequence[Any]:
    x, w = ins[:2]
    flat_g, flat_x = _flat_rows(b, grads[0]), _flat_rows(b, x)
    gx = b.matmul(flat_g, w)
    result = [b.reshape(gx, shape=x.shape) if gx.type.rank != x.type.rank else gx, b.matmul(swap(b, flat_g), flat_x)]
    return result if len(ins) == 2 else [*result, b.sum(flat_g, axes=(0,), keepdims=False)]


def _linear_decompose(b: Any, ins: Any, attrs: Attrs) -> Sequence[Any]:
    if ins[0].type.rank == 1:
        row = b.reshape(ins[0], shape=(1, ins[0].shape[0]))
        y = b.reshape(b.matmul(row, swap(b, ins[1])), shape=(ins[1].shape[0],))
    else:
        y = b.matmul(ins[0], swap(b, ins[1]))
    return [y + ins[2] if len(ins) > 2 else y]


def _embedding_infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    w, index = ins
    need(
        w.rank == 2 and index.dtype in ("i64", "i32"),
        "takes [rows, width] and integers, got {} and {}",
        w,
        index,
    )
    return [w.with_shape([*index.shape, w.shape[1]])]


_ROWS = [
    Op(
        "matmul(x, y)",
        "matrix product of the last two axes, the others broadcast",
        _matmul_infer,
        lambda xs, a: [xs[0] @ xs[1]],
        _matmul_vjp,
        _matmul_flops,
    ),
    Op(
        "linear(x, weight, bias?)",
        "x W^T + b with W [out, in]",
        shaped("x [*n, in]", "weight [out, in]", "bias [out]", gives="[*n, out]"),
        _linear,
        _linear_vjp,
        lambda ins, outs, attrs: 2 * outs[0].count() * int(ins[1].shape[1]),  # type: ignore[arg-type]
        _linear_decompose,
    ),
    Op(
        "embedding(table, index)",
        "rows of a table, selected by integers",
        _embedding_infer,
        lambda xs, a: [xs[0][xs[1]]],
        lambda b, ins, outs, grads, attrs: [b.scatter_add(b.fill_like(ins[0], 0.0), ins[1], grads[0], axis=0), None],
        flops=0,
    ),
]
OPS = {row.name: row for row in _ROWS}
