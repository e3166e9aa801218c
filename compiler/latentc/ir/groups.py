"""Runs of equal nodes: the repeated blocks of a network that are one box of a drawing or one line of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from latentc.ir.core import Function, Module, Node, Value, callees, frozen

_LONGEST = 12  # largest number of nodes in a repeated unit
_LEAST = 3  # smallest number of repetitions of a group


@dataclass(frozen=True)
class Group:
    """Consecutive nodes: one, or `times` repetitions of `unit` nodes, each of which reads the one before."""

    nodes: tuple[Node, ...]
    unit: int
    times: int
    name: str


def groups_of(module: Module, fn: Function, hidden: frozenset[str] = frozenset({"constant"})) -> list[Group]:
    """The nodes of a function in order, with repetitions grouped; ops in `hidden` are left out."""
    nodes = [n for n in fn.nodes if n.op not in hidden]
    groups, start = [], 0
    while start < len(nodes):
        unit, times = _repetition(nodes, start)
        part = tuple(nodes[start : start + unit * times])
        groups.append(Group(part, unit, times, _name(part, unit, times)))
        start += unit * times
    return groups


def _repetition(nodes: Sequence[Node], start: int) -> tuple[int, int]:
    """(nodes of the unit, repetitions) that cover most nodes from `start` on; a unit has a call. (1, 1) for none."""
    best = (1, 1)
    for unit in range(1, _LONGEST + 1):
        if start + unit * _LEAST > len(nodes):
            break
        if not any(callees(n) for n in nodes[start : start + unit]):
            continue
        times = 1
        while _continues(nodes, start, unit, times):
            times += 1
        if times >= _LEAST and unit * times > best[0] * best[1]:
            best = (unit, times)
    return best


def _continues(nodes: Sequence[Node], start: int, unit: int, times: int) -> bool:
    """True if repetition `times` matches the first and connects to its predecessor the way the second does."""
    here = start + unit * times
    if here + unit > len(nodes):
        return False
    kinds = [(_kind(nodes[start + i]), _kind(nodes[here + i])) for i in range(unit)]
    if any(a != b for a, b in kinds):
        return False
    model = _wiring(nodes, start + unit, unit)
    return times == 1 or model == _wiring(nodes, here, unit)


def _kind(node: Node) -> Any:
    attrs = {k: v for k, v in node.attrs.items() if k != "name"}
    return node.op, frozen(attrs), tuple(o.type for o in node.outputs)


def _wiring(nodes: Sequence[Node], at: int, unit: int) -> list[list[Any]]:
    """Where each input comes from: (node, output) relative to the unit, or only its type if it is from further away.

    So blocks that each read a cache or a skip connection of their own are still equal.
    """
    places = {
        value: (i - at, k) for i in range(max(0, at - unit), at + unit) for k, value in enumerate(nodes[i].outputs)
    }

    def place(value: Value) -> Any:
        return places.get(value, value.type)

    return [[place(v) for v in nodes[at + i].inputs] for i in range(unit)]


def _name(part: Sequence[Node], unit: int, times: int) -> str:
    """`blocks.0 … blocks.27`, a call's name, a loop's body, or the op."""
    named = [n for n in part if callees(n)]
    if not named:
        return part[0].op
    first = named[0].attrs.get("name") or callees(named[0])[0]
    if times == 1:
        return str(first)
    last = part[(times - 1) * unit :]
    return f"{first} … {next(n for n in last if callees(n)).attrs.get('name') or ''}".rstrip(" …")
