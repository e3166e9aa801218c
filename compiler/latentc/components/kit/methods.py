"""Methods added to a network by rewriting its `forward`, so that a technique works with every network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from latentc.components.contract import Method, Network
from latentc.ir.builder import ModuleBuilder, Rewriter
from latentc.ir.core import Function, Node, Value, live


def added_method(mb: ModuleBuilder, network: Network, name: str, method: Method) -> Network:
    """The network with a further method, an entry of the module."""
    mb.entries[f"{network.name}.{name}"] = method.function
    return replace(network, methods={**network.methods, name: method})


class OtherMethod(Rewriter):
    """Builds another method of the class that a function is a method of."""

    def __init__(self, mb: ModuleBuilder, fn: Function, method: str, doc: str) -> None:
        assert fn.origin is not None  # networks and their blocks are classes
        name = mb.unique(f"{fn.origin.cls}.{method}")
        super().__init__(mb, fn.with_(name=name, origin=replace(fn.origin, method=method), doc=doc))
        self.env = self.own_values()


def derived_method(
    mb: ModuleBuilder,
    fn: Function,
    method: str,
    doc: str,
    nodes: Sequence[Node],
    inputs: Sequence[Value],
    outputs: Sequence[Value],
) -> str:
    """Adds a method of the class that `fn` is one of: those of `nodes` that its outputs depend on. Returns its name."""
    assert fn.origin is not None  # networks and their blocks are classes
    name = mb.unique(f"{fn.origin.cls}.{method}")
    made = fn.with_(
        name=name,
        inputs=tuple(inputs),
        nodes=live(nodes, outputs),
        outputs=tuple(outputs),
        origin=replace(fn.origin, method=method),
        doc=doc,
    )
    mb.functions[name] = made.without_unused_params()
    return name
