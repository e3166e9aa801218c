"""Cleanup: folds constants, removes nodes without effect, shares equal nodes, removes dead ones.

One walk over each distinct function, however often it is called. Functions keep their inputs and params, so no call
changes; functions that no entry reaches are dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from latentc.ir.core import Function, Module, Node, Value, frozen, live, prune
from latentc.ir.interpret import Interpreter
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.types import FLOATS

Array = np.ndarray[Any, Any]

LARGEST = 4096
"""Elements of a folded constant, at most."""


def cleanup(module: Module) -> Module:
    """Cleans every function; returns the module unchanged if there is nothing to do.

    Constants are folded, in float64, if the result has at most `LARGEST` elements. Adding 0.0 counts as no effect,
    although it turns -0.0 into 0.0.
    """
    module = module.with_functions({name: cleaned(fn) for name, fn in module.functions.items()})
    return prune(module) if module.entries else module


def cleaned(fn: Function) -> Function:
    """Cleans one function; returns it unchanged if there is nothing to do."""
    walk = _Walk()
    for node in fn.nodes:
        walk.visit(node)
    outputs = tuple(walk.now(v) for v in fn.outputs)
    nodes = live(walk.nodes, outputs)
    if len(nodes) == len(fn.nodes) and all(a is b for a, b in zip(nodes, fn.nodes, strict=True)):
        return fn
    return fn.with_(nodes=nodes, outputs=outputs)


class _Walk:
    """One walk over a function's nodes."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._replaced: dict[Value, Value] = {}
        self._makers: dict[Value, Node] = {}
        self._known: dict[Any, Node] = {}  # nodes by what they compute
        self._constants: dict[Value, Array] = {}
        self._interpreter = Interpreter(Module({}, {}))

    def now(self, value: Value) -> Value:
        """The value that replaces `value`, or itself."""
        return self._replaced.get(value, value)

    def visit(self, node: Node) -> None:
        ins = tuple([self.now(v) for v in node.inputs])
        if ins != node.inputs:
            node = Node(node.op, ins, node.outputs, node.attrs, node.loc)
        same = self._passed_on(node)
        if same is not None:
            self._replaced[node.outputs[0]] = same
            return
        for new in self._folded(self._joined(node)):
            self._add(new)

    def _add(self, node: Node) -> None:
        if not (node.op in OPS and OPS[node.op].train_only):  # two equal dropouts draw different masks
            # Function and prefix determine a call, however its static arguments were written.
            attrs: Any = (node.attrs["fn"], node.attrs["name"]) if node.op == "call" else frozen(node.attrs)
            key = (node.op, node.inputs, attrs, tuple(o.type for o in node.outputs))
            twin = self._known.setdefault(key, node)
            if twin is not node:
                self._replaced.update(zip(node.outputs, twin.outputs, strict=True))
                return
        self.nodes.append(node)
        self._makers.update((o, node) for o in node.outputs)
        if node.op == "constant":
            self._constants[node.outputs[0]] = self._interpreter.node(node, [])[0]

    def _folded(self, node: Node) -> list[Node]:
        """The node, or its results as constants if all its operands are constants."""
        if node.op in CONTROL or node.op == "constant" or OPS[node.op].evaluate is None:
            return [node]
        if any(v not in self._constants for v in node.inputs) or sum(o.type.count() for o in node.outputs) > LARGEST:
            return [node]
        try:
            with np.errstate(all="ignore"):
                results = self._interpreter.node(node, [self._constants[v] for v in node.inputs])
        except (ValueError, IndexError):  # it fails when it runs, with a better message
            return [node]
        return [
            Node("constant", (), (out,), {"value": _stored(array, out.type.dtype), "dtype": out.type.dtype}, node.loc)
            for out, array in zip(node.outputs, results, strict=True)
        ]

    def _joined(self, node: Node) -> Node:
        """Joins a reshape of a reshape, or a transpose of a transpose, into one."""
        if node.op not in ("reshape", "transpose"):
            return node
        before = self._makers.get(node.inputs[0])
        if before is None or before.op != node.op:
            return node
        attrs = node.attrs
        if node.op == "transpose":
            attrs = {"perm": tuple(before.attrs["perm"][p] for p in attrs["perm"])}
        return Node(node.op, before.inputs, node.outputs, attrs, node.loc)

    def _passed_on(self, node: Node) -> Value | None:
        """The operand that a node returns unchanged, or None."""
        if node.op not in _PASSES_ON or len(node.outputs) != 1:
            return None
        node = self._joined(node)
        for i in _PASSES_ON[node.op]:
            neutral = _NEUTRAL.get(node.op)
            if i < len(node.inputs) and node.inputs[i].type == node.outputs[0].type:
                if neutral is None:
                    if node.op != "transpose" or tuple(node.attrs["perm"]) == tuple(range(node.inputs[0].type.rank)):
                        return node.inputs[i]
                elif self._is_all(node.inputs[1 - i], neutral):
                    return node.inputs[i]
        return None

    def _is_all(self, value: Value, number: int) -> bool:
        """True if every element of a value is known to be `number`."""
        if value in self._constants:
            return bool(np.all(self._constants[value] == number))
        maker = self._makers.get(value)
        return maker is not None and maker.op == "full" and maker.attrs["value"] == number


# op -> numbers of the operands that it passes on if the result has their type (and the other operand is neutral)
_PASSES_ON: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("reshape", "transpose", "broadcast_to", "cast", "slice", "pad", "split"), (0,)),
    "concat": (0,),
    "add": (0, 1),
    "sub": (0,),
    "mul": (0, 1),
    "div": (0,),
}
_NEUTRAL = {"add": 0, "sub": 0, "mul": 1, "div": 1}


def _stored(array: Array, dtype: str) -> Array:
    """An array in the dtype of constants: float64, int64 or bool."""
    return np.asarray(array).astype(np.float64 if dtype in FLOATS else np.bool_ if dtype == "bool" else np.int64)
