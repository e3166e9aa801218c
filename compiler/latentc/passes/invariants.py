"""Lets loops carry invariants that an engine may overwrite.

A body may get its invariants in memory of its own, filled once before the first trip. OpenVINO writes there in place
where nothing else reads the operand of a softmax or an elementwise kernel: from the second trip on the invariant is
another. What a loop carries is filled again before every trip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from latentc.ir.core import Function, Module, Names, Node, Value, callees, in_order, reachable
from latentc.ir.types import Sym, TensorType

_VIEWS = frozenset({"reshape", "transpose", "slice", "split", "unbind", "broadcast_to", "cast"})
"""Ops whose results may lie in their operand's memory."""

_READERS = frozenset(
    {"linear", "linear_blocks", "linear_int8", "linear_int8_dynamic", "matmul", "expert", "experts", "conv"}
    | {"conv_transpose", "attention", "take", "take_along", "embedding", "concat", "pad", "resize", "max_pool"}
    | {"grid_sample"}
)
"""Ops that never write to an operand's memory, though their result may have its size."""


def carry_invariants(module: Module, depth: int = 1) -> Module:
    """Makes loops `depth` deep or deeper carry the invariants that their bodies may overwrite.

    A loop's own weights stay: engines take them for constants. Returns the module unchanged if nothing changes.
    """
    places = tuple(module.functions)
    for _ in range(depth - 1):
        looped = (node for name in places for node in module.functions[name].nodes if node.op == "loop")
        places = tuple(reachable(module, tuple(node.attrs["body"] for node in looped)))
    functions, names, written = dict(module.functions), Names(module.functions), dict[str, Set[int]]()
    for name in reachable(module, tuple(functions)):
        fn = functions[name]
        written[name] = set(_written(fn, written))
        if name in places:
            values = Names(value.name for value in fn.values())
            nodes = tuple(_carrying(node, fn, functions, names, values, written) for node in fn.nodes)
            functions[name] = fn if nodes == fn.nodes else fn.with_(nodes=nodes)
    changed = module.with_functions(functions)
    return module if changed is module else in_order(changed)


def _written(fn: Function, written: Mapping[str, Set[int]]) -> Iterator[int]:
    """The inputs of a function whose memory one of its nodes may overwrite."""
    source = {value: i for i, value in enumerate(fn.inputs)}
    for node in fn.nodes:
        at = [(place, source[value]) for place, value in enumerate(node.inputs) if value in source]
        if node.op in _VIEWS:
            source.update(dict.fromkeys(node.outputs, at[0][1]) if at else {})
        elif node.op == "call":
            yield from (i for place, i in at if place in written[node.attrs["fn"]])
        elif node.op not in _READERS and not callees(node):
            results = {_size(o.type) for o in node.outputs}
            yield from (i for place, i in at if _size(node.inputs[place].type) in results)


def _size(type: TensorType) -> tuple[int, tuple[str, ...]]:
    """The number of elements: a factor, and run-time sizes."""
    factor = math.prod(d.factor if isinstance(d, Sym) else int(d) for d in type.shape)
    return factor, tuple(sorted(d.name for d in type.shape if isinstance(d, Sym)))


def _carrying(
    node: Node,
    fn: Function,
    functions: dict[str, Function],
    names: Names,
    values: Names,
    written: Mapping[str, Set[int]],
) -> Node:
    """A loop that carries what its body, a new one in `functions`, may overwrite; any other node as it is.

    `names` and `values`: those of functions, and those in `fn`.
    """
    if node.op != "loop" or node.attrs["trip"] < 2:
        return node
    body, keep, carry = functions[node.attrs["body"]], node.attrs["invariants"], node.attrs["carried"]
    weights = {param.value for param in fn.params}
    moved = [j for j in range(keep) if 1 + j in written[body.name] and node.inputs[j] not in weights]
    if not moved:
        return node
    still = [j for j in range(keep) if j not in moved]

    def arranged(values: tuple[Value, ...]) -> tuple[Value, ...]:
        """Invariants, carried values and tables, with the moved ones after the carried ones."""
        first = keep + carry
        return (*(values[j] for j in still), *values[keep:first], *(values[j] for j in moved), *values[first:])

    index, *inputs = body.inputs
    kept = tuple(inputs[j] for j in moved)
    new = body.with_(
        name=names.fresh(body.name),
        inputs=(index, *arranged(tuple(inputs))),
        outputs=(*body.outputs[:carry], *kept, *body.outputs[carry:]),
    )
    functions[new.name] = new
    outputs = (*node.outputs[:carry], *(Value(values.fresh(v.name), v.type) for v in kept), *node.outputs[carry:])
    attrs = {**node.attrs, "body": new.name, "invariants": len(still), "carried": carry + len(moved)}
    return replace(node, inputs=arranged(node.inputs), outputs=outputs, attrs=attrs)
