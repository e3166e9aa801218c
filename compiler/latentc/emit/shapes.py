"""Rows of the ops that move, select and lay out data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from latentc.emit.text import SUM, Text, call, commas, literal
from latentc.ir.core import Node
from latentc.ir.types import Dim, Named, Sym

if TYPE_CHECKING:
    from latentc.emit.expressions import Expressions as Printer

    Row = Callable[[Printer, Node], Text]

_CHANNELS_FIRST = (0, 3, 1, 2)
"""From channels last. A convolution keeps the layout in memory, and in that one PyTorch's GroupNorm on a CPU loses
digits: of E[x^2] - E[x]^2."""


def _same(a: Dim, b: Dim) -> bool:
    """True if two dimensions are equal at all sizes of the class, not only at the sizes it was built with."""
    if isinstance(a, Named) and isinstance(b, Named):
        return a == b and bool({a.expr, a.meaning} & ({b.expr, b.meaning} - {""}))
    # A size of 1 that comes from a static argument may be another number elsewhere.
    return a == b and (a != 1 or isinstance(a, Named) == isinstance(b, Named))


def _always_1(dims: Sequence[Dim]) -> bool:
    return bool(dims) and all(_same(d, 1) for d in dims)


def shape_change(old: Sequence[Dim], new: Sequence[Dim]) -> tuple[str, Any] | None:
    """A reshape that PyTorch has a method for, as (method, arguments), else None.

    ("unsqueeze", axis), ("squeeze", axis), ("columns", (axis, number of new axes)), ("flatten", (first, last)),
    ("unflatten", (axis, new sizes)).
    """
    head = 0
    while head < min(len(old), len(new)) and _same(old[head], new[head]):
        head += 1
    tail = 0
    while tail < min(len(old), len(new)) - head and _same(old[-1 - tail], new[-1 - tail]):
        tail += 1
    before, after = list(old[head : len(old) - tail]), list(new[head : len(new) - tail])
    if not before and _always_1(after):
        return ("unsqueeze", head) if len(after) == 1 else ("columns", (head, len(after)))
    if not after and len(before) == 1 and _always_1(before):
        return "squeeze", head
    if len(after) == 1 and len(before) > 1:
        return "flatten", (head, head + len(before) - 1)
    if len(before) == 1 and len(after) > 1 and not isinstance(before[0], Sym):
        return "unflatten", (head, after)
    return None


def reshape(p: Printer, n: Node) -> Text:
    """`unsqueeze`, `squeeze`, `flatten` or `unflatten` if one of them does it, else `reshape` with one size as -1."""
    (value,), new = n.inputs, tuple(n.attrs["shape"])
    x, old = p.tensor(value).atom, value.type.shape
    match shape_change(old, new):
        case ("unsqueeze", axis):
            return call(f"{x}.unsqueeze", [str(axis)])
        case ("columns", (axis, count)) if axis == len(old):
            return Text(f"{x}[{commas([':'] * axis + ['None'] * count)}]")
        case ("squeeze", axis):
            return call(f"{x}.squeeze", [str(axis)])
        case ("flatten", (first, last)):
            return call(f"{x}.flatten", [str(first)] if last == len(old) - 1 else [str(first), str(last)])
        case ("unflatten", (axis, parts)):
            return call(f"{x}.unflatten", [str(axis), f"({commas(_open(p, parts))})"])
    if len(old) == len(new) and all(map(_same, old, new)):
        return p.tensor(value)
    return call(f"{x}.reshape", list(_open(p, new)))


def _open(p: Printer, shape: Sequence[Dim]) -> list[str]:
    """Sizes as text, with -1 for a multiple of the batch, else for the longest expression that others determine."""
    batch = [i for i, d in enumerate(shape) if isinstance(d, Sym) and d.factor != 1]
    if len(batch) == 1:  # the factor may follow from sizes of the class
        return ["-1" if i == batch[0] else p.size(d).code for i, d in enumerate(shape)]
    texts = [p.size(d) for d in shape]
    composite = [i for i, t in enumerate(texts) if t.level < 7]
    if not composite:
        composite = [i for i, t in enumerate(texts) if "." in t.code or (t.code.isdigit() and int(t.code) > 16)]
    open_axis = composite[-1] if composite and "-1" not in [t.code for t in texts] else None
    return ["-1" if i == open_axis else t.code for i, t in enumerate(texts)]


def _transpose(p: Printer, n: Node) -> Text:
    x, perm = p.tensor(n.inputs[0]).atom, tuple(n.attrs["perm"])
    changed = [i for i, j in enumerate(perm) if i != j]
    if not changed:
        return p.tensor(n.inputs[0])
    if len(changed) == 2:
        return call(f"{x}.transpose", [str(axis) for axis in changed])
    permuted = call(f"{x}.permute", [str(i) for i in perm])
    if perm == _CHANNELS_FIRST and p.convolved(n.outputs[0]):
        return call(f"{permuted.atom}.contiguous", [])
    return permuted


def _broadcast(p: Printer, n: Node) -> Text:
    shape, old = n.attrs["shape"], n.inputs[0].type.shape
    if p.number(n.inputs[0]) and len(n.inputs) > 1:
        other = n.inputs[1]
        dtype = None if other.type.dtype == n.outputs[0].type.dtype else p.dtype(n.outputs[0].type.dtype)
        if tuple(other.type.shape) == tuple(shape):
            return call("torch.full_like", [p.arg(other), p.arg(n.inputs[0])], dtype=dtype)
    lead = len(shape) - len(old)
    sizes = [
        "-1" if i >= lead and not isinstance(old[i - lead], Sym) and _same(old[i - lead], d) else p.size(d).code
        for i, d in enumerate(shape)
    ]
    if sizes[0] == "-1" and isinstance(shape[0], Sym) and len(n.inputs) > 1:
        sizes[0] = f"{p.arg(n.inputs[1]).atom}.shape[0]"
    return call(f"{p.tensor(n.inputs[0]).atom}.expand", sizes)


def _split(p: Printer, n: Node) -> Text:
    x, sizes, axis = p.tensor(n.inputs[0]).atom, n.attrs["sizes"], n.attrs["axis"]
    if all(_same(sizes[0], size) for size in sizes):
        return call(f"{x}.chunk", [str(len(sizes))], dim=axis)
    return call(f"{x}.split", [f"({commas(p.size(s).code for s in sizes)})"], dim=axis)


def _at(rank: int, axis: int, index: str) -> str:
    """The subscript that applies `index` to an axis."""
    axis %= rank
    if axis == rank - 1 and rank > 2:
        return f"[..., {index}]"
    return "[" + ":, " * axis + index + "]"


def _slice(p: Printer, n: Node) -> Text:
    value, start, stop = n.inputs[0], n.attrs["start"], n.attrs["stop"]
    axis = n.attrs["axis"] % value.type.rank
    first = "" if start == 0 else p.size(start).code
    if stop == value.type.shape[axis] and stop - start == 1 and start > 0:
        first = "-1"
    last = "" if stop == value.type.shape[axis] else p.size(stop).code
    return Text(f"{p.tensor(value).atom}{_at(value.type.rank, axis, f'{first}:{last}')}")


def _pad(p: Printer, n: Node) -> Text:
    rank, axis = n.inputs[0].type.rank, n.attrs["axis"]
    after_axes = rank - 1 - axis % rank
    widths = ["0"] * (2 * after_axes) + [p.size(n.attrs["before"]).code, p.size(n.attrs["after"]).code]
    value = n.attrs["value"] or None
    return call("F.pad", [p.tensor(n.inputs[0]), f"({commas(widths)})"], value=value)


def _take(p: Printer, n: Node) -> Text:
    x, index = n.inputs
    axis = n.attrs["axis"] % x.type.rank
    return Text(f"{p.tensor(x).atom}[{':, ' * axis}{p.arg(index).code}]")


def _scatter_add(p: Printer, n: Node) -> Text:
    x, index, update = (p.tensor(v) for v in n.inputs)
    return call(f"{x.atom}.index_add", [str(n.attrs["axis"]), index, update])


def _update_slice(p: Printer, n: Node) -> Text:
    x, update, start = n.inputs
    axis = n.attrs["axis"] % x.type.rank
    rows = update.type.shape[axis]
    where = p.tensor(start)
    if rows == 1:
        index = f"{where.atom}.reshape(1)"
    else:
        index = f"{where.at(SUM)} + torch.arange({p.size(rows).code}, device={p.arg(x).atom}.device)"
    return call(f"{p.arg(x).atom}.index_copy", [str(axis), index, p.arg(update)])


def _full(p: Printer, n: Node) -> Text:
    (like,), out = n.inputs, n.outputs[0].type
    value, x = literal(n.attrs["value"]), p.arg(like)
    if tuple(out.shape) == tuple(like.type.shape) and out.dtype == like.type.dtype:
        return call("torch.full_like", [x, value]) if n.attrs["value"] else call("torch.zeros_like", [x])
    factor = n.attrs.get("factor", 1)
    batch = f"{x.atom}.shape[0]" if factor == 1 else f"{int(factor)} * {x.atom}.shape[0]"
    sizes = [batch, *(p.size(d).code for d in n.attrs["shape"])]
    dtype = None if out.dtype == like.type.dtype else p.dtype(out.dtype)
    if not n.attrs["value"]:
        return call(f"{x.atom}.new_zeros", sizes, dtype=dtype)
    shape = f"({sizes[0]},)" if len(sizes) == 1 else f"({commas(sizes)})"
    return call(f"{x.atom}.new_full", [shape, value], dtype=dtype)


SHAPES: dict[str, Row] = {
    "full": _full,
    "reshape": reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast,
    "concat": lambda p, n: call("torch.cat", [f"[{commas(p.gathered(n.inputs))}]"], dim=n.attrs["axis"]),
    "split": _split,
    "unbind": lambda p, n: call(f"{p.tensor(n.inputs[0]).atom}.unbind", [str(n.attrs["axis"])]),
    "slice": _slice,
    "pad": _pad,
    "take": _take,
    "take_along": lambda p, n: call(f"{p.tensor(n.inputs[0]).atom}.gather", [str(n.attrs["axis"]), p.arg(n.inputs[1])]),
    "scatter_add": _scatter_add,
    "update_slice": _update_slice,
}
