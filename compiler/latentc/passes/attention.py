"""Attention for TensorRT: as one operator where it takes it, written out where it does not.

Its operator is one kernel or nothing, takes f16 and bf16 alone, heads of certain sizes, and no loop around it. Written
out in half precision inside a loop, the products and the softmax are fused again by its own matcher, into the same
kernels; in f32 there is none.
"""

from __future__ import annotations

from latentc.ir.core import Module, Node, callees, walk
from latentc.passes.decompose import decompose

HEAD_SIZES = (16, 256)
"""Least and largest head that is fused; a multiple of 8."""


def fusable(node: Node) -> bool:
    """Whether a node is an attention for which a kernel exists."""
    if node.op != "attention":
        return False
    q = node.inputs[0].type
    size = int(q.shape[-1])  # type: ignore[arg-type]
    return q.dtype != "f32" and size % 8 == 0 and HEAD_SIZES[0] <= size <= HEAD_SIZES[1]


def write_out_attention(module: Module, keep_loops: bool) -> Module:
    """The module without the attentions that TensorRT refuses; `keep_loops`: its loops stay loops inside the engine.

    Rotary positions are written out with them: as an operator in a loop their shapes are not resolved.
    """
    looped = keep_loops and any(node.op == "loop" for _, node in walk(module))
    if looped:
        return decompose(module, ("attention", "rotary"))
    return decompose(module, ("attention",), lambda node: not fusable(node))


def looped_attentions(module: Module, entry: str) -> int:
    """How many attentions that can be fused stand in the bodies of loops that `entry` runs, each body once."""

    def count(name: str, inside: bool) -> int:
        total = 0
        for node in module.functions[name].nodes:
            total += inside and fusable(node)
            total += sum(count(callee, inside or node.op == "loop") for callee in callees(node))
        return total

    return count(module.entries[entry], False)


__all__ = ["HEAD_SIZES", "fusable", "looped_attentions", "write_out_attention"]
