"""Blocks of statements with their loops: over lists of modules, and over the steps of samplers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from latentc.emit.expressions import Scope
from latentc.emit.repeats import Carried, Repeat, fold_repeats, operands, path_of, plain, without_duplicates
from latentc.emit.statements import FOREVER, Statements, alive
from latentc.emit.text import WIDTH, Text, base_name, commas, free_name, identifier, plural, singular
from latentc.ir.core import Function, Node, Value

UNFINISHED = "not finished"
"""How the message of the RuntimeError begins that a loop raises if it has not ended after all its steps."""


class Loops(Statements):
    """Prints blocks; a carried value keeps one name before, in and after its loop."""

    def _block(
        self,
        items: Sequence[Node | Repeat],
        env: dict[Value, Text],
        hold: dict[str, int],
        wanted: Sequence[Value],
        targets: Mapping[Value, str],
        depth: int,
        final: bool = False,
        push: Value | None = None,
    ) -> tuple[list[str], Scope]:
        """Statements of `items`, not indented, and their scope.

        `wanted` values keep their names to the end, if possible those in `targets`. `depth` is the indentation level
        that the block will get, for line lengths. `push` is put on the stack of skips as soon as it is there.
        """
        outer = self._scope
        self._reserve = self.context.indent + 4 * (depth - 1)
        scope = self._scope = Scope(dict(env), dict(hold))
        self._fold(items, wanted if final else (), [*wanted, *([push] if push else [])])
        for i, leaves in enumerate([self._leaves(item) for item in items]):
            scope.last |= dict.fromkeys(leaves, i)
        if push:
            made = next(i for i, item in enumerate(items) if push in item.outputs)
            scope.last[push] = max(made, scope.last.get(push, made))
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
            elif item.op == "branch":
                lines += self._branch(item, i, depth)
            elif item.op == "guided" and len(item.outputs) > 1:
                lines += self._guided(item, i, targets)
            else:
                lines += self._statement(item, i, targets)
            pushed = [
                scope.env[v].code for v in item.outputs if v is push or (isinstance(item, Node) and v in self.pushed)
            ]
            lines += self._push(pushed) if pushed else []
        self._reserve = self.context.indent + 4 * (depth - 2 if depth > 1 else 0)
        if not final:
            self._scope = outer
        return lines, scope

    def _repeats(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> list[Node | Repeat]:
        """The nodes without constants, each run over a module list as one item; free functions have no lists."""
        plain = [n for n in nodes if n.op != "constant"]
        return list(plain) if self.context.free else fold_repeats(plain, outputs, self._method)

    def _enter(
        self, carried: Sequence[Carried], i: int, kept: Sequence[Value]
    ) -> tuple[list[str], dict[Value, Text], dict[str, int], dict[Value, str]]:
        """Before a loop: names each carried value. Returns (lines, the body's `env`, its `hold`, its targets).

        A carried value does not take the name of a value in `kept`, which the body reads unchanged.
        """
        scope, lines = self._scope, []
        targets: dict[Value, str] = {}
        given: dict[Value, str] = {}
        taken: set[str] = set()
        read = {self.arg(v).code for v in kept}
        for c in carried:
            text = self.tensor(c.first).code
            reuse = (
                text not in read
                and text.isidentifier()
                and max(scope.last.get(c.first, i), scope.hold.get(text, i)) <= i
                and text not in taken
            )
            if reuse and c.first in scope.env:
                name = text
            else:
                others = {self.arg(other.first).code for other in carried if other is not c}
                name = free_name(base_name(c.given.name), taken | read | others | scope.held_after(i))
                lines.append(f"{name} = {text}")
            taken.add(name)
            scope.hold[name] = FOREVER
            given[c.given] = name
            targets.setdefault(c.made, name)
        hold = {n: FOREVER for n, until in scope.hold.items() if until >= i and n not in taken}
        env = {v: t for v, t in scope.env.items() if not t.code.isidentifier() or t.code in hold}
        env.update((v, Text(n)) for v, n in given.items())
        return lines, env, hold, targets

    def _leave(self, inner: Scope, carried: Sequence[Carried], env: Mapping[Value, Text]) -> list[str]:
        """At the end of a loop's body: assigns new values to the names that carry them."""
        outer, self._scope = self._scope, inner
        pairs = [(env[c.given].code, self.tensor(c.made).code) for c in carried]
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
        lines, env, hold, targets = self._enter(run.carried, i, run.invariants)
        columns, heads, elements = [], [], dict[str, str]()
        levels = [path_of(n).rpartition(".")[0] for n in run.nodes if isinstance(n, Repeat)]
        for path, first in run.lists:
            base = path.rpartition(".")[2]
            element = singular(base) if singular(base) != base and base.isidentifier() else "block"
            if len(run.lists) > 1 and singular(base) == base:
                element = identifier(base)
            element = "level" if path in levels else element
            while element in hold or element in targets.values():
                element += "_"
            hold[element] = FOREVER
            elements[path] = element
            modules = self.context.modules(path, range(first, first + run.count), self.element(path))
            columns.append(f"reversed({modules})" if run.backwards else modules)
            heads.append(element)
        self.unshown |= {v for v, column in run.made if len({tuple(each.type.shape) for each in column}) > 1}
        if levels:
            self.unshown |= {v for node in plain(run.nodes) for v in node.outputs}
        for value, values in run.indexed:
            formal = self._formal_name(run, value)
            while formal in hold or formal in targets.values():
                formal += "_i"
            env[value] = Text(formal)
            columns.append(self._column(values))
            heads.append(formal)
        if run.pushes or not self.pushed.isdisjoint(v for v, _ in run.made):
            lines += self._push([])
        if run.popped is not None:
            env[run.popped] = Text(f"{self.stack}.pop()")
        lists = self._lists(run, hold, {*targets.values(), *heads}, i)
        over = f"zip({commas(columns)})" if len(columns) > 1 else columns[0]
        header = f"for {commas(heads)} in {over}:"
        tails = [(v, column[-1]) for v, column in run.made if column[-1] in scope.last and v not in targets]
        tails = [(v, last) for v, last in tails if v not in dict(run.escapes)]
        wanted = [*(c.made for c in run.carried), *(v for v, _ in run.escapes), *(v for v, _ in tails)]
        outer, self._elements = self._elements, {**self._elements, **elements}
        body, inner = self._block(run.nodes, env, hold, wanted, targets, depth + 1, push=run.pushed)
        self._elements = outer
        for name, members in lists.items():
            lines.append(f"{name} = []")
            texts = [inner.env[v].code for v in members]
            body.append(f"{name}.append({texts[0]})" if len(texts) == 1 else f"{name} += [{commas(texts)}]")
        moved = {env[c.given].code for c in run.carried if inner.env[c.made].code != env[c.given].code}
        for v, last in tails:
            name = inner.env[v].code
            if name in moved:  # the next segment is given something else by that name
                name = free_name(name, inner.hold)
                body.append(f"{name} = {inner.env[v].code}")
            scope.env[last], scope.hold[name] = Text(name), scope.last.get(last, i)
        body += self._leave(inner, run.carried, env)
        self._after(run.carried, env, i)
        return [*lines, *self._layout(header), *(f"    {line}" for line in body)]

    def _push(self, names: Sequence[str]) -> list[str]:
        """Pushes values on the stack of skips; the first push creates it."""
        if self.stack:
            return [f"{self.stack}.append({name})" for name in names]
        scope, self.stack = self._scope, "skips"
        while scope.hold.get(self.stack, -1) >= 0 or self.stack in self.inputs:
            self.stack += "_"
        scope.hold[self.stack] = FOREVER
        return [f"{self.stack} = [{commas(names)}]"]

    def _formal_name(self, run: Repeat, value: Value) -> str:
        """The callee's name for the argument `value`, or the value's own name."""
        for node in plain(run.nodes):
            if node.op == "call" and value in node.inputs:
                callee = self.context.module.functions[node.attrs["fn"]]
                return identifier(callee.inputs[node.inputs.index(value)].name)
        return base_name(value.name)

    def _column(self, values: tuple[Value, ...]) -> str:
        """The values of an indexed operand: a stride of the starred inputs, or a tuple."""
        if self.star and all(v in self.fn.inputs[self.star[0] :] for v in values):
            start, stride = self.star[0], self.star[1]
            first = self.fn.inputs.index(values[0]) - start
            return self.star_name if stride == 1 else f"{self.star_name}[{first}::{stride}]"
        for name, held in self.collected.items():
            if values in (held, held[::-1]):
                return name if values == held else f"reversed({name})"
        texts = [self.arg(v).code for v in values]
        return self._slice(texts) or f"({commas(texts)})"

    def _slice(self, texts: Sequence[str]) -> str | None:
        """`rates[2:5]` of `rates[2]`, `rates[3]`, `rates[4]`; None if the texts are no such rows."""
        found = [re.fullmatch(r"([\w.]+)\[(\d+)\]", text) for text in texts]
        rows = [(row[1], int(row[2])) for row in found if row]
        if len(rows) < len(texts) or rows != [(rows[0][0], rows[0][1] + k) for k in range(len(rows))]:
            return None
        (name, first), stop = rows[0], rows[-1][1] + 1
        part = f"[{first or ''}:{'' if stop == self.vectors.get(name) else stop}]"
        return name if part == "[:]" else f"{name}{part}"

    def _lists(self, run: Repeat, hold: dict[str, int], taken: set[str], i: int) -> dict[str, list[Value]]:
        """Lists that collect an output of every segment; outputs that are returned interleaved share one list.

        `taken` are names that the loop gives to other values.
        """
        scope, found = self._scope, {}
        columns = dict(run.escapes)
        order = list(columns)
        groups = [order] if len(order) > 1 and self._in_turns([columns[v] for v in order]) else [[v] for v in order]
        for members in groups:
            base = f"new_{self.star_name}" if self.star_name else base_name(members[0].name)
            if len(members) > 1 and not self.star_name:
                base = "caches"
            name = plural(base)
            while scope.hold.get(name, -1) > i or name in hold or name in taken:
                name += "_"
            scope.hold[name] = hold[name] = FOREVER
            for j, v in enumerate(members):
                for k, each in enumerate(columns[v]):
                    index = k * len(members) + j
                    scope.env[each] = Text(f"{name}[{index}]")
            found[name] = members
            if len(members) == 1:
                self.collected[name] = columns[members[0]]
        return found

    def _in_turns(self, columns: list[tuple[Value, ...]]) -> bool:
        """True if the function returns the columns interleaved: a0, b0, a1, b1, …"""
        flat = [v for row in zip(*columns, strict=True) for v in row]
        return any(self.outputs[s : s + len(flat)] == flat for s in range(len(self.outputs)))

    def _branch(self, node: Node, i: int, depth: int) -> list[str]:
        """The arms of a branch as `if` and `elif`; each output has one name before, in and after them."""
        scope, arms, firsts = self._scope, node.attrs["arms"], node.attrs["firsts"]
        assert self.context.condition is not None
        pairs = list(zip(node.outputs, firsts, strict=True))
        carried = [Carried(first, first, first, out) for out, first in pairs if first is not None]
        kept = [v for v in node.inputs if v not in firsts]
        lines, env, hold, _ = self._enter(carried, i, kept)
        names = {c.last: env[c.given].code for c in carried}
        for out, first in pairs:
            if first is None:
                names[out] = self._name(out, i)
        for k, arm in enumerate(arms):
            made = {out: v for out, v in zip(node.outputs, arm.made, strict=True) if v is not None}
            targets = {v: names[out] for out, v in made.items()}
            left = {names[out]: FOREVER for out in node.outputs if out not in made}
            body, inner = self._block(arm.nodes, env, hold | left, list(made.values()), targets, depth + 1)
            moves = [(names[out], inner.env[v].code) for out, v in made.items() if names[out] != inner.env[v].code]
            body += [f"{commas(a for a, _ in moves)} = {commas(b for _, b in moves)}"] if moves else []
            word = "if" if k == 0 else "elif"
            condition = self.context.condition(arm.condition) if arm.condition.name else ""
            header = f"{word} {condition}:" if condition else "else:"
            lines += [*self._layout(header), *(f"    {line}" for line in body)]
        for out, name in names.items():
            scope.env[out] = Text(name)
            scope.hold[name] = scope.last.get(out, i)
        return lines

    def _loop(self, node: Node, i: int, depth: int) -> list[str]:
        """A sampler's loop: its body printed in place."""
        scope, attrs = self._scope, node.attrs
        body_fn: Function = attrs.get("function") or self.context.module.functions[attrs["body"]]
        self.params |= {p.value for p in body_fn.params}
        keep, carry = attrs["invariants"], attrs["carried"]
        nodes, same = without_duplicates(body_fn.nodes)
        made = [same.get(v, v) for v in body_fn.outputs]
        nodes = alive(nodes, made)
        self.constants.update({n.outputs[0]: n for n in nodes if n.op == "constant"})
        given = zip(body_fn.inputs[1 : 1 + keep], node.inputs[:keep], strict=True)
        self.numbers |= {value for value, outside in given if self.number(outside)}
        self._find_numbers(nodes)
        items = self._repeats(nodes, made)
        inputs = body_fn.inputs
        carried = [Carried(inputs[1 + keep + j], made[j], node.inputs[keep + j], node.outputs[j]) for j in range(carry)]
        tables = [self.arg(v).code for v in node.inputs[keep + carry :]]
        lines, env, hold, targets = self._enter(carried, i, node.inputs[:keep])
        for value, outside in zip(inputs[1 : 1 + keep], node.inputs[:keep], strict=True):
            env[value] = self.arg(outside)
        read = {v for item in items for v in operands(item)} | set(made)
        heads, columns, trip = [], [], self.size(attrs["trip"]).code
        rows = [(v, t) for v, t in zip(inputs[1 + keep + carry :], tables, strict=True) if v in read]
        planned = self.context.plan.loops[self.loops] if self.context.plan and depth == 1 else None
        if planned is not None:
            self.loops += 1
            env |= {v: Text(f"step.{planned.columns[v.name]}") for v, _ in rows if v.name in planned.columns}
            rows = [(v, t) for v, t in rows if v.name not in planned.columns]
            heads, columns = ["step"], [planned.text(self.inputs[0])]
        if inputs[0] in read:
            rows.insert(0, (inputs[0], f"torch.arange({trip}, device={self._device()})"))
        for value, table in rows:
            base = singular(base_name(value.name))
            if base in self.inputs or base in hold:
                base = f"{base}_i"
            name = free_name(base, {*hold, *targets.values()})
            hold[name] = 0
            env[value] = Text(name)
            heads.append(name)
            columns.append(table)
        over = f"range({trip})" if not heads else columns[0] if len(heads) == 1 else f"zip({commas(columns)})"
        if self.context.progress and planned is not None and len(heads) == 1:
            over = f"tqdm({over}, leave=False, disable=None)"
        elif self.context.progress and planned is not None:
            count = f'total=len({planned.name}["t"])'
            over = f"tqdm({over}, {count}, leave=False, disable=None)"
        elif self.context.progress:
            over = f"tqdm({over}, total={trip}, leave=False, disable=None)"
        if len(heads) > 3:
            rows_name = free_name("rows", {*hold, *targets.values(), *self.inputs})
            lines += self._layout(f"{rows_name} = {over}")
            over = rows_name
        header = f"for {commas(heads) or '_'} in {over}:"
        if len(heads) > 3 and len(header) > WIDTH - 4 * depth:  # with parentheses it can be broken at commas
            header = f"for ({commas(heads)}) in {over}:"
        stacks = []
        for value, out in zip(made[carry:], node.outputs[carry:], strict=True):
            if out in scope.last:
                stacks.append((self._name(out, i - 1, prefer=plural(base_name(value.name))), value))
                hold[stacks[-1][0]] = FOREVER
        wanted = [*made[:carry], *(v for _, v in stacks)]
        body, inner = self._block(items, env, hold, wanted, targets, depth + 1)
        for name, value in stacks:
            lines.append(f"{name} = []")
            text = inner.env[value].code if value in inner.env else self.tensor(value).code
            body.append(f"{name}.append({text})")
        body += self._leave(inner, carried, env)
        self._after(carried, env, i)
        body = body or ["pass"]
        after = [f"{name} = torch.stack({name})" for name, _ in stacks]
        if (until := attrs.get("until")) is not None:
            body += [f"if {env[carried[until].given].code}:", "    break"]
            why = f"{UNFINISHED} after {trip} steps: emit it again with more, or wider tolerances"
            after += ["else:", f'    raise RuntimeError("{why}")']
        return [*lines, *self._layout(header), *(f"    {line}" for line in body), *after]
