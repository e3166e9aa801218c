"""Splits functions by binding time: what is known early in one function, the rest in another.

Early is what follows from operands that are known before a loop; late is what depends on a value the loop carries. A
block of a DiT becomes its modulation (early) and its body (late). Weights keep their paths, since both halves are
called under the name of the whole; halves are for engines only, so they have no origin.

What is early but cheap to make from what is early anyway stays late: views, constants, a few additions. The rule
counts bytes that a step of the loop reads; arithmetic counts as the bytes that could be read meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentc.ir.core import Function, Node, Value, callees, join
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.reads import Reads
from latentc.ir.report import VIEWS, bytes_of
from latentc.ir.types import Dim, Sym, TensorType, substitute, unify
from latentc.passes.batchwise import Batchwise, batched

FLOPS_PER_BYTE = 16
"""Arithmetic that a processor does in the time it reads a byte of memory, when a product has few rows."""

LEAST_GAIN = 4096
"""Bytes a step that moving a node must save: less is not worth a tensor of its own."""

FREE = VIEWS | {"constant", "full"}
"""Ops that are made again where they are wanted rather than kept."""


@dataclass(frozen=True)
class Split:
    """A function as two: `early(operands[takes])` gives what `late(operands[keeps], early's outputs)` needs.

    `saved` is what not running the early half in a step saves, in bytes of memory traffic.
    """

    early: str
    late: str
    takes: tuple[int, ...]
    keeps: tuple[int, ...]
    saved: float


@dataclass(frozen=True)
class Cut:
    """A function's nodes, early and late, and the early values that late nodes or the outputs need."""

    early: tuple[Node, ...]
    late: tuple[Node, ...]
    crossing: tuple[Value, ...]
    saved: float


class Splitter:
    """Splits functions of `functions`, adding the halves to it; each function and signature once.

    `batch` is the size that run-time sizes count as. With `steps`, early halves are going to be called once with the
    rows of all steps as one batch, so only what treats each row of a batch by itself can be early.
    """

    def __init__(self, functions: dict[str, Function], batch: int, steps: bool) -> None:
        self.functions, self.batch, self.steps = functions, batch, steps
        self.batchwise = Batchwise(functions)
        self._reads = Reads(functions)
        self._known: dict[tuple[str, tuple[bool, ...], int], Split | None] = {}

    def split(self, name: str, early: tuple[bool, ...], rows: int = 1) -> Split | None:
        """The halves of a function some of whose operands are `early`; None if nothing is worth moving.

        `rows` is how many of the caller's samples one of the function's stands for: 2 under batched guidance.
        """
        key = (name, early, rows)
        if key not in self._known:
            self._known[key] = self._split(self.functions[name], early, rows)
        return self._known[key]

    def _split(self, fn: Function, early: tuple[bool, ...], rows: int) -> Split | None:
        operands = [v for v, known in zip(fn.inputs, early, strict=True) if known and (batched(v) or not self.steps)]
        if not operands:
            return None
        cut = self.cut(fn, operands, rows, self.movable)
        if not cut.crossing:
            return None
        first = self._half(fn, "early", cut.early, [], cut.crossing)
        second = self._half(fn, "late", cut.late, cut.crossing, fn.outputs)
        where = {v: i for i, v in enumerate(fn.inputs)}
        keeps = second.inputs[: len(second.inputs) - len(cut.crossing)]
        return Split(
            first.name,
            second.name,
            tuple(where[v] for v in first.inputs),
            tuple(where[v] for v in keeps),
            cut.saved,
        )

    def _half(
        self, fn: Function, half: str, nodes: Sequence[Node], extra: Sequence[Value], outputs: Sequence[Value]
    ) -> Function:
        used = {v for n in nodes for v in n.inputs} | set(outputs)
        made = Function(
            fresh(f"{fn.name}.{half}", set(self.functions), "#"),
            (*(v for v in fn.inputs if v in used), *extra),
            tuple(p for p in fn.params if p.value in used),
            tuple(nodes),
            tuple(outputs),
        )
        self.functions[made.name] = made
        return made

    def movable(self, node: Node) -> bool:
        """Whether a node, all of whose operands are early, may be early."""
        if node.op in OPS and OPS[node.op].train_only:
            return False
        return self.batchwise.node(node) if self.steps else node.op != "guided"

    def cut(self, fn: Function, early: Iterable[Value], rows: int, movable: Callable[[Node], bool]) -> Cut:
        """Cuts a function whose operands `early` are known early; `movable` says which nodes may be."""
        params = {p.value for p in fn.params}
        known = {*early, *params}
        order: list[tuple[Node, bool]] = []
        saved: dict[Node, float] = {}
        names = {v.name for v in (*fn.inputs, *params, *(o for n in fn.nodes for o in n.outputs))}
        for node in fn.nodes:
            if all(v in known for v in node.inputs) and movable(node):
                order.append((node, True))
                known.update(node.outputs)
                continue
            halves = self._call(node, known, rows, names) if node.op == "call" else None
            if halves is None:
                order.append((node, False))
                continue
            first, second, gain = halves
            if movable(first):
                order += [(first, True), (second, False)]
                known.update(first.outputs)
                saved[first] = gain
            else:
                order.append((node, False))
        late = {v for node, moved in order if not moved for v in node.inputs if v in known} | (known & set(fn.outputs))
        return self._chosen(fn, order, late - params, params, rows, saved)

    def _call(self, node: Node, known: set[Value], rows: int, names: set[str]) -> tuple[Node, Node, float] | None:
        """A call as a call of the early half and one of the late half, and what the first saves a step."""
        callee = self.functions[node.attrs["fn"]]
        mask = tuple(v in known for v in node.inputs)
        sizes: dict[str, Dim] = {}
        for formal, actual in zip(callee.inputs, node.inputs, strict=True):
            unify(formal.type, actual.type, sizes)
        times = max((s.factor if isinstance(s, Sym) else 1 for s in sizes.values()), default=1)
        split = self.split(callee.name, mask, rows * times)
        if split is None:
            return None
        first, second = self.functions[split.early], self.functions[split.late]
        prefix = node.attrs["name"]
        made = tuple(Value(fresh(join(prefix, v.name), names), substitute(v.type, sizes)) for v in first.outputs)
        attrs = {"name": prefix, "args": {}}
        takes = tuple(node.inputs[i] for i in split.takes)
        keeps = tuple(node.inputs[i] for i in split.keeps)
        return (
            Node("call", takes, made, {"fn": first.name, **attrs}, node.loc),
            Node("call", (*keeps, *made), node.outputs, {"fn": second.name, **attrs}, node.loc),
            split.saved,
        )

    def _chosen(
        self,
        fn: Function,
        order: Sequence[tuple[Node, bool]],
        wanted: set[Value],
        params: set[Value],
        rows: int,
        saved: Mapping[Node, float],
    ) -> Cut:
        """Decides, last node first, which early nodes are kept early; `wanted` is what is late already needs."""
        roots = _roots(order)
        held = Counter(roots.get(v, v) for v in wanted)  # how many of `wanted` stem from each root
        crossing: dict[Value, None] = {}
        again: set[Node] = set()  # early nodes that are made (again) late
        for node, moved in reversed(order):
            needed = [o for o in node.outputs if o in wanted]
            if not moved or not needed:
                continue
            ins = [v for v in node.inputs if v not in params]
            if not self._free(node):
                own = Counter(roots.get(v, v) for v in needed)
                instead = {root for v in ins if held[root := roots.get(v, v)] == own[root]} - params
                price = self._bytes(needed, rows) - self._bytes((v for v in instead if v is not None), rows)
                if self._saved(node, params, rows, saved) - price > LEAST_GAIN:
                    crossing.update(dict.fromkeys(reversed(needed)))
                    continue
            again.add(node)
            held.update(roots.get(v, v) for v in set(ins) - wanted)
            wanted.update(ins)
        needed_early = set(crossing)
        early = []
        for node, moved in reversed(order):
            if moved and any(o in needed_early for o in node.outputs):
                early.append(node)
                needed_early.update(node.inputs)
        total = sum(self._saved(n, params, rows, saved) for n in early)
        late = [node for node, moved in order if not moved or node in again]
        return Cut(tuple(reversed(early)), tuple(late), tuple(reversed(crossing)), total)

    def _free(self, node: Node) -> bool:
        """Whether a node costs nothing to make again, or gives what is no row of a batch, as all that crosses must."""
        return node.op in FREE or (self.steps and not all(map(batched, node.outputs)))

    def _saved(self, node: Node, params: set[Value], rows: int, known: Mapping[Node, float]) -> float:
        """Bytes of memory traffic that not running a node saves: weights it reads, and its arithmetic."""
        if node in known:
            return known[node]
        times = rows * self.batch
        if node.op in CONTROL:
            runs = node.attrs["trip"] if node.op == "loop" else 1
            (name,) = callees(node)
            return float(runs * (self._reads.weights(name) + self._reads.flops(name) * times / FLOPS_PER_BYTE))
        weights = sum(self._reads.of_param(node, v.type) for v in node.inputs if v in params)
        types = [v.type for v in node.inputs], [v.type for v in node.outputs]
        return float(weights + OPS[node.op].flops(*types, node.attrs) * times / FLOPS_PER_BYTE)

    def _bytes(self, values: Iterable[Value], rows: int) -> float:
        return float(sum(self.held(v.type, rows) for v in values))

    def held(self, type: TensorType, rows: int = 1) -> int:
        """Bytes of a tensor at the largest batch."""
        sized = any(isinstance(d, Sym) for d in type.shape)
        return bytes_of(type) * (rows * self.batch if sized else 1)


def fresh(name: str, taken: set[str], mark: str = "_") -> str:
    """A name that is not taken; from now on it is."""
    candidate, n = name, 1
    while candidate in taken:
        n += 1
        candidate = f"{name}{mark}{n}"
    taken.add(candidate)
    return candidate


def _roots(order: Sequence[tuple[Node, bool]]) -> dict[Value, Value | None]:
    """What each early view is a view of; None where it is of nothing but constants."""
    roots: dict[Value, Value | None] = {}
    for node, moved in order:
        if moved and node.op in FREE:
            source = node.inputs[0] if node.op in VIEWS else None
            root = None if source is None else roots.get(source, source)
            roots.update((o, root) for o in node.outputs)
    return roots


__all__ = ["FLOPS_PER_BYTE", "LEAST_GAIN", "Cut", "Split", "Splitter", "fresh"]
