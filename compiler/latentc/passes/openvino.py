"""What OpenVINO is given in another form than ONNX Runtime."""

from __future__ import annotations

from latentc.ir.core import Module, Node
from latentc.passes.decompose import decompose


def write_out_attention(module: Module) -> Module:
    """The module with its attentions as products and a softmax, but for causal ones without a mask.

    OpenVINO 2026.4 writes the operator out itself and fuses the products again, but transposes the keys of all heads in
    memory before; so written, their transpose becomes part of the product: 5 % of a step of DiT-S/2. It fuses an
    attention of one query with a mask inside a Loop into a kernel that it cannot build in bfloat16, or that gives
    nothing; written out that is right, and no slower.
    """
    return decompose(module, ("attention",), _written)


def _written(node: Node) -> bool:
    return len(node.inputs) > 3 or not node.attrs["causal"]
