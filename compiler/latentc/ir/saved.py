"""Activations that training keeps for the backward pass: what PyTorch's autograd saves of a loss, per sample.

An op saves what its derivative reads, as the op table's derivatives say; ops that PyTorch computes with one fused
kernel (norms, attention, softmax) save what that kernel's backward pass reads. A tensor is counted once, whichever ops
save it, and a view not at all. Under autocast, matmuls, convolutions and attention save bfloat16 copies of float32
inputs; norms, softmax and reductions compute in float32.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from latentc.ir.builder import ModuleBuilder, Var
from latentc.ir.core import Function, Module, Node, Value, callees, live
from latentc.ir.costs import VIEWS, Costs, bytes_of
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.ops.experts import EXPERTS
from latentc.ir.reverse import Differentiation, Transcript

MATRIX = frozenset({"linear", "matmul", "conv", "conv_transpose", "attention", *EXPERTS})
"""Ops that autocast runs in bfloat16."""

SINGLE = frozenset((
    *("layer_norm", "rms_norm", "group_norm", "softmax", "log_softmax", "logsumexp"),
    *("exp", "log", "sum", "mean", "cumsum"),
))  # fmt: skip
"""Ops that autocast runs in float32."""

# (inputs, outputs) that the backward pass of a fused kernel reads.
_FUSED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "layer_norm": ((0,), ()),
    "rms_norm": ((0,), ()),
    "group_norm": ((0,), ()),
    "batch_norm": ((0,), ()),
    "attention": ((0, 1, 2), (0,)),
    "softmax": ((), (0,)),
    "log_softmax": ((), (0,)),
    "relu": ((), (0,)),
}
_MEMBER = re.compile(r"(?:.*\.)?\d+")  # the name of a call of a module list's member: blocks.3

Flags = tuple[bool, ...]


@dataclass(frozen=True)
class Saved:
    """Saved for the backward pass of one call: bytes of computed values, and which inputs and outputs."""

    bytes: int
    inputs: frozenset[int]
    outputs: frozenset[int]
    backward_flops: int  # operations of the backward pass
    again_flops: int  # operations of blocks whose forward pass runs again
    active: Flags  # outputs that require a gradient
    low: Flags  # outputs in bfloat16


class Activations:
    """Saved activations of the functions of a module.

    `trained` are the networks whose weights get gradients; `autocast` is bf16 training. With `recompute` only the
    inputs of blocks (members of module lists without buffers) are saved, and `block` is the most that one block saves
    when it runs again. With `matrix_only` only what matmuls, convolutions and attention save counts: what a compiler
    cannot recompute at little cost.
    """

    def __init__(
        self,
        module: Module,
        trained: Sequence[str],
        autocast: bool,
        recompute: bool = False,
        matrix_only: bool = False,
    ) -> None:
        self.module = expand_derivatives(module)
        self.trained, self.autocast = frozenset(trained), autocast
        self.recompute, self.matrix_only = recompute, matrix_only
        self.block = 0
        self._work = Differentiation(self.module)
        self._costs = Costs(self.module.functions)
        self._known: dict[tuple[str, Flags, Flags, bool, bool], Saved] = {}

    def of_loss(self, entry: str) -> int:
        """Bytes per sample that one forward pass of a loss saves, the block that runs again included."""
        fn, found = self._loss(entry)
        inputs = sum(bytes_of(fn.inputs[i].type) for i in found.inputs)
        return found.bytes + inputs + self.block

    def flops_of_loss(self, entry: str) -> tuple[int, int, int]:
        """Operations per sample of a loss: forward, backward, and forward passes that run again."""
        fn, found = self._loss(entry)
        return self._costs.flops(fn.name), found.backward_flops, found.again_flops

    def _loss(self, entry: str) -> tuple[Function, Saved]:
        fn = self.module.functions[self.module.entries.get(entry, entry)]
        nothing = (False,) * len(fn.inputs)
        return fn, self.run(fn, nothing, nothing, False, False)

    def run(self, fn: Function, active: Flags, low: Flags, training: bool, inside: bool) -> Saved:
        """Values that `fn` saves if its inputs `active` require gradients and those in `low` are bfloat16.

        `training`: its weights get gradients; `inside`: it is part of a block that runs again.
        """
        key = (fn.name, active, low, training, inside)
        if key not in self._known:
            self._known[key] = _Run(self, fn, active, low, training, inside).result()
        return self._known[key]


class _Run:
    """One run of a function."""

    def __init__(self, of: Activations, fn: Function, active: Flags, low: Flags, training: bool, inside: bool) -> None:
        self.of, self.fn, self.training, self.inside = of, fn, training, inside
        self.params = {p.value for p in fn.params}
        self.active = {v for v, on in zip(fn.inputs, active, strict=True) if on}
        self.active |= {p.value for p in fn.params if training and p.kind == "weight" and p.value.type.is_float}
        self.low = {v for v, on in zip(fn.inputs, low, strict=True) if on}
        self.root: dict[Value, Value] = {}  # view -> the value whose memory it shares
        self.saved: dict[Value, int] = {}
        self.copies = 0  # bytes of copies in another precision
        self.backward = self.again = 0  # operations
        self.constants: set[Value] = set()

    def result(self) -> Saved:
        for node in self.fn.nodes:
            if node.op in CONTROL:
                self._control(node)
            else:
                self._op(node)
        outs = [self.root.get(v, v) for v in self.fn.outputs]
        inputs = {v: i for i, v in enumerate(self.fn.inputs)}
        inner = sum(size for v, size in self.saved.items() if v not in inputs and v not in outs)
        return Saved(
            inner + self.copies,
            frozenset(i for v, i in inputs.items() if v in self.saved),
            frozenset(i for i, v in enumerate(outs) if v in self.saved and v not in inputs),
            self.backward,
            self.again,
            tuple(v in self.active for v in self.fn.outputs),
            tuple(v in self.low for v in self.fn.outputs),
        )

    def _keep(self, value: Value) -> None:
        root = self.root.get(value, value)
        if root not in self.params and root not in self.constants:
            self.saved[root] = bytes_of(root.type) // (2 if root in self.low else 1)

    def _control(self, node: Node) -> None:
        callee, times = self.of.module.functions[callees(node)[0]], self.of._costs._times(node)
        offset = 1 if node.op == "loop" else 0  # a loop's body also takes the number of the step
        active = tuple(v in self.active for v in node.inputs)
        low = tuple(v in self.low for v in node.inputs)
        if node.op == "loop":
            active, low = self.of._work.body_flags(node, active), (False, *low)
        name = str(node.attrs.get("name", ""))
        training = self.training or name.partition(".")[0] in self.of.trained
        block = node.op == "call" and self.of.recompute and not self.inside and self._is_block(name, callee)
        found = self.of.run(callee, active, low, training, self.inside or block)
        self.backward += found.backward_flops * times
        self.again += found.again_flops * times
        if block and any(found.active):
            self.again += self.of._costs.flops(callee.name) * times
            whole = found.bytes + sum(bytes_of(callee.outputs[i].type) for i in found.outputs)
            self.of.block = max(self.of.block, whole * times)
            for value in node.inputs:
                self._keep(value)
        else:
            self.copies += found.bytes * times
            for i in found.inputs:
                if i >= offset:
                    self._keep(node.inputs[i - offset])
        for i, value in enumerate(node.outputs):
            if found.low[i]:
                self.low.add(value)
            if found.active[i]:
                self.active.add(value)
            if i in found.outputs and not block:
                self._keep(value)

    def _is_block(self, name: str, callee: Function) -> bool:
        return _MEMBER.fullmatch(name) is not None and not any(p.kind == "buffer" for p in callee.params)

    def _op(self, node: Node) -> None:
        op, autocast = node.op, self.of.autocast
        matrix, single = autocast and op in MATRIX, autocast and op in SINGLE
        floats = [v for v in node.inputs if v.type.is_float and v.type.rank and v not in self.constants]
        if matrix or (autocast and not single and floats and all(v in self.low for v in floats)):
            self.low.update(v for v in node.outputs if v.type.is_float)
        if not node.inputs:
            self.constants.update(node.outputs)
        drops = op == "dropout" and node.attrs.get("p", 0) > 0
        if op in VIEWS and not drops:
            first = node.inputs[0]
            self.root.update((o, self.root.get(first, first)) for o in node.outputs)
            if first in self.constants:
                self.constants.update(node.outputs)
        active = [v in self.active for v in node.inputs]
        varying = self.of._work.varying(node, active)
        self.active.update(varying)
        if not varying:
            return
        # A matmul's derivative is one matmul per operand that needs a gradient.
        operands = 2 if op == "attention" or op in EXPERTS else sum(active[:2]) if op in MATRIX else 1
        self.backward += operands * self.of._costs.node_flops(node)
        if drops:
            self.copies += node.outputs[0].type.count()  # the mask, one byte per element
            return
        if op in ("drop_path", "training_noise"):  # a factor per sample, or nothing
            return
        if self.of.matrix_only and op not in MATRIX:
            return
        if op in EXPERTS:
            self.copies += self._routed(node)
            return
        inputs, outputs = _FUSED.get(op) or self._read_backward(node, active)
        for i in inputs:
            value = node.inputs[i]
            if value in self.params:
                continue
            if value.type.is_float and matrix and value not in self.low:
                self.copies += bytes_of(value.type) // 2
            elif value.type.is_float and single and value in self.low:
                self.copies += bytes_of(value.type)
            else:
                self._keep(value)
        for i in outputs:
            self._keep(node.outputs[i])

    def _routed(self, node: Node) -> int:
        """Bytes that experts save: per routed token 3 rows of the width and those of the hidden width."""
        tokens, hidden = node.inputs[0].type, int(node.inputs[2].type.shape[1])  # type: ignore[arg-type]
        rows = tokens.count() // int(tokens.shape[-1])  # type: ignore[arg-type]
        elements = int(node.attrs["per_token"] * (3 * tokens.count() + EXPERTS[node.op].kept * rows * hidden))
        return elements * (2 if self.of.autocast else 4)

    def _read_backward(self, node: Node, active: Sequence[bool]) -> tuple[list[int], list[int]]:
        """Numbers of the inputs and outputs that the derivative in the op table reads."""
        vjp = OPS[node.op].vjp
        if vjp is None:  # composite: its first operand, as a fused kernel would keep
            return [0], []
        b = Transcript(ModuleBuilder(), Function("probe", node.inputs, (), (), ()), "probe")
        ins, outs = [Var(v, b) for v in node.inputs], [Var(v, b) for v in node.outputs]
        seeds = [b.variable("d", v.type) for v in node.outputs]
        found = [g.value for g, on in zip(vjp(b, ins, outs, seeds, node.attrs), active, strict=False) if on and g]
        read = set(found)
        for inner in live(b.take_back(0), found):
            read.update(inner.inputs[:1] if inner.op == "broadcast_to" else inner.inputs)  # `like` gives a shape only
        return (
            [i for i, v in enumerate(node.inputs) if v in read],
            [i for i, v in enumerate(node.outputs) if v in read],
        )
