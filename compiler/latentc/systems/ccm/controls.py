"""Controls: what an adapter adds to the outputs of the leading blocks of another network, or to the skips of a U-Net.

Both are made by rewriting that network's `forward`, so that every network with a list of blocks, or with skips that its
decoder concatenates, can be adapted without its knowing. Symbols: B batch, T tokens, D width, C channels.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from latentc.components import layers
from latentc.components.backbone import public
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.listed_blocks import joins, leading_blocks
from latentc.components.kit.methods import OtherMethod
from latentc.ir.builder import BlockBody, Builder, Item, ModuleBuilder, Var, as_tuple, module_class
from latentc.ir.core import Function, Node, Value, live
from latentc.ir.types import Named

CONTROL = "control"
"""The method of an adapter that computes what it adds."""


@module_class("Control", x="B T dim")
def zero_linear(b: Builder, x: Var, *, dim: int) -> Var:
    """A linear layer that starts at zero, so that an adapter changes nothing at first."""
    return b.dense("linear", x, dim, init="zeros", out="control")


@cache
def zero_conv(axes: int) -> BlockBody:
    """The same of maps [B, C, ...] with that many axes: a convolution of single places."""

    @module_class("Control", x=f"B dim {' '.join('DHW'[-axes:])}")
    def control(b: Builder, x: Var, *, dim: int) -> Var:
        return layers.conv(b, "conv", x, dim, 1, "zeros", out="control")

    return control


@dataclass(frozen=True)
class Point:
    """A value to which an adapter adds, as one node reads it, or (None) every node after it."""

    value: Value
    reader: Node | None = None


def control_points(fn: Function) -> list[Point]:
    """Where an adapter adds to a network, in order: the outputs of its blocks of tokens; without these the skips of a
    U-Net as its decoder reads them, the encoder's first output first, and what comes before its decoder.
    """
    if blocks := leading_blocks(fn):
        return [Point(node.outputs[0]) for node in blocks]
    found = joins(fn)
    skips = [Point(join.inputs[1], join) for join in reversed(found)]
    return [*skips, *(Point(join.inputs[0], join) for join in found[:1])]


def control_method(mb: ModuleBuilder, network: str, function: str, ports: tuple[Port, ...], count: int) -> Method:
    """Adds the method of an adapter: a function's nodes up to its first `count` points of control, and a zero layer for
    each of them.

    ValueError: it has fewer.
    """
    fn = mb.functions[function]
    points = control_points(fn)
    if len(points) < count:
        what = (
            "blocks of tokens"
            if leading_blocks(fn)
            else "skip connections into a decoder, including the last block before it"
        )
        held = f"{len(points)} {what}, not {count}" if points else "neither a list of token blocks nor skip connections"
        raise ValueError(f"it has {held}")
    assert fn.origin is not None  # networks are classes
    leading = leading_blocks(fn)[:count]
    taken = [node.attrs["name"].rpartition(".")[0] for node in leading]
    total = Named(count, "controlled")
    counts = {base: Named(taken.count(base), f"controlled_{base}") for base in taken}
    counts = dict.fromkeys(counts, total) if len(counts) == 1 else counts
    own = {size.expr: int(size) for size in (total, *counts.values())} if leading else {}
    origin = replace(fn.origin, cls=f"{fn.origin.cls}Adapter", args={**fn.origin.args, **own})
    doc = "The values added to the outputs of the leading blocks."
    b = OtherMethod(mb, fn.with_(origin=origin), CONTROL, doc)
    missing = {point.value for point in points[:count]} - set(b.env)
    for node in fn.nodes:
        operands = [b.env[v] for v in node.inputs]
        if node in leading:
            base, _, i = node.attrs["name"].rpartition(".")
            out = " ".join(map(_hint, node.outputs))
            name = Item(base, int(i), counts[base])
            outs = as_tuple(b.call(node.attrs["fn"], name, *operands, args=node.attrs["args"], out=out))
        else:
            outs = b.keep(node, operands)
        b.env.update(zip(node.outputs, outs, strict=True))
        missing -= set(node.outputs)
        if not missing:
            break
    results = [b.env[point.value] for point in points[:count]]
    b.output(*(_zero(b, i, x, total) for i, x in enumerate(results)))
    made = mb.functions[b.finish(doc)]
    made = made.with_(nodes=live(made.nodes, made.outputs)).without_unused_params()
    mb.functions[made.name] = made
    mb.entries[f"{network}.{CONTROL}"] = made.name
    return Method(made.name, ports, tuple(Port(v.name, public(v.type), "output") for v in made.outputs))


def _zero(b: Builder, i: int, x: Var, total: Named) -> Var:
    """The zero layer of point number `i`: tokens are alike, and have a list of them; maps have one each."""
    if x.type.rank == 3:
        return b.sub(Item("controls", i, total), zero_linear, x, dim=x.shape[-1], out="added")
    return b.sub(f"control_{i}", zero_conv(x.type.rank - 2), x, dim=x.shape[1], out="added")


def controlled(mb: ModuleBuilder, network: Network, adapter: Network) -> Network:
    """The network with the outputs of an adapter added at its points of control, in every method that has them.

    ValueError: these are of other types than the adapter's outputs.
    """
    controls = adapter.methods[CONTROL].outputs
    methods: dict[str, Method] = dict(network.methods)
    for name, method in network.methods.items():
        fn = mb.functions[method.function]
        points = control_points(fn)[: len(controls)]
        if not points:
            continue
        types = [public(point.value.type) for point in points]
        if types != [port.type for port in controls]:
            raise ValueError(
                f"blocks of its method `{name}` return {types[0]}, but the controls are {controls[0].type}"
            )
        made = _with_controls(mb, fn, points, adapter.name)
        ports = tuple(Port(f"{adapter.name}_{i}", port.type, "control") for i, port in enumerate(controls))
        methods[name] = replace(method, function=made, inputs=(*method.inputs, *ports))
        mb.entries[f"{network.name}.{name}"] = made
    return replace(network, methods=methods, adapters=(*network.adapters, adapter))


def _with_controls(mb: ModuleBuilder, fn: Function, points: Sequence[Point], name: str) -> str:
    """A copy of a function with further inputs `name`_0, …, which it adds at these points."""
    assert fn.origin is not None
    b = OtherMethod(mb, fn, fn.origin.method, fn.doc)
    given = {point: b.input(f"{name}_{i}", point.value.type) for i, point in enumerate(points)}

    def added(x: Var, value: Value, reader: Node | None) -> Var:
        control = given.get(Point(value, reader))
        return x if control is None else b.add(x, control, out=_hint(value))

    for node in fn.nodes:
        outs = b.keep(node, [added(b.env[v], v, node) for v in node.inputs])
        b.env.update({v: added(x, v, None) for v, x in zip(node.outputs, outs, strict=True)})
    b.output(*(b.env[v] for v in fn.outputs))
    return str(b.finish(fn.doc))


def _hint(value: Value) -> str:
    """A value's name without the number that made it unique."""
    return re.sub(r"_\d+$", "", value.name)
