"""Costs of functions: FLOPs, memory of activations, bytes of weights read.

Everything is per sample: a run-time size counts as 1. Each distinct function is computed once, however often it is
called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from latentc.ir.core import Function, Module, Node, Value, callees
from latentc.ir.derivatives import DERIVATIVES, expand_derivatives
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.types import NUMPY, Dim, Sym, TensorType, unify

# Ops whose result shares its operand's memory.
VIEWS = frozenset({"reshape", "transpose", "slice", "split", "unbind", "broadcast_to", "stop_gradient", "dropout"})


def bytes_of(type: TensorType) -> int:
    """Memory of a tensor, a run-time size counted as 1."""
    return type.count() * int(NUMPY[type.dtype]().itemsize)


def weight_bytes_read(node: Node, type: TensorType) -> int:
    """Bytes that a node reads of a weight of this type: all, but of a table only rows, which count as nothing."""
    return 0 if node.op in ("embedding", "take") else bytes_of(type)


def flops(module: Module, function: str) -> int:
    """Floating-point operations per sample, a multiply-add as two; guidance counts both branches."""
    return Costs(module.functions).flops(module.entries.get(function, function))


_ONE_NODE = "one node"


class Costs:
    """Costs of functions by name, each computed at first use.

    Views share memory with what they view; attention's scores are not counted.
    """

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self._known: dict[tuple[str, str], int] = {}

    def _once(self, what: str, name: str, compute: Callable[[Function], int]) -> int:
        if (what, name) not in self._known:
            self._known[what, name] = compute(self.functions[name])
        return self._known[what, name]

    def flops(self, name: str) -> int:
        """Operations of one run of a function."""
        return self._once("flops", name, lambda fn: sum(map(self.node_flops, fn.nodes)))

    def node_flops(self, node: Node) -> int:
        if node.op not in CONTROL:
            return OPS[node.op].cost([v.type for v in node.inputs], [v.type for v in node.outputs], node.attrs)
        if node.op in DERIVATIVES:
            return self._expanded(node).flops(_ONE_NODE)
        combine = 3 * sum(o.type.count() for o in node.outputs) if node.op == "guided" else 0
        return combine + self._times(node) * self.flops(callees(node)[0])

    def _expanded(self, node: Node) -> Costs:
        """Costs with a function `_ONE_NODE` that consists of the ordinary nodes a derivative expands to."""
        fn = Function(_ONE_NODE, node.inputs, (), (node,), node.outputs)
        return Costs(expand_derivatives(Module({**self.functions, _ONE_NODE: fn}, {})).functions)

    def weights(self, name: str) -> int:
        """Bytes of weights that one run of a function reads; a weight counts each time a node uses it."""
        return self._once("weights", name, self._weights)

    def _weights(self, fn: Function) -> int:
        params = {p.value for p in fn.params}
        total = 0
        for node in fn.nodes:
            total += sum(weight_bytes_read(node, v.type) for v in node.inputs if v in params)
            if node.op in CONTROL:
                total += int(node.attrs.get("trip", 1)) * self.weights(callees(node)[0])
        return total

    def kept(self, name: str) -> int:
        """Bytes of all values of a function: what training keeps for a backward pass without recomputation."""
        return self._once("kept", name, lambda fn: sum(map(self._node_kept, fn.nodes)))

    def _node_kept(self, node: Node) -> int:
        if node.op in DERIVATIVES:
            return self._expanded(node).kept(_ONE_NODE)
        if node.op in CONTROL:
            return self._times(node) * self.kept(callees(node)[0])
        return 0 if node.op in VIEWS else sum(bytes_of(o.type) for o in node.outputs)

    def peak(self, name: str) -> int:
        """Bytes of the values alive at once, at most: what inference needs besides the weights, without fusion."""
        return self._once("peak", name, self._peak)

    def _peak(self, fn: Function) -> int:
        root: dict[Value, Value] = {}  # view -> the value whose memory it shares
        last: dict[Value, int] = {}
        for index, node in enumerate(fn.nodes):
            if node.op in VIEWS:
                root.update((o, root.get(node.inputs[0], node.inputs[0])) for o in node.outputs)
            last.update((root.get(v, v), index) for v in node.inputs)
        last.update((root.get(v, v), len(fn.nodes)) for v in fn.outputs)
        weights = {p.value for p in fn.params}
        alive = {v: bytes_of(v.type) for v in fn.inputs}
        most = total = sum(alive.values())
        for index, node in enumerate(fn.nodes):
            created = {o: bytes_of(o.type) for o in node.outputs if o not in root}
            most = max(most, total + max(self._peak_inside(node), sum(created.values())))
            alive.update(created)
            total += sum(created.values())
            for value in {root.get(v, v) for v in (*node.inputs, *node.outputs)} - weights:
                if value in alive and last.get(value, -1) <= index:
                    total -= alive.pop(value)
        return most

    def _peak_inside(self, node: Node) -> int:
        """Bytes that a call needs at most, besides its operands."""
        if node.op in DERIVATIVES:
            return self._expanded(node).peak(_ONE_NODE) - sum(bytes_of(v.type) for v in node.inputs)
        if node.op not in CONTROL:
            return 0
        callee = self.functions[callees(node)[0]]
        inside = self.peak(callee.name)
        if node.op != "guided":  # guidance doubles the operands
            inside -= sum(bytes_of(v.type) for v in callee.inputs)
        return inside if node.op == "loop" else inside * self._times(node)

    def _times(self, node: Node) -> int:
        """How often one sample runs what a node calls: trips, branches, or rows that were folded into the batch."""
        if node.op == "loop":
            return int(node.attrs["trip"])
        if node.op == "guided":
            return 2
        sizes: dict[str, Dim] = {}
        for formal, actual in zip(self.functions[callees(node)[0]].inputs, node.inputs, strict=False):
            unify(formal.type, actual.type, sizes)
        return max((s.factor if isinstance(s, Sym) else int(s) for s in sizes.values()), default=1)
