"""Attention in the form that an engine wants: one operator, or products and a softmax, which it fuses itself."""

from __future__ import annotations

from latentc.ir.core import Module, Node, callees
from latentc.passes.decompose import decompose

HEAD_SIZES = (16, 256)
"""Smallest and largest head size with a TensorRT kernel; sizes are multiples of 8."""


def decompose_attention(module: Module) -> Module:
    """Decomposes attention into products and a softmax, except causal attention without a mask.

    OpenVINO 2026.4 expands the operator itself and fuses the products again, but first transposes the keys of all heads
    in memory; in the decomposed form the transpose becomes part of the product, which saves 5 % of a step of DiT-S/2.
    Inside a Loop it fuses masked attention of one query into a kernel that it cannot build in bfloat16, or that returns
    nothing; the decomposed form is correct and no slower.
    """
    return decompose(module, ("attention",), lambda node: len(node.inputs) > 3 or not node.attrs["causal"])


def decompose_attention_without_kernel(module: Module) -> Module:
    """Decomposes the attentions that TensorRT has no kernel for: its operator is one kernel or nothing."""
    return decompose(module, ("attention",), lambda node: not has_kernel(node))


def has_kernel(node: Node) -> bool:
    """True if a node is an attention with a TensorRT kernel: half precision and a supported head size."""
    if node.op != "attention":
        return False
    q = node.inputs[0].type
    size = int(q.shape[-1])  # type: ignore[arg-type]
    return q.dtype != "f32" and size % 8 == 0 and HEAD_SIZES[0] <= size <= HEAD_SIZES[1]


def looped_attentions(module: Module, entry: str) -> int:
    """Number of attentions with a kernel in the bodies of loops that `entry` runs, each body counted once.

    TensorRT's own matcher fuses their decomposed form inside a loop into the same kernels in half precision; in float32
    there is no such kernel.
    """

    def count(name: str, inside: bool) -> int:
        total = 0
        for node in module.functions[name].nodes:
            total += inside and has_kernel(node)
            total += sum(count(callee, inside or node.op == "loop") for callee in callees(node))
        return total

    return count(module.entries[entry], False)
