"""Queries, keys and values cut out of their layer's result behind its one transposition, not before three.

OpenVINO lays heads out in less time so. TensorRT-RTX 1.7.1 pushes a cut of a layer's result into the layer, as three
products; of a quantised layer these are of integers no more. It leaves the layer alone where heads are laid out first.

Symbols: B batch, T tokens, H heads (of all parts together), D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, live
from latentc.passes.rewrite import rewrite_function

_LAYOUT = (0, 2, 1, 3)


def cut_behind_heads(module: Module) -> Module:
    """The module with cuts of [B, T, H * D] into parts of [B, h, T, D] each behind the transposition of all."""
    owner = ModuleBuilder()
    owner.adopt(module)
    functions = {name: _function(owner, fn) for name, fn in module.functions.items()}
    if all(functions[name] is fn for name, fn in module.functions.items()):
        return module
    return module.with_(functions=functions)


def _function(owner: ModuleBuilder, fn: Function) -> Function:
    users: dict[Value, list[Node]] = {}
    for node in fn.nodes:
        for value in node.inputs:
            users.setdefault(value, []).append(node)
    given = set(fn.outputs)
    parts: dict[Value, Var] = {}  # what the transpositions gave: the parts that take their place

    def only(value: Value, op: str) -> Node | None:
        found = users.get(value, [])
        return found[0] if len(found) == 1 and found[0].op == op and value not in given else None

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.outputs[0] in parts:
            return [parts[node.outputs[0]]]
        if node.op != "split" or node.inputs[0].type.rank != 3 or node.attrs["axis"] % 3 != 2:
            return None
        shaped = [only(o, "reshape") for o in node.outputs]
        turned = [only(n.outputs[0], "transpose") if n else None for n in shaped]
        last = [n for n in turned if n is not None and tuple(n.attrs["perm"]) == _LAYOUT]
        shapes = [n.inputs[0].type.shape for n in last]
        if len(last) < len(turned) or len({s[3] for s in shapes}) != 1:
            return None
        if any(s[:2] != node.inputs[0].type.shape[:2] for s in shapes):  # tokens are laid out anew with the heads
            return None
        heads = [int(s[2]) for s in shapes]  # type: ignore[arg-type]
        x = b.op("reshape", operands[0], shape=(*shapes[0][:2], sum(heads), shapes[0][3]))
        made = b.split(b.transpose(x, perm=_LAYOUT), axis=1, sizes=tuple(heads))
        parts.update((n.outputs[0], part) for n, part in zip(last, made, strict=True))
        return b.keep(node, operands)  # type: ignore[attr-defined, no-any-return]

    made = rewrite_function(owner, fn, replace)
    return made if made is fn else made.with_(nodes=live(made.nodes, made.outputs))
