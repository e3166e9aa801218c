"""Gradients of an entry with respect to weights of the networks it calls: as functions of inputs that hold the weights.

Reverse mode differentiates with respect to inputs. So every function that reads trained weights gets a copy that takes
them as inputs, and every call passes them on; calls under one name share their weights, and so the inputs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from latentc.ir.builder import as_tuple
from latentc.ir.core import Function, Module, Node, Value, join
from latentc.ir.derivatives import expand_derivatives
from latentc.ir.reverse import Differentiation, Tidy
from latentc.ir.types import TensorType


@dataclass(frozen=True)
class WeightGradients:
    """`function` of `module` takes the inputs of an entry, then the weights at `paths`.

    It returns the entry's outputs, then the gradient of output 0 with respect to each of these weights.
    """

    module: Module
    function: str
    paths: tuple[str, ...]


def weight_gradients(
    module: Module, entry: str, networks: Collection[str], tidy: Tidy = lambda fn: fn
) -> WeightGradients:
    """The gradient of output 0 of `entry` with respect to all weights of `networks`, as in inference.

    `module` has no guided calls. `tidy` simplifies each new function. OpError for an op that has no derivative.
    """
    lifting = _Lifting(expand_derivatives(module, tidy), networks)
    name, weights = lifting.function(module.entries[entry], inside=False)
    work = Differentiation(lifting.module, tidy)
    lifted = work.function(name)
    wrt = tuple(i >= len(lifted.inputs) - len(weights) for i in range(len(lifted.inputs)))
    of = tuple(i == 0 for i in range(len(lifted.outputs)))
    pair = work.companions(lifted, of, wrt, (False,) * len(wrt))
    b = work.owner.function(work.owner.unique(f"{entry}.gradients"))
    operands = [b.input(v.name, v.type) for v in lifted.inputs]
    whole = as_tuple(b.call(pair.saving, "", *operands))
    outputs, saved = whole[: len(of)], whole[len(of) :]
    seed = b.fill_like(outputs[0], 1.0)
    found = as_tuple(b.call(pair.vjp, "", *(operands[i] for i in pair.inputs), *saved, seed)) if weights else ()
    b.output(outputs, found)
    name = b.finish()
    return WeightGradients(work.owner.finish(), name, tuple(weights))


class _Lifting:
    """Copies functions with their weights as inputs; networks that are not trained stay as they are."""

    def __init__(self, module: Module, networks: Collection[str]) -> None:
        self.module, self.networks = module, networks
        self._done: dict[tuple[str, bool, int | None], tuple[str, dict[str, TensorType]]] = {}

    def function(self, name: str, inside: bool, place: int | None = None) -> tuple[str, dict[str, TensorType]]:
        """The copy of a function, and the weights {path: type} that it takes before input `place`, or as the last.

        `inside`: it is a part of a trained network. The function itself if it reads no weight of such a network.
        """
        key = (name, inside, place)
        if key not in self._done:
            self._done[key] = self._copied(self.module.functions[name], inside, place)
        return self._done[key]

    def _copied(self, fn: Function, inside: bool, place: int | None) -> tuple[str, dict[str, TensorType]]:
        lifted = {p.name: p.value for p in fn.params if inside and p.kind == "weight"}
        kept = tuple(p for p in fn.params if p.name not in lifted)
        nodes = tuple(self._node(node, inside, lifted) for node in fn.nodes)
        if not lifted:
            return fn.name, {}
        inputs = (*fn.inputs[:place], *lifted.values(), *([] if place is None else fn.inputs[place:]))
        name = f"{fn.name}.lifted{'' if place is None else f'.{place}'}{'.inside' if inside else ''}"
        copy = fn.with_(name=name, inputs=inputs, params=kept, nodes=nodes)
        self.module = self.module.with_functions({**self.module.functions, name: copy})
        return name, {path: value.type for path, value in lifted.items()}

    def _node(self, node: Node, inside: bool, lifted: dict[str, Value]) -> Node:
        """The node with the weights that what it calls takes, which are added to `lifted`."""
        key = {"call": "fn", "loop": "body"}.get(node.op)
        if key is None:
            return node
        callee = self.module.functions[node.attrs[key]]
        if not inside and node.op == "call" and callee.origin is not None:  # a method of a network
            if node.attrs["name"] not in self.networks:
                return node
            inside = True
        fixed = node.attrs["invariants"] if node.op == "loop" else None
        name, weights = self.function(callee.name, inside, None if fixed is None else 1 + fixed)
        if not weights:
            return node
        paths = {join(node.attrs.get("name", ""), path): type for path, type in weights.items()}
        more = [lifted.setdefault(path, Value(path, type)) for path, type in paths.items()]
        attrs = {**node.attrs, key: name}
        if fixed is not None:
            attrs["invariants"] = fixed + len(more)
        operands = (*node.inputs[:fixed], *more, *([] if fixed is None else node.inputs[fixed:]))
        return Node(node.op, operands, node.outputs, attrs, node.loc)
