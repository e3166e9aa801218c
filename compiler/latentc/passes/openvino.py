"""What OpenVINO is given in another form than ONNX Runtime."""

from __future__ import annotations

from latentc.ir.core import Module
from latentc.passes.decompose import decompose


def write_out_masked_attention(module: Module) -> Module:
    """The module with its masked attentions as products and a softmax; the same object where it has none.

    OpenVINO 2026.4 fuses an attention of one query with a mask inside a Loop into a kernel that it cannot build in
    bfloat16, or that gives nothing. Written out it is right, and no slower for one query.
    """
    return decompose(module, ("attention",), lambda node: len(node.inputs) > 3)
