"""The two methods that block caching adds to a network: one also returns what is to be cached, one takes it as input.

The cached tensors are either the sum of what a run of blocks adds to its input, or the results of named parts of each
block (attention, feed-forward; FORA, Selvaraju et al. 2024), to which the block still applies its own gates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import CALLS, Function, Names, Node, Value, live
from latentc.ir.ops.control import call_types

CACHING, CACHED = "forward_caching", "forward_cached"


@dataclass(frozen=True)
class Methods:
    """Names of a network's `forward` and of the functions that replace it; `kept` is the number of cached tensors."""

    network: str
    forward: str
    caching: str
    cached: str
    kept: int

    def replace(self, node: Node) -> bool:
        """True if a node evaluates the network."""
        return node.op in CALLS and node.attrs["fn"] == self.forward and node.attrs["name"] == self.network


def feature_cache_methods(
    owner: ModuleBuilder,
    network: str,
    forward: str,
    blocks: tuple[int, int] | None,
    parts: Sequence[str] = (),
    among: str | None = None,
) -> Methods:
    """Adds the methods that cache blocks `blocks[0]` to `blocks[1] - 1`, or the calls named `parts` in each of them.

    Without `blocks`, `parts` are calls of the network itself. `among` names the list of blocks (default: the only
    list). Raises ValueError for lists, blocks or parts that the network does not have.
    """
    fn = owner.functions[forward]
    if blocks is None:
        if among is not None or not parts:
            lacking = "no `parts`" if among is None else "`among`"
            raise ValueError(f"there is {lacking} without `blocks`: name calls of the network in `parts`")
        caching, cached = _block_methods(owner, fn, parts, f"network `{network}`")
        return Methods(network, forward, caching.name, cached.name, len(caching.outputs) - len(fn.outputs))
    first, last = blocks
    lists = block_lists(fn)
    if among is None and len(lists) != 1:
        held = ", ".join(f"{name} ({len(calls)})" for name, calls in lists.items())
        several = f"several lists of blocks, {held}: name one in `among`" if lists else "no list of blocks"
        raise ValueError(f"network `{network}` has {several}")
    name = next(iter(lists)) if among is None else among
    if name not in lists:
        raise ValueError(f"network `{network}` has no list of blocks `{name}`; it has {', '.join(lists) or 'none'}")
    calls = lists[name]
    if not 0 <= first < last <= len(calls):
        message = f"blocks [{first}, {last}) are out of range: network `{network}` has {len(calls)} {name}"
        raise ValueError(f"{message}, 0 to {len(calls) - 1}")
    what = f"blocks {first} to {last - 1}" if last - first > 1 else f"block {first}"
    if parts:
        caching, cached = _parts_kept(owner, fn, calls[first:last], parts, f"{' and '.join(parts)} of {what}")
    else:
        caching, cached = _sum_kept(owner, fn, calls[first:last], what)
    return Methods(network, forward, caching.name, cached.name, len(caching.outputs) - len(fn.outputs))


def block_lists(fn: Function) -> dict[str, list[Node]]:
    """The calls `NAME.0`, `NAME.1`, … of a function by NAME, in order."""
    lists: dict[str, list[Node]] = {}
    for node in fn.nodes:
        if node.op == "call" and (found := re.fullmatch(r"(.+)\.\d+", node.attrs["name"])):
            lists.setdefault(found[1], []).append(node)
    return lists


def _sum_kept(owner: ModuleBuilder, fn: Function, calls: Sequence[Node], what: str) -> tuple[Function, Function]:
    out = calls[-1].outputs[0]
    into = next((v for v in calls[0].inputs if v.type == out.type), None)
    if into is None:
        raise ValueError(f"the first of {what} has no input of type {out.type}, which the last returns")
    added = Value(_names(fn).fresh("added"), out.type)
    caching = _method(owner, fn, CACHING, f"As forward; also returns what {what} add to their input.")
    caching = caching.with_(nodes=(*fn.nodes, Node("sub", (out, into), (added,))), outputs=(*fn.outputs, added))
    cached = _method(owner, fn, CACHED, f"As forward, with what {what} added before in their place.")
    again = Value(out.name, out.type)
    at = fn.nodes.index(calls[-1])
    after = [replace(n, inputs=tuple(again if v is out else v for v in n.inputs)) for n in fn.nodes[at + 1 :]]
    nodes = (*fn.nodes[:at], Node("add", (into, added), (again,)), *after)
    return _added(owner, caching), _added(owner, _trimmed(cached.with_(inputs=(*fn.inputs, added), nodes=nodes)))


def _parts_kept(
    owner: ModuleBuilder, fn: Function, calls: Sequence[Node], parts: Sequence[str], what: str
) -> tuple[Function, Function]:
    blocks = {name: _block_methods(owner, owner.functions[name], parts) for name in {n.attrs["fn"] for n in calls}}
    names = _names(fn)
    kept: dict[Node, tuple[Value, ...]] = {}
    for node in calls:
        types = call_types(blocks[node.attrs["fn"]][0], [v.type for v in node.inputs])[len(node.outputs) :]
        kept[node] = tuple(Value(names.fresh(part), type) for part, type in zip(parts, types, strict=True))
    every = tuple(v for values in kept.values() for v in values)

    def swapped(take: bool) -> tuple[Node, ...]:
        nodes = []
        for node in fn.nodes:
            if node in kept:
                attrs = {**node.attrs, "fn": blocks[node.attrs["fn"]][take].name}
                ins, outs = (kept[node], ()) if take else ((), kept[node])
                node = replace(node, inputs=(*node.inputs, *ins), outputs=(*node.outputs, *outs), attrs=attrs)
            nodes.append(node)
        return tuple(nodes)

    caching = _method(owner, fn, CACHING, f"As forward; and {what}.")
    cached = _method(owner, fn, CACHED, f"As forward, with {what} as they were before.")
    return (
        _added(owner, caching.with_(nodes=swapped(False), outputs=(*fn.outputs, *every))),
        _added(owner, _trimmed(cached.with_(nodes=swapped(True), inputs=(*fn.inputs, *every)))),
    )


def _block_methods(
    owner: ModuleBuilder, fn: Function, parts: Sequence[str], who: str = "a block"
) -> tuple[Function, Function]:
    """A block that also returns the results of its parts, and one that takes them as inputs."""
    calls = {n.attrs["name"]: n for n in fn.nodes if n.op == "call"}
    if missing := [part for part in parts if part not in calls]:
        raise ValueError(f"{who} has no part {missing[0]!r}; it has {', '.join(calls) or 'none'}")
    results = [calls[part].outputs[0] for part in parts]
    caching = _method(owner, fn, CACHING, f"As forward; and {' and '.join(parts)}.")
    names = _names(fn)
    given = {v: Value(names.fresh(part), v.type) for v, part in zip(results, parts, strict=True)}
    nodes = [replace(n, inputs=tuple(given.get(v, v) for v in n.inputs)) for n in fn.nodes if n.outputs[0] not in given]
    cached = _method(owner, fn, CACHED, f"As forward, with {' and '.join(parts)} as they were before.")
    cached = cached.with_(inputs=(*fn.inputs, *given.values()), nodes=tuple(nodes))
    return _added(owner, caching.with_(outputs=(*fn.outputs, *results))), _added(owner, _trimmed(cached))


def _method(owner: ModuleBuilder, fn: Function, method: str, doc: str) -> Function:
    assert fn.origin is not None  # networks and their blocks are classes
    name = owner.unique(f"{fn.origin.cls}.{method}")
    return fn.with_(name=name, origin=replace(fn.origin, method=method), doc=doc)


def _added(owner: ModuleBuilder, fn: Function) -> Function:
    owner.functions[fn.name] = fn
    return fn


def _trimmed(fn: Function) -> Function:
    """The function without nodes and params that its outputs do not depend on."""
    return fn.with_(nodes=live(fn.nodes, fn.outputs)).without_unused_params()


def _names(fn: Function) -> Names:
    return Names(v.name for v in fn.values())
