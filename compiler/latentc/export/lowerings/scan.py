"""The selective scan as ONNX Scan: a graph for one token, whose state stays in the cache.

It is faster than the forms of static shapes in `latentc.ir.ops.scan`, which go through memory several times: 3.2 times
in ONNX Runtime and 1.2 times in OpenVINO for 1024 channels and 258 tokens (benchmarks/selective_scan.py).
"""

from __future__ import annotations

from onnx import GraphProto, TensorProto, helper

from latentc.export.graph import Writer, declare
from latentc.export.lowerings.table import Context, lower
from latentc.ir.types import TensorType


def axis(place: int) -> TensorProto:
    return helper.make_tensor("axis", TensorProto.INT64, [1], [place])


@lower("selective_scan")
def selective_scan(c: Context) -> None:
    x, a = c.type(0), c.type(2)
    batch, _, channels = x.shape
    states = a.shape[1]
    state = TensorType(x.dtype, (batch, channels, states))
    zero = c.g.literal(0.0, x.dtype, "scalar")
    first = c.tmp("Expand", [zero, c.g.dims(state.shape)])
    drive = c.tmp("Mul", [c.ins[1], c.ins[0]])
    inner = Writer(GraphProto(name=c.g.fresh(f"{c.node.outputs[0].name}/token")), c.g.tensors, c.g.root)
    before, rate = inner.fresh("state"), inner.fresh("a")
    step, driven, enter, leave = (inner.fresh(name) for name in ("step", "driven", "enter", "leave"))
    declare(inner.graph.input.add(), before, state)
    declare(inner.graph.input.add(), rate, a)  # in OpenVINO, a Scan cannot read tensors of the enclosing graph
    for name, width in ((step, channels), (driven, channels), (enter, states), (leave, states)):
        declare(inner.graph.input.add(), name, TensorType(x.dtype, (batch, width)))

    def tmp(op: str, *ins: str) -> str:
        return inner.tmp(op, ins, "token")

    last, middle = (inner.add("Constant", [], inner.fresh("axis"), value=axis(place)) for place in (-1, 1))
    decay = tmp("Exp", tmp("Mul", tmp("Unsqueeze", step, last), rate))
    added = tmp("Mul", tmp("Unsqueeze", driven, last), tmp("Unsqueeze", enter, middle))
    after = inner.add("Add", [tmp("Mul", decay, before), added], inner.fresh("state.next"))
    y = inner.add("Squeeze", [tmp("MatMul", after, tmp("Unsqueeze", leave, last)), last], inner.fresh("y"))
    declare(inner.graph.output.add(), after, state)
    declare(inner.graph.output.add(), tmp("Identity", rate), a)
    declare(inner.graph.output.add(), y, TensorType(x.dtype, (batch, channels)))
    c.g.add(
        "Scan",
        [first, c.ins[2], c.ins[1], drive, c.ins[3], c.ins[4]],
        [*(c.g.fresh(f"{c.node.outputs[0].name}/{name}") for name in ("state", "a")), c.out],
        body=inner.graph,
        num_scan_inputs=4,
        scan_input_axes=(1, 1, 1, 1),
        scan_output_axes=(1,),
    )
