"""Reductions, softmax, order statistics."""

from __future__ import annotations

from latentc.export.lowerings.table import Context, lower
from latentc.ir.ops.row import axis_of


def _reduction(name: str, op: str) -> None:
    @lower(name)
    def emit(c: Context) -> None:
        axes = [axis_of(a, c.type().rank) for a in c.attrs["axes"]]
        if not axes:
            c.final("Identity", c.ins)
            return
        c.final(op, [c.ins[0], c.g.ints(axes)], keepdims=bool(c.attrs["keepdims"]))


for _name, _op in (("sum", "ReduceSum"), ("mean", "ReduceMean"), ("max", "ReduceMax")):
    _reduction(_name, _op)


@lower("softmax")
def softmax(c: Context) -> None:
    c.final("Softmax", c.ins, axis=axis_of(c.attrs["axis"], c.type().rank))


@lower("log_softmax")
def log_softmax(c: Context) -> None:
    c.final("LogSoftmax", c.ins, axis=axis_of(c.attrs["axis"], c.type().rank))


@lower("argmax")
def argmax(c: Context) -> None:
    c.final("ArgMax", c.ins, axis=axis_of(c.attrs["axis"], c.type().rank), keepdims=0)


@lower("top_k")
def top_k(c: Context) -> None:
    c.g.add("TopK", [c.ins[0], c.g.ints([int(c.attrs["k"])])], c.outs, axis=c.type().rank - 1)


@lower("argsort")
def argsort(c: Context) -> None:
    outs = [c.g.fresh(f"{c.out}/sorted"), c.out]
    size = c.type().shape[-1]
    c.g.add("TopK", [c.ins[0], c.g.ints([int(size)])], outs, axis=c.type().rank - 1, largest=0)  # type: ignore[arg-type]


@lower("cumsum")
def cumsum(c: Context) -> None:
    c.final("CumSum", [c.ins[0], c.g.ints(axis_of(c.attrs["axis"], c.type().rank))])
