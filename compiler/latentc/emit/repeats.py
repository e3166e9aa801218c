"""Runs of a repeated pattern in a function's nodes: `blocks.0`, `blocks.1`, … as one loop.

A run consists of equal segments, one per call of `blocks.i`. An operand of a segment is computed inside it, is the same
in all segments (invariant), is an output of the previous segment (carried), or differs (indexed). Lists of lists, such
as the levels of a U-Net, are runs of runs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from latentc.ir.core import Node, Value

PURE_EXCEPT = ("dropout", "drop_path", "training_noise", "call", "guided", "loop")


@dataclass(frozen=True)
class Carried:
    """A value handed from segment to segment.

    `given` to the template and `made` by it; `first` is the value before the run, `last` the one after it.
    """

    given: Value
    made: Value
    first: Value
    last: Value


@dataclass(frozen=True)
class Repeat:
    """`count` segments like the template `nodes` (the second one).

    lists: (path of a list of modules, index of its first module in the run); each segment calls one module of each, or
    is a run over it.
    indexed: (value in the template, its value in each segment).
    made: (output of the template, that output of each segment); of these
    escapes: are needed from every segment, `pushed` is put on the stack by each.
    popped: the value in the template that each segment takes from the stack.
    backwards: the modules are called in reverse order.
    """

    lists: tuple[tuple[str, int], ...]
    count: int
    nodes: tuple[Node | Repeat, ...]
    carried: tuple[Carried, ...]
    indexed: tuple[tuple[Value, tuple[Value, ...]], ...]
    made: tuple[tuple[Value, tuple[Value, ...]], ...]
    invariants: tuple[Value, ...]
    escapes: tuple[tuple[Value, tuple[Value, ...]], ...]
    pushed: Value | None = None
    popped: Value | None = None
    backwards: bool = False

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The values of the last segment."""
        return tuple(column[-1] for _, column in self.made)

    @property
    def of_lists(self) -> bool:
        """True if each segment runs over lists of its own."""
        return any(isinstance(item, Repeat) for item in self.nodes)

    @property
    def pushes(self) -> bool:
        """True if a segment puts something on the stack."""
        return self.pushed is not None or any(isinstance(item, Repeat) and item.pushes for item in self.nodes)


def without_duplicates(nodes: Sequence[Node]) -> tuple[list[Node], dict[Value, Value]]:
    """Nodes without duplicates and reshapes that change nothing; and {dropped value: the one that replaces it}."""
    seen: dict[Any, tuple[Value, ...]] = {}
    same: dict[Value, Value] = {}
    kept: list[Node] = []
    for node in nodes:
        inputs = tuple(same.get(v, v) for v in node.inputs)
        if node.op == "reshape" and tuple(node.attrs["shape"]) == tuple(inputs[0].type.shape):
            same[node.outputs[0]] = inputs[0]
            continue
        if node.op not in PURE_EXCEPT and not node.attrs.get("dropout"):
            attrs = tuple((k, _hashable(v)) for k, v in sorted(node.attrs.items()))
            key = (node.op, inputs, attrs)
            if key in seen:
                same.update(zip(node.outputs, seen[key], strict=True))
                continue
            seen[key] = node.outputs
        kept.append(Node(node.op, inputs, node.outputs, node.attrs, node.loc))
    return kept, same


def _hashable(value: Any) -> Any:
    if hasattr(value, "tobytes"):
        return (str(value.dtype), value.shape, value.tobytes())
    return repr(value)


# Ops whose text does not depend on sizes.
_SIZE_FREE = frozenset(("concat", "mp_concat", "add", "mp_sum", "sub", "mul", "silu", "relu", "gelu", "tanh", "call"))
_SIZE_FREE |= {"avg_pool", "upsample_nearest", "leaf"}


def fold_repeats(nodes: Sequence[Node], outputs: Sequence[Value], method: Callable[[str], str]) -> list[Node | Repeat]:
    """The nodes, with each run of two or more segments replaced by a Repeat.

    `method(function)` is the name it is called by; the modules of one list may have different classes.
    """
    items: list[Node | Repeat] = list(nodes)
    for base in _bases(nodes):
        left: range | None = None  # the last module of the previous run, if that is a loop without it
        for numbers in _runs(nodes, base, outputs, method):
            longer = range(left.start, numbers.stop) if left and left.stop == numbers.start else None
            shorter = numbers[:-1] if len(numbers) > 2 else None
            left = None
            for tried in (longer, numbers, shorter):
                found = None if tried is None else _find(items, base, tried, outputs, method)
                if found is not None:
                    start, stop, repeat = found
                    items[start:stop] = [repeat]
                    left = numbers[-1:] if tried is shorter and numbers.step == 1 else None
                    break
    return items


def _bases(nodes: Sequence[Node]) -> list[str]:
    """Module lists that calls go to: `blocks` of `blocks.0`."""
    bases: dict[str, None] = {}
    for node in nodes:
        if node.op == "call" and (m := re.fullmatch(r"(.+)\.(\d+)", node.attrs["name"])):
            bases[m[1]] = None
    return list(bases)


def fold_levels(
    items: Sequence[Node | Repeat],
    pushed: set[Value],
    outputs: Sequence[Value],
    method: Callable[[str], str],
    whole: Callable[[Repeat], bool],
) -> tuple[list[Node | Repeat], set[Value]]:
    """The items, with the runs over the lists of a list (`enc.0`, `enc.1`, …) and what is between them as one run.

    `pushed` are the values that plain nodes push on the stack. `whole(run)`: the run is over all modules of its lists.
    Such runs may hand each other what their segments compute by the stack, if no others use it. Also returns the values
    that plain nodes push then.
    """

    order = _order(items)

    def regular(run: Repeat) -> bool:
        inner = [n for n in run.nodes if isinstance(n, Repeat)]
        listed = run.escapes or any(n.escapes or n.indexed for n in inner)
        return not listed and all(len({v in pushed for v in column}) == 1 for _, column in run.made)

    if not _pops(items):
        stacked, own = with_stack(_fold_levels(items, outputs, method, whole, lambda run: True))
        if _pops(stacked) and all(regular(item) for item in stacked if isinstance(item, Repeat) and item.of_lists):
            return stacked, own

    def without_skips(run: Repeat) -> bool:
        return regular(run) and not any(_falls(column, order) for _, column in run.indexed)

    return _fold_levels(items, outputs, method, whole, without_skips), pushed


def _fold_levels(
    items: Sequence[Node | Repeat],
    outputs: Sequence[Value],
    method: Callable[[str], str],
    whole: Callable[[Repeat], bool],
    wanted: Callable[[Repeat], bool],
) -> list[Node | Repeat]:
    result = list(items)
    paths = [path_of(item).rpartition(".") for item in items if isinstance(item, Repeat) and whole(item)]
    for base in dict.fromkeys(base for base, _, number in paths if base and number.isdigit()):
        found = [int(number) for of, _, number in paths if of == base]
        numbers = range(found[0], found[-1] + (1 if found[-1] >= found[0] else -1), 1 if found[-1] >= found[0] else -1)
        for tried in (numbers, numbers[1:], numbers[:-1], numbers[1:-1]) if [*numbers] == found else ():
            run = _find(result, base, tried, outputs, method)
            if run is not None and wanted(run[2]):
                start, stop, repeat = run
                result[start:stop] = [repeat]
                break
    return result


def path_of(item: Node | Repeat) -> str:
    """The path of the module that an item calls, or of the list that it runs over; empty for other items."""
    if isinstance(item, Repeat):
        return item.lists[0][0] if len(item.lists) == 1 else ""
    return item.attrs["name"] if item.op in ("call", "leaf") else ""


def _number(item: Node | Repeat, base: str) -> int | None:
    """The index in a module list of the module that an item calls, or runs over."""
    found = re.fullmatch(re.escape(base) + r"\.(\d+)", path_of(item))
    return int(found[1]) if found else None


def _runs(nodes: Sequence[Node], base: str, outputs: Sequence[Value], method: Callable[[str], str]) -> list[range]:
    """Module indices that may form one loop: consecutive, ascending or descending.

    A run ends at a module whose result is also read later, unless that holds for every module (the skips of a U-Net):
    then the loop collects all results in a list. It also ends where more or less than usual comes between two modules.
    """
    places = [(i, number) for i, node in enumerate(nodes) if (number := _number(node, base)) is not None]
    last = {v: i for i, node in enumerate(nodes) for v in node.inputs} | dict.fromkeys(outputs, len(nodes))
    cuts = {number for (i, number), (j, _) in pairwise(places) if last.get(nodes[i].outputs[0], 0) > j}
    if len(cuts) == len(places) - 1:
        cuts = set()
    gaps = Counter(j - i for (i, _), (j, _) in pairwise(places))
    usual = max(gaps, key=lambda gap: gaps[gap], default=0)
    unusual = {number: j - i for (i, number), (j, _) in pairwise(places) if j - i != usual}
    # Modules with the same unusual number of nodes between them form their own run.
    cuts |= {number for number, gap in unusual.items() if unusual.get(number - 1) != gap}
    called = {i: method(nodes[i].attrs["fn"]) for i, _ in places}
    cuts |= {number for (i, number), (j, _) in pairwise(places) if called[i] != called[j]}
    runs: list[range] = []
    for _, number in places:
        before = runs[-1][-1] if runs else None
        step = number - before if before is not None else 0
        if before not in cuts and abs(step) == 1 and (len(runs[-1]) == 1 or runs[-1].step == step):
            runs[-1] = range(runs[-1].start, number + step, step)
        else:
            runs.append(range(number, number + 1))
    return runs


def _find(
    items: list[Node | Repeat], base: str, numbers: range, outputs: Sequence[Value], method: Callable[[str], str]
) -> tuple[int, int, Repeat] | None:
    places = [i for i, item in enumerate(items) if _number(item, base) in numbers]
    count = len(places)
    if count < 2 or count != len(numbers):
        return None
    length = places[1] - places[0]
    if any(b - a != length for a, b in pairwise(places)):
        return None
    for lead in range(length):
        start = places[0] - lead
        stop = start + length * count
        if start < 0 or stop > len(items):
            continue
        run = items[start:stop]
        segments = [run[k * length : (k + 1) * length] for k in range(count)]
        outside = [*items[:start], *items[stop:]]
        repeat = _repeat(segments, numbers.step, outside, outputs, method)
        if repeat is not None:
            return start, stop, repeat
    return None


def plain(items: Sequence[Node | Repeat]) -> list[Node]:
    """The nodes of all items."""
    return [n for item in items for n in (plain(item.nodes) if isinstance(item, Repeat) else [item])]


def _signature(item: Node | Repeat, varies: bool, method: Callable[[str], str], free: bool) -> Any:
    """A key that is the same in all segments; `varies`: the segments call different modules here."""
    if isinstance(item, Repeat):
        numbers: dict[Value, int] = {}
        wiring = [[numbers.setdefault(v, len(numbers)) for v in (*n.inputs, *n.outputs)] for n in plain(item.nodes)]
        carried = [(numbers.get(c.given), numbers.get(c.made)) for c in item.carried]
        stack = [numbers.get(v) for v in (item.pushed, item.popped) if v is not None]
        facts = bool(item.pushed), bool(item.popped), item.backwards, len(item.indexed), len(item.escapes)
        return (
            [_signature(n, path_of(n).startswith(f"{path_of(item)}."), method, free) for n in item.nodes],
            wiring,
            carried,
            stack,
            facts,
            [first for _, first in item.lists],  # else two runs over parts of one list would be one over the second
        )
    attrs = {k: v for k, v in item.attrs.items() if k not in ("name", "args", "count", "node")}
    if item.op == "leaf":
        attrs["layer"] = item.attrs["node"].op
    elif varies and free:
        attrs["fn"] = method(attrs["fn"])
    name = "" if varies else item.attrs.get("name", "")
    types = [v.type.rank if free else v.type for v in item.outputs]
    return (item.op, name, repr(sorted((k, _hashable(v)) for k, v in attrs.items())), types)


def _lists(segments: list[list[Node | Repeat]], step: int) -> dict[int, tuple[str, int]] | None:
    """{place in a segment: (list, least index)} of the modules of lists that the segments call in turn.

    None if the segments call other modules, or in another order.
    """
    found: dict[int, tuple[str, int]] = {}
    for place, items in enumerate(zip(*segments, strict=True)):
        paths = [path_of(item).rpartition(".") for item in items]
        if len(set(paths)) == 1:
            continue
        numbers = [int(number) if number.isdigit() else -1 for _, _, number in paths]
        if len({base for base, _, _ in paths}) > 1 or numbers != [numbers[0] + step * k for k in range(len(numbers))]:
            return None
        found[place] = paths[0][0], min(numbers)
    return found


def _repeat(
    segments: list[list[Node | Repeat]],
    step: int,
    outside: Sequence[Node | Repeat],
    outputs: Sequence[Value],
    method: Callable[[str], str],
) -> Repeat | None:
    template, lists = segments[1], _lists(segments, step)
    if lists is None or min(lists.values(), default=("", 0))[1] < 0:
        return None
    free = all(n.op in _SIZE_FREE for n in plain(template))
    signatures = [[_signature(n, j in lists, method, free) for j, n in enumerate(segment)] for segment in segments]
    if any(signature != signatures[0] for signature in signatures):
        return None
    made = [[v for n in segment for v in n.outputs] for segment in segments]
    where = [{v: j for j, v in enumerate(values)} for values in made]
    slots = [[v for n in segment for v in operands(n)] for segment in segments]
    if len({len(s) for s in slots}) != 1:
        return None
    carried: dict[int, tuple[Value, Value]] = {}  # output number: (given in the template, before the first)
    indexed: dict[Value, tuple[Value, ...]] = {}
    invariants: dict[Value, None] = {}
    for j, value in enumerate(slots[1]):
        column = [s[j] for s in slots]
        inside = where[1].get(value)
        if inside is not None:
            if any(where[k].get(v) != inside for k, v in enumerate(column)):
                return None
        elif all(v is value for v in column):
            invariants[value] = None
        elif value in where[0]:
            number = where[0][value]
            if any(where[k].get(column[k + 1]) != number for k in range(len(segments) - 1)):
                return None
            if carried.setdefault(number, (value, column[0]))[1] is not column[0]:
                return None
        else:
            if any(v in w for v in column for w in where):
                return None
            if indexed.setdefault(value, tuple(column)) != tuple(column):
                return None
    if not invariants.keys().isdisjoint(indexed):
        return None
    wanted = _wanted_outside(outside, outputs)
    escapes = []
    for j, value in enumerate(made[1]):
        values = tuple(row[j] for row in made)
        if any(v in wanted for v in values[:-1]):
            escapes.append((value, values))
    return Repeat(
        tuple(dict.fromkeys(lists.values())),
        len(segments),
        tuple(template),
        tuple(Carried(given, made[1][j], before, made[-1][j]) for j, (given, before) in carried.items()),
        tuple(indexed.items()),
        tuple((v, tuple(row[j] for row in made)) for j, v in enumerate(made[1])),
        tuple(invariants),
        tuple(escapes),
        backwards=step < 0,
    )


def _wanted_outside(items: Sequence[Node | Repeat], outputs: Sequence[Value]) -> set[Value]:
    wanted = set(outputs)
    for item in items:
        if isinstance(item, Node):
            wanted.update(item.inputs)
        else:
            wanted.update(operands(item))
    return wanted


def operands(item: Node | Repeat) -> tuple[Value, ...]:
    """The values an item reads from outside."""
    if isinstance(item, Node):
        return item.inputs
    firsts = tuple(c.first for c in item.carried)
    return (*item.invariants, *firsts, *(v for _, column in item.indexed for v in column))


def _pops(items: Sequence[Node | Repeat]) -> bool:
    return any(isinstance(item, Repeat) and item.popped is not None for item in items)


def _order(items: Sequence[Node | Repeat]) -> dict[Value, int]:
    """When each value is computed."""
    made = [v for item in items for v in (_made(item) if isinstance(item, Repeat) else item.outputs)]
    return {v: i for i, v in enumerate(made)}


def _made(run: Repeat) -> list[Value]:
    """The values that a run computes, segment by segment."""
    return [v for row in zip(*(column for _, column in run.made), strict=True) for v in row]


def _falls(column: Sequence[Value], order: Mapping[Value, int]) -> bool:
    """True if the values are read in the reverse of the order they are computed in."""
    return all(v in order for v in column) and all(order[a] > order[b] for a, b in pairwise(column))


def _read_once(run: Repeat, value: Value) -> bool:
    """True if one node of each segment reads a value once, so that it can take it from the stack."""
    reads = [v for item in run.nodes for v in (item.inputs if isinstance(item, Node) else 2 * operands(item))]
    return reads.count(value) == 1


def with_stack(items: Sequence[Node | Repeat]) -> tuple[list[Node | Repeat], set[Value]]:
    """The items with long skips as a stack, if runs read them in the reverse of the order they are computed in.

    Also returns the values that plain nodes push. In any other order, and if other nodes read the skips of a run too,
    the items are returned unchanged.
    """
    order = _order(items)
    read = [column for r in items if isinstance(r, Repeat) for _, column in r.indexed]
    often = Counter(v for column in read for v in column)
    wanted = {v for column in read if _falls(column, order) for v in column if often[v] == 1}
    elsewhere = {v for item in items if isinstance(item, Node) for v in item.inputs}
    elsewhere |= {v for r in items if isinstance(r, Repeat) for v in (*r.invariants, *(c.first for c in r.carried))}
    taken: list[Node | Repeat] = []
    stack: list[Value] = []
    pushed: set[Value] = set()
    for item in items:
        if isinstance(item, Node):
            made = [v for v in item.outputs if v in wanted]
            stack += made
            pushed.update(made)
        else:
            columns = [(v, column) for v, column in item.indexed if any(c in stack for c in column)]
            lists = [(v, column) for v, column in item.escapes if any(c in wanted for c in column)]
            last = [(v, column) for v, column in item.made if column[-1] in wanted and (v, column) not in lists]
            if len(columns) > 1 or len(lists) > 1 or last or (columns and lists):
                return list(items), set()
            for value, column in columns:
                if any(not stack or stack.pop() is not c for c in column) or not _read_once(item, value):
                    return list(items), set()
                rest = tuple(pair for pair in item.indexed if pair[0] is not value)
                item = replace(item, indexed=rest, popped=value)
            for value, column in lists:
                if any(c not in wanted for c in column) or not elsewhere.isdisjoint(column[:-1]):
                    return list(items), set()
                stack += column
                rest = tuple(pair for pair in item.escapes if pair[0] is not value)
                item = replace(item, escapes=rest, pushed=value)
        taken.append(item)
    pops = sum(item.count for item in taken if isinstance(item, Repeat) and item.popped is not None)
    return (taken, pushed) if not stack and pops > 1 else (list(items), set())
