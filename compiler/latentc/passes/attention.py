"""Attention as an engine takes it: one operator, or written out as products and a softmax for it to fuse again."""

from __future__ import annotations

from latentc.ir.core import Module, Node, callees
from latentc.passes.decompose import decompose

HEAD_SIZES = (16, 256)
"""Least and largest head size with a TensorRT kernel; a multiple of 8."""


def write_out_attention(module: Module) -> Module:
    """Writes attention out, except causal attention without a mask.

    OpenVINO 2026.4 expands the operator itself and fuses the products again, but first transposes the keys of all heads
    in memory; written out, the transpose becomes part of the product: 5 % of a step of DiT-S/2. Inside a Loop it fuses
    masked attention of one query into a kernel that it cannot build in bfloat16, or that returns nothing; written out,
    the result is right, and no slower.
    """
    return decompose(module, ("attention",), lambda node: len(node.inputs) > 3 or not node.attrs["causal"])


def write_out_attention_without_kernel(module: Module) -> Module:
    """Writes out the attentions that TensorRT has no kernel for: its operator is one kernel or nothing."""
    return decompose(module, ("attention",), lambda node: not has_kernel(node))


def has_kernel(node: Node) -> bool:
    """True if a node is an attention that TensorRT has a kernel for: half precision, and a head size it knows."""
    if node.op != "attention":
        return False
    q = node.inputs[0].type
    size = int(q.shape[-1])  # type: ignore[arg-type]
    return q.dtype != "f32" and size % 8 == 0 and HEAD_SIZES[0] <= size <= HEAD_SIZES[1]


def looped_attentions(module: Module, entry: str) -> int:
    """Number of attentions with a kernel in the bodies of loops that `entry` runs, each body counted once.

    Written out in half precision inside a loop, TensorRT's own matcher fuses them into the same kernels; in float32
    there is none.
    """

    def count(name: str, inside: bool) -> int:
        total = 0
        for node in module.functions[name].nodes:
            total += inside and has_kernel(node)
            total += sum(count(callee, inside or node.op == "loop") for callee in callees(node))
        return total

    return count(module.entries[entry], False)


__all__ = [
    "HEAD_SIZES",
    "has_kernel",
    "looped_attentions",
    "write_out_attention",
    "write_out_attention_without_kernel",
]
