"""One function as a Python body: names of its inputs, sizes unpacked from their shapes, and statements."""

from __future__ import annotations

import re
from collections.abc import Sequence

from latentc.emit.bundles import bundled
from latentc.emit.expressions import Context, Scope
from latentc.emit.loops import Loops
from latentc.emit.repeats import Repeat, fold_levels, operands, with_stack, without_duplicates
from latentc.emit.statements import FOREVER, alive
from latentc.emit.text import WIDTH, Text, base_name, commas, free_name, identifier
from latentc.ir.core import Function, Node, Value
from latentc.ir.types import Dim, Named, Sym


class Body(Loops):
    """Prints one function: `lines`, after construction."""

    def __init__(self, fn: Function, context: Context) -> None:
        bundles: dict[Value, int] = {}
        if context.free or any(node.op == "loop" for node in fn.nodes):
            whole = bundled(context.module, fn)
            fn, bundles = whole.function, whole.bundles
        super().__init__(fn, context)
        self.bundles = bundles
        nodes, same = without_duplicates(fn.nodes)
        self.outputs = [same.get(v, v) for v in fn.outputs]
        nodes = alive(nodes, self.outputs)
        self.constants = {n.outputs[0]: n for n in nodes if n.op == "constant"}
        self._find_numbers(nodes)
        items, self.pushed = with_stack(self._repeats([self._layer(node) for node in nodes], self.outputs))
        items, self.pushed = fold_levels(items, self.pushed, self.outputs, self._method, self._whole)
        items = [item.attrs["node"] if isinstance(item, Node) and item.op == "leaf" else item for item in items]
        self.star = _starred_inputs(fn, items)
        self.unpackable = _unpackable(fn, self.star[0] if self.star else len(fn.inputs))
        self.inputs = self._input_names()
        self.labels = self._label_names()
        self.lines = self._function(items)

    def _whole(self, run: Repeat) -> bool:
        return all(self.context.modules(path, range(at, at + run.count), "all") == "all" for path, at in run.lists)

    def _layer(self, item: Node) -> Node:
        """A node that a module of a list computes as a call of the module, which can be part of a loop."""
        path = self.context.leaf_path(item)
        if not path.rpartition(".")[2].isdigit():
            return item
        inputs = tuple(v for v in item.inputs if v not in self.params)
        return Node("leaf", inputs, item.outputs, {"name": path, "node": item}, item.loc)

    def _input_names(self) -> list[str]:
        names: list[str] = []
        start = self.star[0] if self.star else len(self.fn.inputs)
        for value in self.fn.inputs[:start]:
            names.append(free_name(identifier(value.name), {*names, *self.context.reserved}))
        if self.star:
            self.star_name = base_name(self.fn.inputs[start].name)
            while self.star_name in {*names, *self.context.reserved}:
                self.star_name += "s"
        return names

    def _label_names(self) -> dict[str, str]:
        """{size in the shapes of inputs: the variable that holds it}."""
        taken = {*self.inputs, self.star_name, *self.context.reserved}
        labels: dict[str, str] = {}
        for name in self.unpackable:
            label = identifier(name)
            while label in taken:
                label += "_"
            taken.add(label)
            labels[name] = label
        return labels

    def _function(self, items: Sequence[Node | Repeat]) -> list[str]:
        env = {v: Text(n) for v, n in zip(self.fn.inputs, self.inputs, strict=False)}
        if self.star:
            for i, value in enumerate(self.fn.inputs[self.star[0] :]):
                env[value] = Text(f"{self.star_name}[{i}]")
        hold = dict.fromkeys([*self.context.reserved, *self.labels.values()], FOREVER)
        hold[self.star_name] = FOREVER
        lines, scope = self._block(items, env, hold, list(self.outputs), {}, 1, final=True)
        texts, position = [], 0
        while position < len(self.outputs):
            listed = self._listed(self.outputs, position, scope)
            if listed is not None:
                texts.append(f"*{listed[0]}")
                position += listed[1]
            else:
                texts.append(self.tensor(self.outputs[position]).code)
                position += 1
        result = f"tuple({texts[0][1:]})" if len(texts) == 1 and texts[0].startswith("*") else commas(texts)
        if len(texts) > 1 and len(result) > WIDTH - self.context.indent:  # with parentheses it can be broken at commas
            result = f"({result})"
        statements = _read_only([*lines, *self._layout(f"return {result}")])
        return [*self._unpacking(statements), *statements]

    def _unpacking(self, statements: Sequence[str]) -> list[str]:
        """`B, T, D = x.shape` for the sizes that the statements mention."""
        lines: list[str] = []
        used = {n for n in self.used_sizes if n in self.labels}
        wanted = {n for n in used if any(_mentions(x, self.labels[n]) for x in statements)}
        for name, value in zip(self.inputs, self.fn.inputs, strict=False):
            row = []
            for dim in value.type.shape:
                label = _label(dim) if _factor(dim) == 1 else None
                row.append(label if label in wanted and label not in row else "_")
            found = {r for r in row if r != "_"}
            if not found:
                continue
            if len(found) == 1:
                (only,) = found
                lines.append(f"{self.labels[only]} = {name}.shape[{row.index(only)}]")
            else:
                lines.append(f"{commas(self.labels.get(r, r) for r in row)} = {name}.shape")
            wanted -= found
        for label in sorted(wanted):
            index, axis, dim = self.unpackable[label]
            factor = f" // {dim.factor}" if isinstance(dim, Sym) and dim.factor != 1 else ""
            name = self.inputs[index] if index < len(self.inputs) else f"{self.star_name}[0]"
            lines.append(f"{self.labels[label]} = {name}.shape[{axis}]{factor}")
        return lines

    def _listed(self, outputs: Sequence[Value], at: int, scope: Scope) -> tuple[str, int] | None:
        """(name, length) of a list whose elements are returned one after the other from position `at` on."""
        text = scope.env.get(outputs[at])
        if text is None or not text.code.endswith("[0]"):
            return None
        name, count = text.code[:-3], 0
        while at + count < len(outputs) and self._text_of(outputs[at + count], scope) == f"{name}[{count}]":
            count += 1
        part = "" if count == len(self.collected.get(name, range(count))) else f"[:{count}]"
        return (f"{name}{part}", count) if count > 1 else None

    @staticmethod
    def _text_of(value: Value, scope: Scope) -> str:
        text = scope.env.get(value)
        return text.code if text else ""


# ---- facts about a function


def _read_only(statements: list[str]) -> list[str]:
    """Statements without values of a local that no text reads: of some, only the shape was of use."""
    for at, line in reversed([*enumerate(statements)]):
        found = re.match(r"(\w+) = (?!self\b)\w+(?:\.(?:new_|squeeze)|\[)", line)
        if found and not any(_mentions(x, found[1]) for i, x in enumerate(statements) if i != at):
            statements = statements[:at] + statements[at + 1 :]
    return statements


def _mentions(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}\b", line.partition("  # ")[0]) is not None


def _label(dim: Dim) -> str | None:
    """The name of a size that can be unpacked from a shape, such as `T`."""
    if isinstance(dim, Sym):
        return dim.name
    return dim.expr if isinstance(dim, Named) and dim.expr.isidentifier() and dim.expr.isupper() else None


def _unpackable(fn: Function, count: int) -> dict[str, tuple[int, int, Dim]]:
    """{name: (input, axis, size)} of sizes in the shapes of the first `count` inputs and of the first starred one."""
    found: dict[str, tuple[int, int, Dim]] = {}
    for index, value in enumerate(fn.inputs[: count + 1]):
        for axis, dim in enumerate(value.type.shape):
            label = _label(dim)
            if label and (label not in found or (isinstance(dim, Sym) and dim.factor == 1 != _factor(found[label][2]))):
                found[label] = (index, axis, dim)
    return found


def _factor(dim: Dim) -> int:
    return dim.factor if isinstance(dim, Sym) else 1


def _starred_inputs(fn: Function, items: Sequence[Node | Repeat]) -> tuple[int, int] | None:
    """(first, stride) of the last inputs if one run reads them all in order, so that they can be `*caches`."""
    for run in items:
        if not isinstance(run, Repeat) or not run.indexed:
            continue
        columns = [c for _, c in run.indexed if all(v in fn.inputs for v in c)]
        if not columns:
            continue
        flat = [v for row in zip(*columns, strict=True) for v in row]
        start = len(fn.inputs) - len(flat)
        once = all(sum(v in operands(item) for item in items) == 1 for v in flat)
        if start > 0 and list(fn.inputs[start:]) == flat and once and not set(flat) & set(fn.outputs):
            return start, len(columns)
    return None
