"""Which nodes treat every row of a batch independently, so that the steps of a loop can be rows of one batch.

A batched tensor has one run-time size, its first. Each op has a rule that says when it treats rows independently; an op
without a rule never does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from latentc.ir.core import Function, Node, Value
from latentc.ir.ops import elementwise
from latentc.ir.types import Sym

ELEMENTWISE = frozenset(elementwise.OPS) - {"dropout"}


def batched(value: Value) -> bool:
    """True if axis 0, and no other, has a run-time size."""
    shape = value.type.shape
    return bool(shape) and isinstance(shape[0], Sym) and not any(isinstance(d, Sym) for d in shape[1:])


def fixed(value: Value) -> bool:
    """True if there is no run-time size."""
    return not any(isinstance(d, Sym) for d in value.type.shape)


class Batchwise:
    """Tells whether nodes and functions treat each row of a batch independently, or have no batch at all."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self._known: dict[str, bool] = {}

    def node(self, node: Node) -> bool:
        if not all(batched(v) or fixed(v) for v in (*node.inputs, *node.outputs)):
            return False
        if node.op == "call":
            callee = self.functions[node.attrs["fn"]]
            same = all(batched(f) == batched(a) for f, a in zip(callee.inputs, node.inputs, strict=True))
            sizes = {v.type.shape[0] for v in (*node.inputs, *node.outputs) if batched(v)}
            return same and len(sizes) <= 1 and self.function(callee)
        if not any(map(batched, node.inputs)):
            return node.op not in ("guided", "loop") and all(map(fixed, node.outputs))
        rule = _RULES.get(node.op)
        return rule is not None and all(map(batched, node.outputs)) and rule(node)

    def function(self, fn: Function) -> bool:
        """True if all nodes of a function do, and all its outputs are batched."""
        if fn.name not in self._known:
            self._known[fn.name] = all(map(batched, fn.outputs)) and all(map(self.node, fn.nodes))
        return self._known[fn.name]


def aligned(node: Node) -> bool:
    """True if batched operands have the result's rank, so that broadcasting leaves their batch on axis 0."""
    rank = node.outputs[0].type.rank
    return all(v.type.rank == rank for v in node.inputs if batched(v))


def _inner(node: Node) -> bool:
    """The op works along an axis other than the batch."""
    return bool(node.attrs["axis"] % node.inputs[0].type.rank)


def _inner_axes(node: Node) -> bool:
    rank = node.inputs[0].type.rank
    return all(a % rank for a in node.attrs["axes"])


def _weighted(node: Node) -> bool:
    """The first operand is batched and of rank 2 or more; the others are weights."""
    return node.inputs[0].type.rank > 1 and batched(node.inputs[0]) and not any(map(batched, node.inputs[1:]))


def _same_batch(node: Node) -> bool:
    return node.inputs[0].type.shape[0] == node.outputs[0].type.shape[0]


def _broadcast(node: Node) -> bool:
    """The batch is that of the operand, or of the second operand."""
    x, out = node.inputs[0].type, node.outputs[0].type
    return node.inputs[-1].type.shape[0] == out.shape[0] and (not batched(node.inputs[0]) or x.rank == out.rank)


def _picked(node: Node) -> bool:
    """Rows picked from a fixed table, or along an inner axis by a fixed index."""
    x, index = node.inputs
    if batched(x):
        return not batched(index) and _inner(node)
    return not node.attrs["axis"] % x.type.rank


_RULES: dict[str, Callable[[Node], bool]] = {
    **dict.fromkeys(ELEMENTWISE, aligned),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "batch_norm"), _weighted),
    **dict.fromkeys(("linear", "conv", "conv_transpose"), _weighted),
    **dict.fromkeys(
        ("concat", "split", "slice", "unbind", "pad", "softmax", "log_softmax", "logsumexp", "cumsum"), _inner
    ),
    **dict.fromkeys(("sum", "mean", "max"), _inner_axes),
    "matmul": lambda node: aligned(node) and (node.outputs[0].type.rank > 2 or not batched(node.inputs[1])),
    "attention": aligned,
    **dict.fromkeys(("upsample_nearest", "avg_pool", "max_pool", "grid_sample"), aligned),
    "pixel_norm": _inner,
    "rotary": lambda node: batched(node.inputs[0]) and aligned(node),
    "timestep_embedding": _same_batch,
    "embedding": lambda node: not batched(node.inputs[0]),
    "reshape": _same_batch,
    "transpose": lambda node: node.attrs["perm"][0] == 0,
    "broadcast_to": _broadcast,
    "full": _same_batch,
    "take": _picked,
}
