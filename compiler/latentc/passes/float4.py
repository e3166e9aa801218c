"""Writes out 4-bit floats for an engine that has none, so that it computes the same numbers in float32."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, Param, Recipe, Value, live, makers
from latentc.ir.ops import OPS
from latentc.passes.rewrite import rewrite

_FLOATS = ("f4e2m1",)


def without_float4(module: Module) -> Module:
    """Dequantises weights of 4-bit floats in advance, and rounds other values by ordinary ops.

    Returns the module unchanged if it has none.
    """
    params = {p.value: p for fn in module.functions.values() for p in fn.params}
    makes = {fn.name: makers(fn.nodes) for fn in module.functions.values()}
    made = {value: node for nodes in makes.values() for value, node in nodes.items()}

    def recipe(value: Value) -> Recipe | Param:
        """How a value that depends on weights alone is computed from them."""
        if value in params:
            return params[value].recipe or params[value]
        node = made[value]
        if node.op == "cast":  # of powers of two as scales, or between floats
            own = recipe(node.inputs[0])
            return own if node.inputs[0].type.is_float else Recipe("block_scales", (own,))
        return Recipe(node.op, tuple(recipe(own) for own in node.inputs), node.attrs)

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op == "dequantize" and node.inputs[0].type.dtype in _FLOATS:
            whole = b.derived(f"{node.inputs[0].name}.unpacked", recipe(node.outputs[0]))  # type: ignore[arg-type]
            dtype = node.outputs[0].type.dtype
            return [whole if whole.type.dtype == dtype else b.cast(whole, to=dtype)]
        decompose = OPS[node.op].decompose if node.op == "fake_quantize_nvfp4" else None
        return None if decompose is None else list(decompose(b, operands, node.attrs))

    changed = rewrite(module, replace)
    if changed is module:
        return module
    functions = {}
    for name, fn in changed.functions.items():
        if fn is not module.functions[name]:
            fn = fn.with_(nodes=live(fn.nodes, fn.outputs)).without_unused_params()
        functions[name] = fn
    return changed.with_functions(functions)
