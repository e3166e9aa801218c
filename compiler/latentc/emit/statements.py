"""Nodes as statements: a value with one user may be printed inside it, and names are reused as by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from latentc.emit.expressions import Expressions
from latentc.emit.repeats import Repeat, operands
from latentc.emit.text import WIDTH, Text, base_name, commas, free_name, identifier
from latentc.ir.core import Node, Value

FOREVER = 1 << 30
# Default names of the builder; their values may be folded into their user.
_ANONYMOUS = {"h", "x", "c", "term", "y"}
_WORDS = {  # names of values that have none of their own, by op
    **{"add": "total", "sub": "difference", "mul": "scaled", "div": "ratio", "neg": "negative"},
    **{"reshape": "flat", "transpose": "transposed", "broadcast_to": "expanded", "concat": "stacked", "slice": "part"},
    **{"less": "chosen", "full": "constant", "linear": "projected", "matmul": "product", "embedding": "embedded"},
    **{"where": "selected", "cast": "converted", "pad": "padded", "take_along": "gathered", "max": "largest"},
    **{"sum": "total", "avg_pool": "pooled", "max_pool": "pooled", "sqrt": "root"},
    **dict.fromkeys(("relu", "leaky_relu", "silu", "gelu", "mish", "elu"), "activated"),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "batch_norm", "pixel_norm"), "normalised"),
    **dict.fromkeys(("resize", "upsample_nearest"), "resized"),
    "grid_sample": "warped",
}
# These always get a line of their own.
_NEVER_FOLDED = ("attention", "branch", "guided", "loop", "split", "unbind")


class Statements(Expressions):
    """Prints statements, one node each."""

    def _fold(self, items: Sequence[Node | Repeat], returned: Sequence[Value], wanted: Sequence[Value]) -> None:
        """Chooses the values that are printed inside their only user."""
        scope, limit = self._scope, WIDTH - self._reserve
        self._carried |= {c.first for item in items if isinstance(item, Repeat) for c in item.carried}
        uses: dict[Value, int] = {}
        barred: set[Value] = set()
        for item in items:
            for v in operands(item):
                uses[v] = uses.get(v, 0) + 1
            if isinstance(item, Repeat):
                barred.update(operands(item))
            elif item.op == "loop":
                barred.update(item.inputs[: item.attrs["invariants"] + item.attrs["carried"]])
            elif item.op == "branch":
                barred.update(item.inputs)
        for v in wanted:
            uses[v] = uses.get(v, 0) + 1
            if v not in returned:
                barred.add(v)
        barred |= self.pushed | _across_branches(items)

        def fit(inputs: Iterable[Value], length: Callable[[], int]) -> None:
            while length() > limit:
                candidates = [v for v in inputs if v in scope.folded]
                if not candidates:
                    return
                del scope.folded[max(candidates, key=lambda v: len(self.arg(v).code))]

        for item in items:
            if isinstance(item, Repeat) or item.op in ("loop", "branch"):
                continue
            name = base_name(item.outputs[0].name)
            left = sum(len(base_name(o.name)) + 2 for o in item.outputs) + 1
            fit(item.inputs, lambda item=item, left=left: left + len(self.expression(item).code))  # type: ignore[misc]
            foldable = name in _ANONYMOUS or name.startswith(item.op.split("_")[0]) or name == identifier(item.op)
            foldable = foldable or (item.outputs[0] in returned and len(self.expression(item).code) <= 24)
            if (
                len(item.outputs) == 1
                and uses.get(item.outputs[0], 0) == 1
                and item.outputs[0] not in barred
                and item.op not in _NEVER_FOLDED
                and foldable
            ):
                scope.folded[item.outputs[0]] = item
        if len(returned) > 1:
            for v in returned:
                if v in scope.folded and len(self.arg(v).code) > 24:
                    del scope.folded[v]

    def _leaves_of(self, value: Value) -> set[Value]:
        node = self._scope.folded.get(value)
        return {value} if node is None else {leaf for v in node.inputs for leaf in self._leaves_of(v)}

    def _leaves(self, item: Node | Repeat) -> set[Value]:
        """Values that the statement of an item reads by name."""
        if isinstance(item, Node) and len(item.outputs) == 1 and item.outputs[0] in self._scope.folded:
            return set()
        return {leaf for v in operands(item) for leaf in self._leaves_of(v)}

    def _name(self, value: Value, i: int, target: str | None = None, prefer: str = "") -> str:
        """A name for the value of statement i that is free there; reserved until the value's last use."""
        scope = self._scope
        if target is not None and scope.hold.get(target, -1) <= i:
            name = target
        else:
            name = free_name(prefer or base_name(value.name), scope.held_after(i))
        scope.hold[name] = scope.last.get(value, i)
        scope.env[value] = Text(name)
        return name

    def _word(self, node: Node, i: int) -> str:
        """A word for the value of an op if it has no name of its own, or one that is taken here; else empty."""
        base = base_name(node.outputs[0].name)
        unnamed = base == identifier(node.op) or (base in _ANONYMOUS and base in self._scope.held_after(i))
        if unnamed and node.outputs[0] in self._carried:  # a loop gives its name to what each module returns
            return "" if base in _ANONYMOUS else "h"
        return _WORDS.get(node.op, "") if unnamed and len(node.outputs) == 1 else ""

    def _rows(self, node: Node, i: int) -> list[str]:
        """Numbers of a vector that are used one by one: the vector gets a name, and they are read at their indices."""
        scope = self._scope
        vector = node.inputs[0]
        text = self.tensor(vector).code
        lines = []
        if not re.fullmatch(r"[\w.]+", text):
            lines = self._layout(f"{self._name(vector, i)} = {text}")
        name = self.arg(vector).code
        if name.isidentifier():
            scope.hold[name] = max([scope.hold[name], *(scope.last.get(o, i) for o in node.outputs)])
        self.vectors[name] = len(node.outputs)
        scope.env |= {o: Text(f"{name}[{k}]") for k, o in enumerate(node.outputs)}
        return lines

    def _statement(self, node: Node, i: int, targets: Mapping[Value, str]) -> list[str]:
        if node.op == "unbind" and node.inputs[0].type.rank == 1:
            return self._rows(node, i)
        scope = self._scope
        text = self.expression(node).code
        shapes = {tuple(v.type.shape) for v in self._leaves(node) if v not in self.params}
        word = self._word(node, i)
        names = [self._name(out, i, targets.get(out), word) if out in scope.last else "_" for out in node.outputs]
        first = node.outputs[0]
        shown = first.type.rank and tuple(first.type.shape) not in shapes and first not in self.bundles
        shown = shown and first not in self.unshown
        comment = self.shape_comment(first) if shown else ""
        if len(names) == 1:
            return self._layout(f"{names[0]}{',' if node.op in ('split', 'unbind') else ''} = {text}", comment)
        return self._assigned(names, node.outputs, text, i, comment)

    def _assigned(self, names: Sequence[str], outputs: Sequence[Value], text: str, i: int, comment: str) -> list[str]:
        """`logits, *caches = …`; an assignment can have one star, so of several bundles each is a slice."""
        starred = [k for k, out in enumerate(outputs) if out in self.bundles]
        if len(starred) < 2:
            left = commas(self._starred(n, o) for n, o in zip(names, outputs, strict=True))
            return self._layout(f"{left} = {text}", comment)
        front, rest = starred[0], free_name("rest", {*names, *self._scope.held_after(i)})
        lines = self._layout(
            f"{commas([*names[:front], f'*{rest}'])} = {text}" if front else f"{rest} = {text}", comment
        )
        lefts, parts, at = [], [], 0
        for name, out in zip(names[front:], outputs[front:], strict=True):
            count = self.bundles.get(out)
            if name != "_":
                lefts.append(name)
                parts.append(f"{rest}[{at}]" if count is None else f"{rest}[{at or ''}:{at + count}]")
            at += count or 1
        return [*lines, *(self._layout(f"{commas(lefts)} = {commas(parts)}") if lefts else [])]

    def _guided(self, node: Node, i: int, targets: Mapping[Value, str]) -> list[str]:
        """A guided call with several outputs: both branches, then the guidance of each guided output."""
        both = self._both_branches(node).code
        # The scale is read after the outputs are assigned, so they must not take its name.
        read = {self.arg(v).code for v in self._leaves_of(node.inputs[-1])}
        held = {name: self._scope.hold.get(name, -1) for name in read}
        self._scope.hold |= dict.fromkeys(held, FOREVER)
        names = [self._name(o, i, targets.get(o)) if o in self._scope.last else "_" for o in node.outputs]
        self._scope.hold |= held
        lines = self._assigned(names, node.outputs, both, i, "")
        for name, kind in zip(names, node.attrs["guides"], strict=True):
            if kind == "guided" and name != "_":
                lines.append(f"{name} = {self._combined(Text(name), node).code}")
        return lines


def _across_branches(items: Sequence[Node | Repeat]) -> set[Value]:
    """Values computed before a branch and read after it: what the branch changes is not read under its old name."""
    branches = [i for i, item in enumerate(items) if isinstance(item, Node) and item.op == "branch"]
    if not branches:
        return set()
    made = {v: i for i, item in enumerate(items) if isinstance(item, Node) for v in item.outputs}
    reads = [(i, v) for i, item in enumerate(items) for v in operands(item) if v in made]
    return {v for i, v in reads if any(made[v] < branch < i for branch in branches)}


def alive(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """Nodes that the outputs depend on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(o in wanted for o in node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]
