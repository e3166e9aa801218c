"""How a function uses key-value caches: whether it only appends one row to each and attends to the rows so far.

Symbols: T rows of a cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentc.ir.core import Function, Node, Value, makers


@dataclass
class CacheUse:
    """How a function uses caches among its values.

    `grown` {cache with the new row: the cache}; `cast` {grown cache in another dtype: the grown cache}; `masks` of the
    attentions, computed in the function or passed to it; `position`, the number of the row that is written.
    """

    grown: dict[Value, Value] = field(default_factory=dict)
    cast: dict[Value, Value] = field(default_factory=dict)
    masks: set[Value] = field(default_factory=set)
    position: Value | None = None


def cache_use(functions: Mapping[str, Function], fn: Function, caches: Sequence[Value]) -> CacheUse | None:
    """How `fn` uses `caches`; None if it does anything with them or with a mask that tiling does not know."""
    found = CacheUse()
    positions: set[Value] = set()
    masked: set[tuple[Node, int]] = set()  # (node, number of the operand that is a mask)
    for node in fn.nodes:
        held = [v for v in node.inputs if v in caches or v in found.grown or v in found.cast]
        if not held:
            continue
        if node.op == "update_slice" and held == [node.inputs[0]] and held[0] in caches:
            if node.attrs["axis"] % 4 != 2 or node.inputs[1].type.shape[2] != 1:
                return None
            positions.add(node.inputs[2])
            found.grown[node.outputs[0]] = held[0]
        elif node.op == "cast" and held[0] in found.grown:
            found.cast[node.outputs[0]] = held[0]
        elif node.op == "attention":
            if tuple(held) != node.inputs[1:3] or any(v in caches for v in held) or not _one_query(node):
                return None
            masked.add((node, 3))
        elif node.op == "call":
            callee = functions[node.attrs["fn"]]
            actual = dict(zip(callee.inputs, node.inputs, strict=True))
            inner = cache_use(functions, callee, [formal for formal, v in actual.items() if v in caches])
            if inner is None or not all(v in caches for v in held):
                return None
            if inner.position not in actual:  # a mask may be computed inside, but the position must be passed in
                return None
            positions.add(actual[inner.position])
            masked.update((node, i) for i, formal in enumerate(callee.inputs) if formal in inner.masks)
            returned = zip(node.outputs, callee.outputs, strict=True)
            found.grown.update((o, actual[inner.grown[v]]) for o, v in returned if v in inner.grown)
        else:
            return None
    if len(positions) != 1 or set(found.grown.values()) != set(caches):
        return None
    (found.position,) = positions
    found.masks = {node.inputs[i] for node, i in masked}
    if not found.masks.union(caches, found.cast).isdisjoint(fn.outputs):
        return None
    if masked != {(n, i) for n in fn.nodes for i, v in enumerate(n.inputs) if v in found.masks}:
        return None
    made_by = makers(fn.nodes)
    causal = all(_shows_rows_up_to(mask, found.position, made_by) for mask in found.masks.difference(fn.inputs))
    return found if causal else None


def _one_query(node: Node) -> bool:
    """True for attention of one token in f32, under a mask that is the same for all samples and heads."""
    if len(node.inputs) < 4 or node.attrs["causal"]:
        return False
    q, k, _, mask = (v.type for v in node.inputs)
    return q.shape[2] == 1 and q.dtype == "f32" and mask.dtype == "bool" and mask.shape == (1, 1, 1, k.shape[2])


def _shows_rows_up_to(mask: Value, position: Value, made_by: Mapping[Value, Node]) -> bool:
    """True if a mask [1, 1, 1, T] is computed as `0 … T - 1 <= position`."""
    node = made_by.get(mask)
    if node is not None and node.op == "reshape":
        node = made_by.get(node.inputs[0])
    if node is None or node.op != "less_equal" or node.inputs[1] is not position:
        return False
    rows = made_by.get(node.inputs[0])
    numbers = np.arange(int(mask.type.shape[3]))  # type: ignore[arg-type]
    return rows is not None and rows.op == "constant" and np.array_equal(np.ravel(rows.attrs["value"]), numbers)
