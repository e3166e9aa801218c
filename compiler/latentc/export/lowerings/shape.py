"""Ops that move, select and lay out data."""

from __future__ import annotations

import numpy as np

from latentc.export.graph import ELEMENT
from latentc.export.lowerings.table import TABLE, Context, along, lower
from latentc.ir.types import Sym

TABLE.update({"concat": along("Concat"), "take": along("Gather"), "take_along": along("GatherElements")})


@lower("constant")
def constant(c: Context) -> None:
    # A constant that is a graph's output needs a node; elsewhere its initialiser is used directly.
    c.final("Identity", [c.g.literal(c.attrs["value"], c.attrs["dtype"])])


@lower("full")
def full(c: Context) -> None:
    dtype, shape = c.attrs["dtype"], c.g.dims(c.out_type.shape)
    if dtype == "bf16":  # ONNX Runtime has no CPU kernel for Expand in bf16
        c.final("Cast", [c.tmp("Expand", [c.g.literal(c.attrs["value"], "f32", "scalar"), shape])], to=ELEMENT[dtype])
    else:
        c.final("Expand", [c.g.literal(c.attrs["value"], dtype, "scalar"), shape])


@lower("reshape")
def reshape(c: Context) -> None:
    elements = c.g.elements(c.node.inputs[0])
    if c.is_result:
        c.final_reshape(elements)
    else:
        c.g.view(c.node.outputs[0], elements)


@lower("transpose")
def transpose(c: Context) -> None:
    c.final("Transpose", c.ins, perm=c.attrs["perm"])


@lower("broadcast_to")
def broadcast_to(c: Context) -> None:
    # Expand keeps an axis whose target is 1, so a batch the operand already has needs no run-time size.
    shape, own = c.out_type.shape, c.type().shape
    own = (1,) * (len(shape) - len(own)) + own
    target = [1 if isinstance(d, Sym) and d == o else d for d, o in zip(shape, own, strict=True)]
    c.final("Expand", [c.ins[0], c.g.dims(target)])


@lower("split")
def split(c: Context) -> None:
    sizes, axis = c.attrs["sizes"], c.axis
    if len(sizes) == 1:
        c.final("Identity", c.ins)
    elif all(size == sizes[0] for size in sizes):
        c.g.add("Split", c.ins, c.outs, axis=axis, num_outputs=len(sizes))
    elif any(isinstance(size, Sym) for size in sizes):
        parts = [c.g.dims([size]) for size in sizes]
        c.g.add("Split", [c.ins[0], c.tmp("Concat", parts, axis=0)], c.outs, axis=axis)
    else:
        c.g.add("Split", [c.ins[0], c.g.ints(sizes)], c.outs, axis=axis)


@lower("unbind")
def unbind(c: Context) -> None:
    axis = c.axis
    if len(c.outs) == 1:
        c.final("Squeeze", [c.ins[0], c.g.ints([axis])])
        return
    parts = [c.g.fresh(f"{out}/Split") for out in c.outs]
    c.g.add("Split", c.ins, parts, axis=axis, num_outputs=len(parts))
    for part, out in zip(parts, c.outs, strict=True):
        c.g.add("Squeeze", [part, c.g.ints([axis])], out)


@lower("slice")
def slice_(c: Context) -> None:
    axis = c.axis
    bounds = [c.g.ints([v]) for v in (c.attrs["start"], c.attrs["stop"], axis)]
    c.final("Slice", [c.ins[0], *bounds])


@lower("pad")
def pad(c: Context) -> None:
    axis = c.axis
    widths = c.g.ints([c.attrs["before"], c.attrs["after"]])
    c.final("Pad", [c.ins[0], widths, c.scalar(c.attrs["value"]), c.g.ints([axis])])


@lower("scatter_add")
def scatter_add(c: Context) -> None:
    x, index, update = c.ins
    axis, rank, many = c.axis, c.type().rank, c.type(1).rank
    if axis:  # ScatterND adds whole rows of axis 0, so that axis goes first
        x = c.tmp("Transpose", [x], perm=[axis, *(i for i in range(rank) if i != axis)])
        gathered = range(axis, axis + many)
        update = c.tmp(
            "Transpose", [update], perm=[*gathered, *(i for i in range(rank - 1 + many) if i not in gathered)]
        )
    column = c.tmp("Unsqueeze", [index, c.g.ints([many])])
    if not axis:
        c.final("ScatterND", [x, column, update], reduction="add")
        return
    added = c.tmp("ScatterND", [x, column, update], reduction="add")
    c.final("Transpose", [added], perm=[*range(1, axis + 1), 0, *range(axis + 1, rank)])


@lower("update_slice")
def update_slice(c: Context) -> None:
    """ScatterElements: of the ops that all engines have, the one ONNX Runtime is fastest at.

    24 caches of [B, 12, 256, 64] in a Loop, ms a step at B = 2 and 16: this 6.4 and 32; parts joined by Concat 11 and
    116; Where 12 and 104; TensorScatter (opset 24, not in OpenVINO) 4.8 and 30.
    """
    x, update, start = c.ins
    axis, type = c.axis, c.type(1)

    def rows() -> str:
        count = np.arange(int(type.shape[axis]))  # type: ignore[arg-type]
        column = count.reshape([-1] + [1] * (type.rank - 1 - axis))
        return c.tmp("Expand", [c.tmp("Add", [c.g.literal(column, "i64", "rows"), start]), c.g.dims(type.shape)])

    index = c.g.shared(("rows", start, axis, type), rows)  # the caches of all layers grow by the same rows
    c.final("ScatterElements", [x, index, update], axis=axis)
