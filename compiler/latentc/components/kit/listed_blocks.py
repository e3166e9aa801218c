"""The calls in a network's `forward` that are its blocks, and those that join the skips of a U-Net."""

from __future__ import annotations

import re

from latentc.ir.core import Function, Node, Value


def leading_blocks(fn: Function) -> list[Node]:
    """The calls of blocks in lists (`blocks.0`, `blocks.1`, …) that return tokens [B, T, D], in order."""
    return [node for node in fn.nodes if in_list(node) and node.outputs[0].type.rank == 3]


def in_list(node: Node) -> bool:
    """True if it calls an item of a list, such as `blocks.0`."""
    return node.op == "call" and bool(re.fullmatch(r".+\.\d+", node.attrs["name"])) and "count" in node.attrs


def joins(fn: Function) -> list[Node]:
    """The nodes that concatenate channels with a skip: earlier ones, of which the first follow."""
    before: dict[Value, set[Value]] = {}
    found: list[Node] = []
    for node in fn.nodes:
        earlier = set(node.inputs).union(*(before.get(v, ()) for v in node.inputs))
        before |= dict.fromkeys(node.outputs, earlier)
        if node.op in ("concat", "mp_concat") and node.attrs["axis"] == 1 and len(node.inputs) == 2:
            x, skip = node.inputs
            found += [node] if skip in before.get(x, ()) else []
    return found
