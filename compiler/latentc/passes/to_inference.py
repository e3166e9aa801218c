"""Removes training-only ops: dropout and the like become their operand. Names for several ops are written out.

Blocks no longer take what only these ops used, such as the probability of skipping a branch.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, callees, walk
from latentc.ir.ops import OPS
from latentc.passes.rewrite import rewrite

# Ops that are the identity when no gradient is computed, and the rounding of weights in training, in whose place the
# pass `quantize` puts that of the engine.
_IDENTITIES = frozenset(
    {"stop_gradient", "fake_quantize", "fake_quantize_weight", "fake_quantize_nvfp4", "fake_quantize_blocks"}
)


def to_inference(module: Module) -> Module:
    """Brings the module to stage `inference`; returns it unchanged if it has no training-only op and no sugar."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        row = OPS.get(node.op)
        if node.op in _IDENTITIES or (row is not None and row.train_only):
            return operands[:1]
        if node.attrs.get("dropout"):
            attrs = {name: value for name, value in node.attrs.items() if name != "dropout"}
            return b.keep(Node(node.op, node.inputs, node.outputs, attrs, node.loc), operands)
        if row is not None and row.sugar and row.decompose is not None:
            return list(row.decompose(b, operands, node.attrs))
        return None

    return _without_unused(module, rewrite(module, replace))


def _without_unused(before: Module, after: Module) -> Module:
    """The module `after` without the inputs that functions used in `before` and no longer use, if only calls do."""
    elsewhere = {*after.entries.values()}.union(*(callees(node) for _, node in walk(after) if node.op != "call"))
    kept: dict[str, list[int]] = {}
    for name, fn in after.functions.items():
        old = before.functions[name]
        if fn is old or name in elsewhere:
            continue
        used, was = fn.used(), {v for node in old.nodes for v in node.inputs}
        gone = [v in was and new not in used for v, new in zip(old.inputs, fn.inputs, strict=True)]
        if any(gone):
            kept[name] = [i for i, drop in enumerate(gone) if not drop]
    if not kept:
        return after

    def called(node: Node) -> Node:
        if node.op != "call" or node.attrs["fn"] not in kept:
            return node
        ins = tuple(node.inputs[i] for i in kept[node.attrs["fn"]])
        return Node(node.op, ins, node.outputs, node.attrs, node.loc)

    functions = {}
    for name, fn in after.functions.items():
        inputs = tuple(fn.inputs[i] for i in kept.get(name, range(len(fn.inputs))))
        nodes = tuple(called(node) for node in fn.nodes)
        same = len(inputs) == len(fn.inputs) and all(a is b for a, b in zip(nodes, fn.nodes, strict=True))
        functions[name] = fn if same else fn.with_(inputs=inputs, nodes=nodes)
    return after.with_functions(functions)
