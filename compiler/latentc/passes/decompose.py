"""Decomposes ops that a backend lacks, or runs faster in parts, into simpler ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from latentc.ir.builder import Builder, Var
from latentc.ir.core import Module, Node, callees, reachable
from latentc.ir.ops import OPS, OpError
from latentc.ir.ops.attention import repeated_heads
from latentc.passes.precision import Precision
from latentc.passes.rewrite import rewrite


def decompose(module: Module, ops: Collection[str], which: Callable[[Node], bool] = lambda node: True) -> Module:
    """Decomposes the nodes of `ops` that `which` accepts; returns the module unchanged if there are none.

    Raises OpError for an op that has no decomposition.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op not in ops or not which(node):
            return None
        row = OPS[node.op]
        if row.decompose is None:
            raise OpError(f"{node.op} has no decomposition")
        return list(row.decompose(b, operands, node.attrs))

    # A decomposition may contain another op of the set: that of group norm contains a layer norm.
    while (changed := rewrite(module, replace)) is not module:
        module = changed
    return module


def decompose_in_loops(module: Module, ops: Collection[str], depth: int = 1) -> Module:
    """Decomposes `ops` in the bodies of loops, and in what these call; of loops `depth` deep or deeper."""
    functions = tuple(module.functions)
    for _ in range(depth):
        nodes = [node for name in functions for node in module.functions[name].nodes]
        functions = tuple(reachable(module, tuple(node.attrs["body"] for node in nodes if node.op == "loop")))
    looped = {node for name in functions for node in module.functions[name].nodes if node.op in ops}
    return decompose(module, ops, lambda node: node in looped) if looped else module


def group_norm_by_channels(module: Module, precision: Precision) -> Module:
    """Decomposes group norms into moments per channel, in float32; the module itself if it has none.

    Both CPU engines compute an operator, or its form over flat groups, on planar feature maps [C, H, W], but their
    convolutions on others, so that each norm costs a change of layout. Means over space and one multiplication and
    addition per element exist in every layout. Convolutions of 64 channels at 64 × 64 with norms between them take 54 %
    of the time in OpenVINO 2026.4 and 90 % in ONNX Runtime 1.32 (128 to 512 channels: 94 to 99 %, 94 to 100 %). In
    bfloat16 OpenVINO gains nothing, and would round the moments.

    In float32 OpenVINO 2026.4 also crashes while it compiles the sum of a group norm and an elementwise result, such as
    a residual after a ReLU: a segmentation fault, which no caller can catch.
    """
    if precision != "fp32":
        return module

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "group_norm":
            return None
        x, *affine = operands
        batch, channels, *space = x.shape
        groups = node.attrs["groups"]
        over, column = tuple(range(2, x.type.rank)), (channels, *(1 for _ in space))
        split = (batch, groups, channels // groups)

        def of_group(moment: Var) -> Var:
            """The mean over the channels of each group, for each of them."""
            mean = b.mean(b.reshape(moment, shape=split), axes=(-1,), keepdims=True)
            return b.reshape(b.broadcast_to(mean, moment, shape=split), shape=(batch, *column))

        # Not E[x²] - E[x]², which loses digits where the mean is far from 0.
        centred = x - of_group(b.mean(x, axes=over, keepdims=True))
        scale = b.rsqrt(of_group(b.mean(centred * centred, axes=over, keepdims=True)) + node.attrs["eps"])
        params = [b.reshape(param, shape=column) for param in affine]
        y = centred * (scale * params[0] if params else scale)
        return [y + params[1] if len(params) > 1 else y]

    return rewrite(module, replace)


def without_constant_zeros(module: Module) -> Module:
    """Makes zeros depend on the operand whose batch they have, so that an engine does not take them for constants."""

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        x = operands[0] if node.op == "full" else None
        if x is None or not (x.type.is_float and node.outputs[0].type.is_float) or node.attrs["value"] != 0:
            return None
        nothing = b.mul(b.mean(x, axes=tuple(range(x.type.rank)), keepdims=False), 0.0, out="nothing")
        return [b.op("add", b.op("full", x, **node.attrs), nothing, out=node.outputs[0].name)]

    return rewrite(module, replace)


# ---- attention: one operator, or matmuls and a softmax, which an engine fuses itself

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


def fold_heads(module: Module) -> Module:
    """Moves the heads of attentions with as many queries as heads into the batch; the module itself if it has none.

    For engines that tell the two axes apart by their sizes.
    """

    def replace(b: Builder, node: Node, operands: list[Var]) -> Sequence[Var] | None:
        if node.op != "attention":
            return None
        q, *others = operands
        batch, heads, tokens, _ = q.shape
        if not 1 < int(heads) == int(tokens):  # type: ignore[arg-type]
            return None
        k, v = repeated_heads(b, q, *others[:2])
        rows = batch * int(heads)  # type: ignore[arg-type]
        folded = [b.reshape(x, shape=(rows, 1, *x.shape[2:])) for x in (q, k, v)]
        for mask in others[2:]:
            if any(size != 1 for size in mask.shape[:-2]):
                mask = b.broadcast_to(mask, q, shape=(batch, heads, tokens, k.shape[2]))
                mask = b.reshape(mask, shape=(rows, 1, tokens, k.shape[2]))
            folded.append(mask)
        h = b.attention(*folded, **node.attrs)
        return [b.reshape(h, shape=(batch, heads, tokens, v.shape[3]), out=node.outputs[0].name)]

    return rewrite(module, replace)


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
