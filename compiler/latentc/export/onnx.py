"""Flat IR to ONNX: one model from one entry, written node by node with the table of `lowerings`.

No tracing and no torch: the cost is a few protobuf messages per node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import GraphProto, ModelProto, helper

from latentc.export.graph import Tensors, Writer, declare
from latentc.export.lowerings import TABLE, Context, Elements
from latentc.ir.core import Function, Module, Node, Value
from latentc.ir.ops import OPS
from latentc.ir.types import i64
from latentc.passes.decompose import decompose
from latentc.passes.inline import inline

OPSET = 23
"""The default opset: the first with Attention, RMSNormalization and RotaryEmbedding."""

# Legal only at stage train, or operands in their place after it.
_UNUSED: tuple[str, ...] = ("dropout", "drop_path", "training_noise", "auxiliary_loss")
_UNUSED += ("fake_quantize", "fake_quantize_weight", "fake_quantize_blocks")
_BOOL = i64().with_dtype("bool")


def missing_lowerings(opset: int = OPSET) -> set[str]:
    """Ops without a lowering in this opset, which must be decomposed first."""
    return {op for op in OPS if op not in _UNUSED and (op not in TABLE or TABLE[op].opset > opset)}


def flat_module(module: Module, entry: str, unroll: bool = False, opset: int = OPSET) -> Module:
    """The entry ready to be written: ops that the opset lacks are decomposed, then calls are inlined."""
    return inline(decompose(module, missing_lowerings(opset)), entry, unroll)


def onnx_from_module(
    module: Module,
    entry: str,
    tensors: Tensors,
    opset: int = OPSET,
    outputs: Sequence[str] = (),
    name: str = "",
) -> ModelProto:
    """The ONNX model of a flat module's entry.

    Inputs have the entry's names, outputs those in `outputs`, by default the entry's. Run-time sizes are symbolic
    dimensions. Raises KeyError for an op in `missing_lowerings(opset)`.
    """
    fn = module.entry(entry)
    own = [helper.make_opsetid("", opset)]
    model = ModelProto(producer_name="latentc", ir_version=helper.find_min_ir_version_for(own))
    model.opset_import.extend(own)
    model.graph.name = name or entry
    g = Writer(model.graph, tensors)
    for value in fn.inputs:
        declare(g.graph.input.add(), g.define(value), value.type)
    names = [g.fresh(name) for name in outputs] or [g.fresh(v.name) if v not in g.names else "" for v in fn.outputs]
    _body(g, module, fn, names)
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in sorted(g.domains))
    return model


def _body(g: Writer, module: Module, fn: Function, results: Sequence[str]) -> None:
    """Writes a function's nodes and declares its outputs under the names `results`."""
    own = set(fn.inputs) | {p.value for p in fn.params}
    wanted: dict[Value, str] = {}
    for value, name in zip(fn.outputs, results, strict=True):
        # Each output needs a node of this graph, also if a value is returned twice.
        if value not in own and value not in wanted:
            wanted[value] = name
    for param in fn.params:
        g.bind(param.value, g.weight(param.name, param))
    for node in fn.nodes:
        if node.op == "constant" and node.outputs[0] not in wanted:
            g.bind(node.outputs[0], g.literal(node.attrs["value"], node.attrs["dtype"]))
        elif node.op == "loop":
            _loop(g, module, node, wanted)
        else:
            _lower(Context(g, node, wanted))
    for value, name in zip(fn.outputs, results, strict=True):
        final = name or g.fresh(f"{value.name}.out")
        if wanted.get(value) != name:
            g.add("Identity", [g.name(value)], final)
        declare(g.graph.output.add(), final, value.type)


def _lower(c: Context) -> None:
    """Writes one node. An elementwise op on a view is applied to the view's elements, without a Reshape before it."""
    lowering, out = TABLE[c.node.op], c.node.outputs[0]
    if not lowering.unary or c.is_result or c.node.inputs[0] in c.g.names or "axis" in c.attrs:
        lowering.emit(c)
        return
    source = c.g.elements(c.node.inputs[0])
    name = c.g.fresh(f"{out.name}/elements")
    lowering.emit(Elements(c.g, c.node, c.results, source, name))
    c.g.view(out, name, c.g.width(source))


def _loop(g: Writer, module: Module, node: Node, wanted: Mapping[Value, str]) -> None:
    """ONNX Loop with a constant trip count. Its condition is that of `until`, or else always true."""
    keep, carry = node.attrs["invariants"], node.attrs["carried"]
    body = module.functions[node.attrs["body"]]
    inner = Writer(GraphProto(name=g.fresh(body.name)), g.tensors, g.root)
    ins = [g.name(v) for v in node.inputs]
    index, invariants, state, rows = (
        body.inputs[0],
        body.inputs[1 : 1 + keep],
        body.inputs[1 + keep : 1 + keep + carry],
        body.inputs[1 + keep + carry :],
    )
    condition = inner.fresh("condition")
    declare(inner.graph.input.add(), inner.define(index), i64())
    declare(inner.graph.input.add(), condition, _BOOL)
    for value in state:
        declare(inner.graph.input.add(), inner.define(value), value.type)
    for value, outer in zip(invariants, ins[:keep], strict=True):
        inner.bind(value, outer)  # a body can read tensors of enclosing graphs
    for value, table in zip(rows, ins[keep + carry :], strict=True):
        inner.bind(value, inner.add("Gather", [table, inner.names[index]], inner.fresh(value.name), axis=0))
    news = [inner.fresh(f"{v.name}.next") for v in body.outputs]
    until = node.attrs.get("until")
    op, of = ("Identity", condition) if until is None else ("Not", news[until])
    further = inner.fresh(f"condition/{op}")
    declare(inner.graph.output.add(), further, _BOOL)
    _body(inner, module, body, news)
    inner.add(op, [of], further)
    outs = [g.define(v, wanted.get(v)) for v in node.outputs]
    always = g.literal(np.asarray(True), "bool", "true")
    g.add("Loop", [g.ints(int(node.attrs["trip"])), always, *ins[keep : keep + carry]], outs, body=inner.graph)
