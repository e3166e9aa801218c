"""Splits queries, keys and values after one transposition of their layer's result, instead of before three.

OpenVINO transposes heads in less time this way. TensorRT-RTX 1.7.1 moves a split of a layer's result into the layer, as
three products, and those of a quantised layer are no longer computed in integers; it does not if the heads are
transposed first.

Symbols: B batch, T tokens, H heads (of all parts together), h heads of one part, D channels of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Uses, Value, live
from latentc.passes.rewrite import rewrite_function

_LAYOUT = (0, 2, 1, 3)


def split_heads_late(module: Module) -> Module:
    """Moves splits of [B, T, H * D] into parts that become [B, h, T, D], after a single transposition of all heads."""
    owner = ModuleBuilder(module)
    return module.with_functions({name: _function(owner, fn) for name, fn in module.functions.items()})


def _function(owner: ModuleBuilder, fn: Function) -> Function:
    uses = Uses(fn)
    parts: dict[Value, Var] = {}  # result of one of the transpositions -> the part that replaces it

    def only_user(value: Value, op: str) -> Node | None:
        found = uses.users.get(value, [])
        return found[0] if len(found) == 1 and found[0].op == op and value not in uses.outputs else None

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.outputs[0] in parts:
            return [parts[node.outputs[0]]]
        if node.op != "split" or node.inputs[0].type.rank != 3 or node.attrs["axis"] % 3 != 2:
            return None
        reshapes = [only_user(o, "reshape") for o in node.outputs]
        transposes = [only_user(n.outputs[0], "transpose") if n else None for n in reshapes]
        last = [n for n in transposes if n is not None and tuple(n.attrs["perm"]) == _LAYOUT]
        shapes = [n.inputs[0].type.shape for n in last]
        if len(last) < len(transposes) or len({s[3] for s in shapes}) != 1:
            return None
        if any(s[:2] != node.inputs[0].type.shape[:2] for s in shapes):  # the reshape changes the tokens too
            return None
        heads = [int(s[2]) for s in shapes]  # type: ignore[arg-type]
        x = b.op("reshape", operands[0], shape=(*shapes[0][:2], sum(heads), shapes[0][3]))
        split = b.split(b.transpose(x, perm=_LAYOUT), axis=1, sizes=tuple(heads))
        parts.update((n.outputs[0], part) for n, part in zip(last, split, strict=True))
        return b.keep(node, operands)

    changed = rewrite_function(owner, fn, replace)
    return changed if changed is fn else changed.with_(nodes=live(changed.nodes, changed.outputs))
