"""Reductions, softmax, order statistics."""

from __future__ import annotations

from latentc.export.lowerings.table import TABLE, Context, Lowering, along, lower
from latentc.ir.ops.row import axis_of


def _reduction(op: str) -> Lowering:
    def emit(c: Context) -> None:
        if axes := [axis_of(a, c.type().rank) for a in c.attrs["axes"]]:
            c.final(op, [c.ins[0], c.g.ints(axes)], keepdims=bool(c.attrs["keepdims"]))
        else:
            c.final("Identity", c.ins)

    return Lowering(emit, 18)


TABLE.update({name: _reduction(f"Reduce{name.title()}") for name in ("sum", "mean", "max")})


TABLE.update({"softmax": along("Softmax"), "log_softmax": along("LogSoftmax"), "argmax": along("ArgMax", keepdims=0)})


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
    c.final("CumSum", [c.ins[0], c.g.ints(c.axis)])
