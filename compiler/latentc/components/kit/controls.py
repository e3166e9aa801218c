"""Controls: what an adapter adds to the output of each of the leading blocks of another network.

Both are made by rewriting that network's `forward`, so that every network with a list of blocks can be adapted without
its knowing. Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from latentc.components.backbone import public
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.methods import OtherMethod
from latentc.ir.blocks import Item
from latentc.ir.builder import Builder, ModuleBuilder, Var, module_class
from latentc.ir.core import Function, Node, Value, live
from latentc.ir.types import Named
from latentc.ir.var import as_tuple

CONTROL = "control"
"""The method of an adapter that computes what it adds."""


@module_class("Control", x="B T dim")
def zero_linear(b: Builder, x: Var, *, dim: int) -> Var:
    """A linear layer that starts at zero, so that an adapter changes nothing at first."""
    return b.dense("linear", x, dim, init="zeros", out="control")


def leading_blocks(fn: Function) -> list[Node]:
    """The calls of blocks in lists (`blocks.0`, `blocks.1`, …) that return tokens [B, T, D], in order."""
    calls = [n for n in fn.nodes if n.op == "call" and re.fullmatch(r".+\.\d+", n.attrs["name"]) and "count" in n.attrs]
    return [node for node in calls if node.outputs[0].type.rank == 3]


def control_method(mb: ModuleBuilder, network: str, function: str, ports: tuple[Port, ...], blocks: int) -> Method:
    """Adds the method of an adapter: a function's nodes up to block number `blocks` and a zero layer for each block.

    ValueError: it has fewer blocks.
    """
    fn = mb.functions[function]
    leading = leading_blocks(fn)
    if len(leading) < blocks:
        held = f"{len(leading)} blocks of tokens, not {blocks}" if leading else "no list of blocks over tokens"
        raise ValueError(f"it has {held}")
    assert fn.origin is not None  # networks are classes
    taken = [node.attrs["name"].rpartition(".")[0] for node in leading[:blocks]]
    total = Named(blocks, "controlled")
    counts = {base: Named(taken.count(base), f"controlled_{base}") for base in taken}
    counts = dict.fromkeys(counts, total) if len(counts) == 1 else counts
    own = {count.expr: int(count) for count in (total, *counts.values())}
    origin = replace(fn.origin, cls=f"{fn.origin.cls}Adapter", args={**fn.origin.args, **own})
    doc = "What is added to the output of each of the leading blocks."
    b = OtherMethod(mb, fn.with_(origin=origin), CONTROL, doc)
    results: list[Var] = []
    for node in fn.nodes:
        operands = [b.env[v] for v in node.inputs]
        if node in leading:
            base, _, i = node.attrs["name"].rpartition(".")
            out = " ".join(map(_hint, node.outputs))
            name = Item(base, int(i), counts[base])
            outs = as_tuple(b.call(node.attrs["fn"], name, *operands, args=node.attrs["args"], out=out))
            results.append(outs[0])
        else:
            outs = b.keep(node, operands)
        b.env.update(zip(node.outputs, outs, strict=True))
        if len(results) == blocks:
            break
    names = (Item("controls", i, total) for i in range(blocks))
    every = zip(names, results, strict=True)
    b.output(*(b.sub(name, zero_linear, x, dim=x.shape[-1], out="added") for name, x in every))
    made = mb.functions[b.finish(doc)]
    made = made.with_(nodes=live(made.nodes, made.outputs)).without_unused_params()
    mb.functions[made.name] = made
    mb.entries[f"{network}.{CONTROL}"] = made.name
    return Method(made.name, ports, tuple(Port(v.name, public(v.type), "output") for v in made.outputs))


def controlled(mb: ModuleBuilder, network: Network, adapter: Network) -> Network:
    """The network with the outputs of an adapter added to its leading blocks, in every method that calls them.

    ValueError: its blocks return something else than the adapter does.
    """
    controls = adapter.methods[CONTROL].outputs
    methods: dict[str, Method] = dict(network.methods)
    for name, method in network.methods.items():
        fn = mb.functions[method.function]
        blocks = leading_blocks(fn)[: len(controls)]
        if not blocks:
            continue
        types = [public(node.outputs[0].type) for node in blocks]
        if types != [port.type for port in controls]:
            raise ValueError(f"blocks of its method `{name}` return {types[0]}, and controls are {controls[0].type}")
        made = _with_controls(mb, fn, {node: f"{adapter.name}_{i}" for i, node in enumerate(blocks)})
        ports = tuple(Port(f"{adapter.name}_{i}", port.type, "control") for i, port in enumerate(controls))
        methods[name] = replace(method, function=made, inputs=(*method.inputs, *ports))
        mb.entries[f"{network.name}.{name}"] = made
    return replace(network, methods=methods, adapters=(*network.adapters, adapter))


def _with_controls(mb: ModuleBuilder, fn: Function, names: Mapping[Node, str]) -> str:
    """A copy of a function that adds further inputs to the first results of some of its calls."""
    assert fn.origin is not None
    b = OtherMethod(mb, fn, fn.origin.method, fn.doc)
    given = {node: b.input(name, node.outputs[0].type) for node, name in names.items()}
    for node in fn.nodes:
        outs = b.keep(node, [b.env[v] for v in node.inputs])
        if node in given:
            outs = (b.add(outs[0], given[node], out=_hint(node.outputs[0])), *outs[1:])
        b.env.update(zip(node.outputs, outs, strict=True))
    b.output(*(b.env[v] for v in fn.outputs))
    return str(b.finish(fn.doc))


def _hint(value: Value) -> str:
    """A value's name without the number that made it unique."""
    return re.sub(r"_\d+$", "", value.name)


__all__ = ["CONTROL", "control_method", "controlled", "leading_blocks"]
