"""Separates weights that are read both plain and transposed, for engines that confuse the two packed forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, Value, callees, join
from latentc.passes.rewrite import rewrite

_TRANSPOSED = {"linear": False, "matmul": True, "conv": False, "conv_transpose": True}
"""{op: True if its weight is [in, out, …] rather than [out, in, …]}; the weight is the second operand."""

Weight = tuple[str, bool]
"""(path of a weight, True if it has been transposed)"""
NONE: Mapping[Value, Weight] = MappingProxyType({})


def separate_shared_weights(module: Module) -> Module:
    """Negates weight and result of nodes that read a weight as [in, out, …] if others read it as [out, in, …].

    The gradient of a linear layer or a convolution is such a node. The result is exactly the same, and the engine sees
    two constants. Returns the module unchanged if no weight is read both ways.
    """
    shared: set[Node] = set()
    for entry in module.entries.values():  # paths are relative to the entry
        reads = list(_reads(module, entry))
        plain = {path for _, path, transposed in reads if not transposed}
        shared |= {node for node, path, transposed in reads if transposed and path in plain}

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node not in shared:
            return None
        x, *weights = operands
        negated = b.op(node.op, x, *(b.neg(weight) for weight in weights), **node.attrs)
        return [b.neg(negated, out=node.outputs[0].name)]

    return rewrite(module, replace) if shared else module


def _reads(
    module: Module, function: str, prefix: str = "", given: Mapping[Value, Weight] = NONE
) -> Iterator[tuple[Node, str, bool]]:
    """(node, path of its weight, True if it reads it as [in, out, …]) for each call that the function reaches.

    `given` are the weights among the function's inputs.
    """
    fn = module.functions[function]
    weights = {**given, **{param.value: (join(prefix, param.name), False) for param in fn.params}}
    for node in fn.nodes:
        known = [weights.get(value) for value in node.inputs]
        if node.op == "transpose" and known[0] and node.attrs["perm"] == (1, 0):
            weights[node.outputs[0]] = known[0][0], not known[0][1]
        elif node.op in _TRANSPOSED and known[1]:
            yield node, known[1][0], _TRANSPOSED[node.op] != known[1][1]
        for name in callees(node):
            inputs = module.functions[name].inputs
            if node.op == "loop":
                inputs = inputs[1 : 1 + node.attrs["invariants"]]  # after the index
            passed = {value: weight for value, weight in zip(inputs, known, strict=False) if weight}
            yield from _reads(module, name, join(prefix, node.attrs.get("name", "")), passed)
