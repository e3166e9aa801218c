"""Splits functions by binding time: what is known early goes into one function, the rest into another.

Early is what follows from operands that are known before a loop; late is what depends on a value that the loop carries.
A block of a DiT becomes its modulation (early) and the rest (late). Weights keep their paths, since both halves are
called under the name of the whole. Halves are for engines only, so they have no origin.

Early nodes that are cheap to recompute from other early values stay late: views, constants, a few additions. The cost
model counts the bytes that a step of the loop reads; arithmetic counts as the bytes that could be read in that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Function, Names, Node, Value, callees, join
from latentc.ir.costs import VIEWS, Costs, bytes_of, weight_bytes_read
from latentc.ir.ops import CONTROL, OPS
from latentc.ir.types import Dim, Sym, TensorType, substitute, unify
from latentc.passes.batchwise import Batchwise, batched

FLOPS_PER_BYTE = 16
"""FLOPs that a processor does in the time it reads a byte of memory, for products with few rows."""

LEAST_GAIN = 4096
"""Bytes per step that moving a node must save to be worth another tensor."""

FREE = VIEWS | {"constant", "full"}
"""Ops that are recomputed rather than kept."""


@dataclass(frozen=True)
class Split:
    """A function as two: `late(operands[keeps], *early(operands[takes]))`.

    `saved` is the memory traffic, in bytes, that a step saves without the early half.
    """

    early: str
    late: str
    takes: tuple[int, ...]
    keeps: tuple[int, ...]
    saved: float


@dataclass(frozen=True)
class Cut:
    """The early and the late nodes of a function, and the early values that late nodes or the outputs use."""

    early: tuple[Node, ...]
    late: tuple[Node, ...]
    crossing: tuple[Value, ...]
    saved: float


class Splitter:
    """Splits functions of `owner` and adds the halves to it, once per function and choice of early operands.

    `batch` is the value assumed for run-time sizes. With `steps`, early halves will be called once with the rows of all
    steps as one batch, so only nodes that treat each row of a batch independently can be early.
    """

    def __init__(self, owner: ModuleBuilder, batch: int, steps: bool) -> None:
        self.owner, self.functions, self.batch, self.steps = owner, owner.functions, batch, steps
        self.batchwise = Batchwise(self.functions)
        self._costs = Costs(self.functions)
        self._known: dict[tuple[str, tuple[bool, ...], int], Split | None] = {}

    def split(self, name: str, early: tuple[bool, ...], rows: int = 1) -> Split | None:
        """The halves of a function whose operands marked in `early` are early; None if nothing is worth moving.

        `rows` is the number of rows that the function computes per sample: 2 under batched guidance.
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
        first = self._half(fn, "early", cut.early, (), cut.crossing)
        second = self._half(fn, "late", cut.late, cut.crossing, fn.outputs)
        number = {v: i for i, v in enumerate(fn.inputs)}
        takes = tuple(number[v] for v in first.inputs)
        keeps = tuple(number[v] for v in second.inputs if v in number)
        return Split(first.name, second.name, takes, keeps, cut.saved)

    def _half(
        self, fn: Function, half: str, nodes: tuple[Node, ...], extra: Sequence[Value], outputs: tuple[Value, ...]
    ) -> Function:
        whole = Function(self.owner.unique(f"{fn.name}.{half}"), (), fn.params, nodes, outputs).without_unused_params()
        used = whole.used()
        new = whole.with_(inputs=(*(v for v in fn.inputs if v in used), *extra))
        self.functions[new.name] = new
        return new

    def movable(self, node: Node) -> bool:
        """True if a node may be early when all its operands are."""
        if node.op in OPS and OPS[node.op].train_only:
            return False
        return self.batchwise.node(node) if self.steps else node.op != "guided"

    def cut(self, fn: Function, early: Iterable[Value], rows: int, movable: Callable[[Node], bool]) -> Cut:
        """Cuts a function whose operands `early` are early; `movable` tells which nodes may be."""
        params = {p.value for p in fn.params}
        known = {*early, *params}
        order: list[tuple[Node, bool]] = []
        saved: dict[Node, float] = {}
        names = Names(v.name for v in fn.values())
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
        late = {v for node, is_early in order if not is_early for v in node.inputs if v in known} | (
            known & set(fn.outputs)
        )
        return self._chosen(fn, order, late - params, params, rows, saved)

    def _call(self, node: Node, known: set[Value], rows: int, names: Names) -> tuple[Node, Node, float] | None:
        """(call of the early half, call of the late half, bytes saved per step) in place of a call."""
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
        early = tuple(Value(names.fresh(join(prefix, v.name)), substitute(v.type, sizes)) for v in first.outputs)
        attrs = {"name": prefix, "args": {}}
        takes = tuple(node.inputs[i] for i in split.takes)
        keeps = tuple(node.inputs[i] for i in split.keeps)
        return (
            Node("call", takes, early, {"fn": first.name, **attrs}, node.loc),
            Node("call", (*keeps, *early), node.outputs, {"fn": second.name, **attrs}, node.loc),
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
        """Decides, from the last node to the first, which early nodes stay early; `wanted` are values used late."""
        roots = _roots(order)
        uses = Counter(roots.get(v, v) for v in wanted)  # number of values of `wanted` per root
        crossing: dict[Value, None] = {}
        again: set[Node] = set()  # early nodes that are recomputed late
        for node, is_early in reversed(order):
            needed = [o for o in node.outputs if o in wanted]
            if not is_early or not needed:
                continue
            ins = [v for v in node.inputs if v not in params]
            if not self._free(node):
                own = Counter(roots.get(v, v) for v in needed)
                # If the node were late, these operands would have to cross instead of its results.
                operands = {root for v in ins if uses[root := roots.get(v, v)] == own[root]} - params
                extra = self._bytes(needed, rows) - self._bytes((v for v in operands if v is not None), rows)
                if self._saved(node, params, rows, saved) - extra > LEAST_GAIN:
                    crossing.update(dict.fromkeys(reversed(needed)))
                    continue
            again.add(node)
            uses.update(roots.get(v, v) for v in set(ins) - wanted)
            wanted.update(ins)
        needed_early = set(crossing)
        early = []
        for node, is_early in reversed(order):
            if is_early and any(o in needed_early for o in node.outputs):
                early.append(node)
                needed_early.update(node.inputs)
        total = sum(self._saved(n, params, rows, saved) for n in early)
        late = [node for node, is_early in order if not is_early or node in again]
        return Cut(tuple(reversed(early)), tuple(late), tuple(reversed(crossing)), total)

    def _free(self, node: Node) -> bool:
        """True if a node costs nothing to recompute, or cannot cross because its results are not batched."""
        return node.op in FREE or (self.steps and not all(map(batched, node.outputs)))

    def _saved(self, node: Node, params: set[Value], rows: int, known: Mapping[Node, float]) -> float:
        """Bytes of memory traffic that not running a node saves: the weights it reads, and its arithmetic."""
        if node in known:
            return known[node]
        times = rows * self.batch
        if node.op in CONTROL:
            runs = node.attrs["trip"] if node.op == "loop" else 1
            (name,) = callees(node)
            return float(runs * (self._costs.weights(name) + self._costs.flops(name) * times / FLOPS_PER_BYTE))
        weights = sum(weight_bytes_read(node, v.type) for v in node.inputs if v in params)
        types = [v.type for v in node.inputs], [v.type for v in node.outputs]
        return float(weights + OPS[node.op].cost(*types, node.attrs) * times / FLOPS_PER_BYTE)

    def _bytes(self, values: Iterable[Value], rows: int) -> float:
        return float(sum(self.held(v.type, rows) for v in values))

    def held(self, type: TensorType, rows: int = 1) -> int:
        """Bytes of a tensor at the largest batch."""
        sized = any(isinstance(d, Sym) for d in type.shape)
        return bytes_of(type) * (rows * self.batch if sized else 1)


def _roots(order: Sequence[tuple[Node, bool]]) -> dict[Value, Value | None]:
    """{early view: the value it is a view of}; None if that is a constant."""
    roots: dict[Value, Value | None] = {}
    for node, is_early in order:
        if is_early and node.op in FREE:
            source = node.inputs[0] if node.op in VIEWS else None
            root = None if source is None else roots.get(source, source)
            roots.update((o, root) for o in node.outputs)
    return roots
