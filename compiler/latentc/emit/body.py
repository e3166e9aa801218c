"""A function's nodes as statements: what is used once is folded into its user, names are reused as by hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentc.emit.bundles import bundled
from latentc.emit.ops import TORCH, TORCH_DTYPE
from latentc.emit.repeats import Carried, Repeat, fold_repeats, operands, results, without_duplicates
from latentc.emit.text import (
    WIDTH,
    Text,
    base_name,
    call,
    commas,
    identifier,
    layout,
    literal,
    singular,
    size_text,
)
from latentc.ir.core import Function, Module, Node, Value
from latentc.ir.types import Dim, Named, Sym

FOREVER = 1 << 30
# Names a builder gives when it has none; their values may be folded into their user.
_ANONYMOUS = {"h", "x", "c", "d", "y"}
# Worth a line of their own.
_NEVER_FOLDED = ("attention", "guided", "loop")


@dataclass
class Context:
    """What a body needs to know of where it is printed.

    `sizes` are the static arguments by name, `spelled` how one is written here; `param` is the text of a weight, `leaf`
    of a node that a leaf module (nn.Linear …) stands for, `call` of a call, `modules` of a module list. `indent` is the
    width that the lines will be moved to the right.
    """

    module: Module
    sizes: Mapping[str, int]
    spelled: Callable[[str], str]
    param: Callable[[Value], Text]
    leaf: Callable[[Node, Body], Text | None]
    call: Callable[[Node, list[Text], str], Text]
    modules: Callable[[str], str]
    table: Callable[[Value, np.ndarray[Any, Any], str], Text] | None = None
    reserved: frozenset[str] = frozenset()
    indent: int = 8
    progress: bool = False
    helpers: dict[str, None] = field(default_factory=dict)


@dataclass
class _Scope:
    """State of one block of statements: texts of values, who holds which name and until which statement."""

    env: dict[Value, Text]
    hold: dict[str, int]  # name -> last statement that reads its value
    last: dict[Value, int] = field(default_factory=dict)
    folded: dict[Value, Node] = field(default_factory=dict)


class Body:
    """Prints one function; `lines` after construction. Answers the op rows (see `ops.Printer`)."""

    def __init__(self, fn: Function, context: Context) -> None:
        self.bundles: set[Value] = set()
        if context.table is not None:
            whole = bundled(context.module, fn)
            fn, self.bundles = whole.function, whole.bundles
        self.fn, self.context = fn, context
        self.params = {p.value for p in fn.params}
        nodes, same = without_duplicates(fn.nodes)
        self.outputs = [same.get(v, v) for v in fn.outputs]
        nodes = _alive(nodes, self.outputs)
        self.constants = {n.outputs[0]: n for n in nodes if n.op == "constant"}
        items = fold_repeats([n for n in nodes if n.op != "constant"], self.outputs)
        self.used_sizes: set[str] = set()
        self.star = _starred_inputs(fn, items)
        self.star_name = ""
        self.unpackable = _unpackable(fn, self.star[0] if self.star else len(fn.inputs))
        self.inputs = self._input_names()
        self._scope = _Scope({}, {})
        self._reserve = context.indent
        self._element = ""  # the loop's module while a run's template is printed
        self.lines = self._function(items)

    # ---- what op rows ask

    def arg(self, value: Value) -> Text:
        scope = self._scope
        if value in scope.env:
            return scope.env[value]
        if value in scope.folded:
            return self.expression(scope.folded[value])
        if value in self.params:
            return self.context.param(value)
        if value in self.constants:
            return self._constant(value)
        return Text(base_name(value.name))

    def tensor(self, value: Value, like: Value | None = None) -> Text:
        """As `arg`, but never a Python number."""
        if self.number(value):
            return call("torch.tensor", [self.arg(value)], device=Text(self._device()))
        return self.arg(value)

    def number(self, value: Value) -> bool:
        return value in self.constants and value.type.rank == 0

    def size(self, dim: Dim) -> Text:
        if isinstance(dim, Sym):
            if dim.name not in self.unpackable:
                return Text("-1")
            self.used_sizes.add(dim.name)
            return Text(dim.name if dim.factor == 1 else f"{dim.factor} * {dim.name}", 7 if dim.factor == 1 else 4)
        known = {**self.unpackable_sizes(), **self.context.sizes}
        if isinstance(dim, Named) and dim.expr == "T" and "T" not in known and known.get("grid", 0) ** 2 == dim:
            dim = Named(dim, "grid ** 2")  # tokens of a square grid, where no operand has them as an axis

        def spelled(name: str) -> str:
            if name in self.context.sizes:
                return self.context.spelled(name)
            self.used_sizes.add(name)
            return name

        return size_text(dim, known, spelled)

    def helper(self, name: str) -> str:
        self.context.helpers[name] = None
        return name

    def folded(self, value: Value) -> Node | None:
        """The node that a value is folded from, if it is printed in its user."""
        return self._scope.folded.get(value)

    # ---- text of values

    def unpackable_sizes(self) -> dict[str, int]:
        return {name: int(d) for name, (_, _, d) in self.unpackable.items() if not isinstance(d, Sym)}

    def _device(self) -> str:
        return f"{self.inputs[0]}.device" if self.inputs else "None"

    def _constant(self, value: Value) -> Text:
        array = np.asarray(self.constants[value].attrs["value"])
        dtype = value.type.dtype
        if array.ndim == 0:
            number = array.item()
            whole = isinstance(number, float) and number.is_integer() and abs(number) < 1e6
            return literal(int(number) if whole else number)
        device = Text(self._device())
        if array.ndim == 1 and array.size > 2 and np.array_equal(array, np.arange(array.size)):
            return call(
                "torch.arange",
                [self.size(Named(array.size, "T"))],
                device=device,
                dtype=None if dtype == "i64" else Text(TORCH_DTYPE[dtype]),
            )
        if self.context.table is not None and dtype not in ("i64", "bool"):
            return self.context.table(value, array, self.inputs[0])
        dtype_text = None if dtype in ("i64", "f32", "bool") else Text(TORCH_DTYPE[dtype])
        return call("torch.tensor", [literal(array.tolist())], dtype=dtype_text, device=device)

    def expression(self, node: Node) -> Text:
        """The right-hand side of a node."""
        leaf = self.context.leaf(node, self)
        if leaf is not None:
            return leaf
        if node.op == "call":
            return self.context.call(node, [self._operand(v) for v in node.inputs], self._element)
        if node.op == "each":
            return self._each(node)
        if node.op == "guided":
            both = self._both_branches(node)
            return self._combined(both, node)
        return TORCH[node.op](self, node)

    def _operand(self, value: Value) -> Text:
        """An operand of a call; of a bundle, all its members."""
        return Text(f"*{self.arg(value).code}") if value in self.bundles else self.tensor(value)

    def _each(self, node: Node) -> Text:
        """`[c[:2] for c in caches]`."""
        inner: Node = node.attrs["node"]
        element = singular(node.inputs[0].name)
        self._scope.env[inner.inputs[0]] = Text(element)
        text = TORCH[inner.op](self, inner).code + ("[0]" if len(inner.outputs) > 1 else "")
        return Text(f"[{text} for {element} in {self.arg(node.inputs[0]).code}]")

    def _starred(self, name: str, value: Value) -> str:
        return f"*{name}" if value in self.bundles else name

    def _both_branches(self, node: Node) -> Text:
        kinds = node.attrs["kinds"]
        nulls = iter(node.inputs[len(kinds) : -1])
        args = []
        for value, kind in zip(node.inputs, kinds, strict=False):
            other = next(nulls) if kind == "conditional" else value
            text = self._operand(value)
            if kind != "carried" and value.type.rank:
                text = Text(f"torch.cat([{text.code}, {self.arg(other).code}])")
            args.append(text)
        return self.context.call(node, args, self._element)

    def _combined(self, both: Text, node: Node) -> Text:
        channels = node.attrs["channels"]
        scale = self.arg(node.inputs[-1])
        return call(self.helper("guide"), [both, scale], channels=None if channels is None else int(channels))

    def shape_comment(self, value: Value) -> str:
        return f"[{commas(d.expr if isinstance(d, Named) else str(d) for d in value.type.shape)}]"

    def _layout(self, code: str, comment: str = "") -> list[str]:
        return layout("", code, comment, self._reserve)

    # ---- statements

    def _input_names(self) -> list[str]:
        names: list[str] = []
        start = self.star[0] if self.star else len(self.fn.inputs)
        for value in self.fn.inputs[:start]:
            name, n = identifier(value.name), 1
            while name in names or name in self.context.reserved:
                n += 1
                name = f"{identifier(value.name)}_{n}"
            names.append(name)
        if self.star:
            self.star_name = base_name(self.fn.inputs[start].name)
            if self.star_name in names:
                self.star_name += "s"
        return names

    def _function(self, items: Sequence[Node | Repeat]) -> list[str]:
        env = {v: Text(n) for v, n in zip(self.fn.inputs, self.inputs, strict=False)}
        if self.star:
            for i, value in enumerate(self.fn.inputs[self.star[0] :]):
                env[value] = Text(f"{self.star_name}[{i}]")
        hold = dict.fromkeys([*self.context.reserved, *self.unpackable], FOREVER)
        hold[self.star_name] = FOREVER
        lines, scope = self._block(items, env, hold, list(self.outputs), {}, 1, final=True)
        texts, position = [], 0
        while position < len(self.outputs):
            listed = self._listed(self.outputs, position, scope)
            if listed is not None:
                name, count = listed
                texts.append(f"*{name}")
                position += count
            else:
                texts.append(self.arg(self.outputs[position]).code)
                position += 1
        statements = [*lines, *self._layout(f"return {commas(texts)}")]
        return [*self._unpacking(statements), *statements]

    def _unpacking(self, statements: Sequence[str]) -> list[str]:
        """`B, T, D = x.shape` for the sizes that the statements use."""
        lines: list[str] = []
        wanted = {n for n in self.used_sizes if n in self.unpackable and any(_mentions(x, n) for x in statements)}
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
                lines.append(f"{only} = {name}.shape[{row.index(only)}]")
            else:
                lines.append(f"{commas(row)} = {name}.shape")
            wanted -= found
        for label in sorted(wanted):
            index, axis, dim = self.unpackable[label]
            factor = f" // {dim.factor}" if isinstance(dim, Sym) and dim.factor != 1 else ""
            name = self.inputs[index] if index < len(self.inputs) else f"{self.star_name}[0]"
            lines.append(f"{label} = {name}.shape[{axis}]{factor}")
        return lines

    def _block(
        self,
        items: Sequence[Node | Repeat],
        env: dict[Value, Text],
        hold: dict[str, int],
        wanted: Sequence[Value],
        targets: Mapping[Value, str],
        depth: int,
        final: bool = False,
    ) -> tuple[list[str], _Scope]:
        """Statements of `items`. `wanted` values are kept to the end, under the name `targets` gives where it can be.

        `depth` is the indentation that the block will have, for line lengths; the lines come without it.
        """
        outer = self._scope
        self._reserve = self.context.indent + 4 * (depth - 1)
        scope = self._scope = _Scope(dict(env), dict(hold))
        self._fold(items, wanted if final else (), wanted)
        readers = [*([self._leaves(item) for item in items])]
        for i, leaves in enumerate(readers):
            for v in leaves:
                scope.last[v] = i
        for v in wanted:
            for leaf in self._leaves_of(v):
                scope.last[leaf] = FOREVER
        for value, text in scope.env.items():
            if text.code.isidentifier() and scope.hold.get(text.code, -1) < FOREVER:
                scope.hold[text.code] = max(scope.last.get(value, -1), scope.hold.get(text.code, -1))
        lines: list[str] = []
        for i, item in enumerate(items):
            if isinstance(item, Node) and len(item.outputs) == 1 and item.outputs[0] in scope.folded:
                continue
            if isinstance(item, Repeat):
                lines += self._run(item, i, depth)
            elif item.op == "loop":
                lines += self._loop(item, i, depth)
            elif item.op == "guided" and len(item.outputs) > 1:
                lines += self._guided(item, i, targets)
            else:
                lines += self._statement(item, i, targets)
        self._reserve = self.context.indent + 4 * (depth - 2 if depth > 1 else 0)
        if not final:
            self._scope = outer
        return lines, scope

    def _fold(self, items: Sequence[Node | Repeat], returned: Sequence[Value], wanted: Sequence[Value]) -> None:
        """Chooses which values are folded into their only user."""
        scope, limit = self._scope, WIDTH - self._reserve
        uses: dict[Value, int] = {}
        barred: set[Value] = set()
        for item in items:
            for v in operands(item):
                uses[v] = uses.get(v, 0) + 1
            if isinstance(item, Repeat):
                barred.update(operands(item))
            elif item.op == "loop":
                barred.update(item.inputs[: item.attrs["invariants"] + item.attrs["carried"]])
        for v in wanted:
            uses[v] = uses.get(v, 0) + 1
            if v not in returned:
                barred.add(v)

        def fit(inputs: Iterable[Value], length: Callable[[], int]) -> None:
            while length() > limit:
                candidates = [v for v in inputs if v in scope.folded]
                if not candidates:
                    return
                del scope.folded[max(candidates, key=lambda v: len(self.arg(v).code))]

        for item in items:
            if isinstance(item, Repeat) or item.op == "loop":
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
        """Values whose names an item's statement reads."""
        if isinstance(item, Node) and len(item.outputs) == 1 and item.outputs[0] in self._scope.folded:
            return set()
        return {leaf for v in operands(item) for leaf in self._leaves_of(v)}

    def _name(self, value: Value, i: int, target: str | None = None, prefer: str = "") -> str:
        """A name for a value made by statement i, free then; taken until the value's last use."""
        scope = self._scope
        base, n = prefer or base_name(value.name), 1
        if target is not None and scope.hold.get(target, -1) <= i:
            name = target
        else:
            name = base
            while scope.hold.get(name, -1) > i:
                n += 1
                name = f"{base}_{n}"
        scope.hold[name] = scope.last.get(value, i)
        scope.env[value] = Text(name)
        return name

    def _statement(self, node: Node, i: int, targets: Mapping[Value, str]) -> list[str]:
        scope = self._scope
        text = self.expression(node).code
        shapes = {tuple(v.type.shape) for v in self._leaves(node) if v not in self.params}
        names = []
        for out in node.outputs:
            if out in scope.last:
                name = self._name(out, i, targets.get(out))
                names.append(self._starred(name, out) if len(node.outputs) > 1 else name)
            else:
                names.append("_")
        first = node.outputs[0]
        shown = first.type.rank and tuple(first.type.shape) not in shapes and first not in self.bundles
        comment = self.shape_comment(first) if shown else ""
        left = names[0] + "," if len(names) == 1 and node.op in ("split", "unbind") else commas(names)
        return self._layout(f"{left} = {text}", comment)

    def _guided(self, node: Node, i: int, targets: Mapping[Value, str]) -> list[str]:
        """A guided call of several outputs: both branches, then each output that is guided."""
        both = self._both_branches(node).code
        names = [self._name(o, i, targets.get(o)) if o in self._scope.last else "_" for o in node.outputs]
        left = commas(self._starred(n, o) if n != "_" else n for n, o in zip(names, node.outputs, strict=True))
        lines = self._layout(f"{left} = {both}")
        for name, kind in zip(names, node.attrs["guides"], strict=True):
            if kind == "guided" and name != "_":
                lines.append(f"{name} = {self._combined(Text(name), node).code}")
        return lines

    # ---- loops

    def _enter(
        self, carried: Sequence[Carried], i: int
    ) -> tuple[list[str], dict[Value, Text], dict[str, int], dict[Value, str]]:
        """Before a loop: gives each carried value its name. Returns (lines, what the body sees, names, targets)."""
        scope, lines = self._scope, []
        targets: dict[Value, str] = {}
        given: dict[Value, str] = {}
        taken: set[str] = set()
        for c in carried:
            text = self.arg(c.first).code
            reuse = text.isidentifier() and scope.last.get(c.first, i) <= i and text not in taken
            if reuse and c.first in scope.env:
                name = text
            else:
                name, n = base_name(c.given.name), 1
                base = name
                while scope.hold.get(name, -1) > i or name in taken or self._read_by(carried, name, c, i):
                    n += 1
                    name = f"{base}_{n}"
                lines.append(f"{name} = {text}")
            taken.add(name)
            scope.hold[name] = FOREVER
            given[c.given] = name
            targets.setdefault(c.made, name)
        hold = {n: FOREVER for n, until in scope.hold.items() if until >= i and n not in taken}
        env = {v: t for v, t in scope.env.items() if not t.code.isidentifier() or t.code in hold}
        env.update((v, Text(n)) for v, n in given.items())
        return lines, env, hold, targets

    def _read_by(self, carried: Sequence[Carried], name: str, me: Carried, i: int) -> bool:
        """Whether a name still holds another carried value's first value."""
        return any(self.arg(c.first).code == name for c in carried if c is not me)

    def _leave(self, inner: _Scope, carried: Sequence[Carried], env: Mapping[Value, Text]) -> list[str]:
        """At the end of a loop's body: moves what was made to the name it is carried under."""
        outer, self._scope = self._scope, inner
        pairs = [(env[c.given].code, self.arg(c.made).code) for c in carried]
        self._scope = outer
        moves = [(a, b) for a, b in pairs if a != b]
        return [f"{commas(a for a, _ in moves)} = {commas(b for _, b in moves)}"] if moves else []

    def _after(self, carried: Sequence[Carried], env: Mapping[Value, Text], i: int) -> None:
        scope = self._scope
        for c in carried:
            name = env[c.given].code
            scope.env[c.last] = Text(name)
            scope.hold[name] = scope.last.get(c.last, i)

    def _run(self, run: Repeat, i: int, depth: int) -> list[str]:
        """A run of modules as a for loop over their list."""
        scope = self._scope
        lines, env, hold, targets = self._enter(run.carried, i)
        element = singular(run.base.rpartition(".")[2])
        while element in hold or element in targets.values():
            element += "_"
        hold[element] = FOREVER
        columns, heads = [], []
        for value, values in run.indexed:
            formal = self._formal_name(run, value)
            while formal in hold or formal in targets.values():
                formal += "_i"
            env[value] = Text(formal)
            columns.append(self._column(values))
            heads.append(formal)
        lists = self._lists(run, hold, targets, i)
        modules = self.context.modules(run.base)
        if heads:
            header = f"for {element}, {commas(heads)} in zip({modules}, {commas(columns)}):"
        else:
            header = f"for {element} in {modules}:"
        tails = [(v, column[-1]) for v, column in run.made if column[-1] in scope.last and v not in targets]
        tails = [(v, last) for v, last in tails if v not in dict(run.escapes)]
        wanted = [*(c.made for c in run.carried), *(v for v, _ in run.escapes), *(v for v, _ in tails)]
        outer_element, self._element = self._element, f"{run.base} {element}"
        body, inner = self._block(run.nodes, env, hold, wanted, targets, depth + 1)
        self._element = outer_element
        for name, members in lists.items():
            lines.append(f"{name} = []")
            texts = [inner.env[v].code for v in members]
            body.append(f"{name}.append({texts[0]})" if len(texts) == 1 else f"{name} += [{commas(texts)}]")
        body += self._leave(inner, run.carried, env)
        for v, last in tails:
            scope.env[last] = inner.env[v]
            scope.hold[inner.env[v].code] = scope.last.get(last, i)
        self._after(run.carried, env, i)
        return [*lines, *self._layout(header), *(f"    {line}" for line in body)]

    def _formal_name(self, run: Repeat, value: Value) -> str:
        """The name under which a callee takes a value, or the value's own."""
        for node in run.nodes:
            if node.op == "call" and value in node.inputs:
                callee = self.context.module.functions[node.attrs["fn"]]
                return identifier(callee.inputs[node.inputs.index(value)].name)
        return base_name(value.name)

    def _column(self, values: tuple[Value, ...]) -> str:
        """The values of an indexed operand: every second of the starred inputs, or a tuple."""
        if self.star and all(v in self.fn.inputs[self.star[0] :] for v in values):
            start, stride = self.star[0], self.star[1]
            first = self.fn.inputs.index(values[0]) - start
            return self.star_name if stride == 1 else f"{self.star_name}[{first}::{stride}]"
        return f"({commas(self.arg(v).code for v in values)})"

    def _lists(self, run: Repeat, hold: dict[str, int], targets: Mapping[Value, str], i: int) -> dict[str, list[Value]]:
        """Lists of what is wanted from every segment; those that are returned in turns share one."""
        scope, found = self._scope, {}
        columns = dict(run.escapes)
        order = list(columns)
        groups = [order] if len(order) > 1 and self._in_turns([columns[v] for v in order]) else [[v] for v in order]
        for members in groups:
            base = f"new_{self.star_name}" if self.star_name else base_name(members[0].name)
            if len(members) > 1 and not self.star_name:
                base = "caches"
            name = base if base.endswith("s") else f"{base}s"
            while scope.hold.get(name, -1) > i or name in hold or name in targets.values():
                name += "_"
            scope.hold[name] = hold[name] = FOREVER
            for j, v in enumerate(members):
                for k, each in enumerate(columns[v]):
                    index = k * len(members) + j
                    scope.env[each] = Text(f"{name}[{index}]")
            found[name] = members
        return found

    def _in_turns(self, columns: list[tuple[Value, ...]]) -> bool:
        """Whether the columns are returned interleaved: a0, b0, a1, b1, …"""
        flat = [v for row in zip(*columns, strict=True) for v in row]
        return any(self.outputs[s : s + len(flat)] == flat for s in range(len(self.outputs)))

    def _listed(self, outputs: Sequence[Value], at: int, scope: _Scope) -> tuple[str, int] | None:
        """A whole list returned from position `at`: its name and length."""
        text = scope.env.get(outputs[at])
        if text is None or not text.code.endswith("[0]"):
            return None
        name, count = text.code[:-3], 0
        while at + count < len(outputs) and self._text_of(outputs[at + count], scope) == f"{name}[{count}]":
            count += 1
        return (name, count) if count > 1 else None

    @staticmethod
    def _text_of(value: Value, scope: _Scope) -> str:
        text = scope.env.get(value)
        return text.code if text else ""

    def _loop(self, node: Node, i: int, depth: int) -> list[str]:
        """A sampler's loop: its body printed in place."""
        scope, attrs = self._scope, node.attrs
        body_fn: Function = attrs.get("function") or self.context.module.functions[attrs["body"]]
        self.params |= {p.value for p in body_fn.params}
        keep, carry = attrs["invariants"], attrs["carried"]
        nodes, same = without_duplicates(body_fn.nodes)
        made = [same.get(v, v) for v in body_fn.outputs]
        nodes = _alive(nodes, made)
        self.constants.update({n.outputs[0]: n for n in nodes if n.op == "constant"})
        items = fold_repeats([n for n in nodes if n.op != "constant"], made)
        inputs = body_fn.inputs
        carried = [Carried(inputs[1 + keep + j], made[j], node.inputs[keep + j], node.outputs[j]) for j in range(carry)]
        tables = [self.arg(v).code for v in node.inputs[keep + carry :]]
        lines, env, hold, targets = self._enter(carried, i)
        for value, outside in zip(inputs[1 : 1 + keep], node.inputs[:keep], strict=True):
            env[value] = self.arg(outside)
        read = {v for item in items for v in operands(item)} | set(made)
        heads, columns = [], []
        rows = [(v, t) for v, t in zip(inputs[1 + keep + carry :], tables, strict=True) if v in read]
        if inputs[0] in read:
            rows.insert(0, (inputs[0], f"torch.arange({attrs['trip']}, device={self._device()})"))
        for value, table in rows:
            base = base_name(value.name)
            base = base[:-1] if base.endswith("s") and len(base) > 1 else base
            if base in self.inputs or base in hold:
                base = f"{base}_i"
            name, n = base, 1
            while name in hold or name in targets.values():
                n += 1
                name = f"{base}_{n}"
            hold[name] = 0
            env[value] = Text(name)
            heads.append(name)
            columns.append(table)
        over = f"range({attrs['trip']})" if not heads else columns[0] if len(heads) == 1 else f"zip({commas(columns)})"
        if self.context.progress:
            over = f"tqdm({over}, total={attrs['trip']}, leave=False, disable=None)"
        if len(heads) > 3:
            lines += self._layout(f"rows = {over}")
            over = "rows"
        header = f"for {commas(heads) or '_'} in {over}:"
        stacks = []
        for value, out in zip(made[carry:], node.outputs[carry:], strict=True):
            if out in scope.last:
                stacks.append((self._name(out, i, prefer=f"{base_name(value.name)}s"), value))
                hold[stacks[-1][0]] = FOREVER
        wanted = [*made[:carry], *(v for _, v in stacks)]
        body, inner = self._block(items, env, hold, wanted, targets, depth + 1)
        for name, value in stacks:
            lines.append(f"{name} = []")
            text = inner.env[value].code if value in inner.env else self.arg(value).code
            body.append(f"{name}.append({text})")
        body += self._leave(inner, carried, env)
        self._after(carried, env, i)
        after = [f"{name} = torch.stack({name})" for name, _ in stacks]
        return [*lines, *self._layout(header), *(f"    {line}" for line in body), *after]


# ---- facts about a function


def _mentions(line: str, name: str) -> bool:
    return re.search(rf"(?<![\w.]){re.escape(name)}\b", line.partition("  # ")[0]) is not None


def _alive(nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node]:
    """Nodes whose outputs reach the function's."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if any(o in wanted for o in node.outputs):
            wanted.update(node.inputs)
            kept.append(node)
    return kept[::-1]


def _label(dim: Dim) -> str | None:
    """The capitalised name of a size: what it is unpacked as."""
    if isinstance(dim, Sym):
        return dim.name
    return dim.expr if isinstance(dim, Named) and dim.expr.isidentifier() and dim.expr.isupper() else None


def _unpackable(fn: Function, count: int) -> dict[str, tuple[int, int, Dim]]:
    """{name: (input, axis, size)}: sizes that the shapes of the first `count` inputs, or of the first starred, give."""
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
    """(first, stride) of the inputs at the end that a run takes in turns, so that `*caches` can stand for them."""
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


__all__ = ["Body", "Context", "results"]
