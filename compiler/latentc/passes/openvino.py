"""What OpenVINO is given in another form than ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node
from latentc.passes.decompose import decompose
from latentc.passes.precision import Precision
from latentc.passes.rewrite import rewrite


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


GELU_FORMS = 4.74e-4
"""How far apart GELU and its tanh form are at most, whatever x is: at |x| = 2.7."""


def gelu_by_error_function(module: Module, arithmetic: Precision) -> Module:
    """The module with GELU itself for its tanh form where the engine computes in bfloat16; the same object for fp32.

    The tanh form was made for where erf is dear. Behind a product OpenVINO 2026.4 takes 1.4 ms of one core for 3.1
    million of it, and 0.75 ms for as many of the other: 6 % of a step of DiT-S/2. They are never farther apart than
    GELU_FORMS, as much as bfloat16 rounds off a number between 1/8 and 1/4, so that the network's error stays what it
    is: 3.6e-2 before and after, with random weights.
    """
    return module if arithmetic == "fp32" else rewrite(module, _by_error_function)


def _by_error_function(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
    if node.op != "gelu" or node.attrs["approximate"] != "tanh":
        return None
    return [b.gelu(*operands, approximate="none", out=node.outputs[0].name)]
