"""The members of a class: its tree of submodules, parameters and buffers, and how each is reached."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc.emit.constants import LARGE, Constants
from latentc.emit.leaves import Leaf, buffer_value, constructor
from latentc.emit.lists import flat, nested
from latentc.emit.names import CONTAINER, LAYER, MODULE, is_plain, public
from latentc.emit.text import Call, Text, call, commas, layout, literal
from latentc.ir.core import Node, Param
from latentc.ir.inits import DETERMINISTIC
from latentc.ir.types import Named

if TYPE_CHECKING:
    from latentc.emit.classes import Classes, Printed


_NAME = re.compile(r"[A-Za-z_]\w*")


class EmitError(Exception):
    """A module that cannot be written as PyTorch classes: an internal error, never the user's."""


class Members:
    """Statements of a constructor. `access`: expressions of modules by path; `weights`: of parameters and buffers."""

    def __init__(
        self,
        owner: Classes,
        leaves: Mapping[str, Leaf],
        children: Mapping[str, Node],
        params: Mapping[str, Param],
        norms: Mapping[str, Call],
        size: Callable[..., Text],
        optional: Mapping[str, str] | None = None,
    ) -> None:
        self.owner, self.size, self.norms = owner, size, norms
        self.optional = optional or {}  # {member: constructor argument without which it is None}
        self.children = children
        self.access: dict[str, str] = {}
        self.weights: dict[str, str] = {}
        self.constants = Constants()
        self.reserved: set[str] = set(MODULE)  # names that constants must not have
        self.fixed: set[str] = set()  # sizes that the written lists of modules or children depend on
        self.leaves = {path: leaf for path, leaf in leaves.items() if self._child_above(path) is None}
        owned = {p.name: leaf.path for leaf in self.leaves.values() for p in leaf.params}
        self.plain = {name: p for name, p in params.items() if name not in owned}
        self.heads = {path.split(".")[0] for path in [*self.leaves, *self.children, *self.plain, *norms]}
        # A weight and a module may have the same path.
        modules = [name.rpartition(".")[0] for name in self.plain] + [*self.leaves, *children, *norms]
        self.both = {name for name in self.plain if any(f"{m}.".startswith(f"{name}.") for m in modules)}

    def _child_above(self, path: str) -> str | None:
        """The child that a dotted path leads into, if any."""
        return next((c for c in sorted(self.children, key=len) if path == c or path.startswith(f"{c}.")), None)

    def printed(self, path: str) -> Printed:
        return self.owner.of(self.children[path].attrs["fn"])

    def lines(self, order: Mapping[str, int]) -> list[str]:
        """Statements that create all members; `order` {name: index of its first use}."""
        modules = {path: constructor(leaf, self.size, self.helper) for path, leaf in self.leaves.items()}
        modules |= {path: self._child(path, node) for path, node in self.children.items()} | dict(self.norms)
        for name in self.plain:
            holder = name.rpartition(".")[0]
            held = any(f"{m}.".startswith(f"{holder}.") for m in modules)
            if holder and self._child_above(holder) is None and not held:
                modules[holder] = Call("nn.Module", {})
        tree: dict[str, Any] = {}
        late: dict[str, Call] = {}  # members below a module that a single call creates
        for path, made in sorted(modules.items(), key=lambda item: item[0].count(".")):
            inner = [path[:at] for at in range(len(path)) if path[at] == "."][1:] + [path] * ("." in path)
            if any(map(self._hidden, inner)) or not _insert(tree, path.split("."), made):
                late[path] = made
        tops = [*tree.items(), *((name, p) for name, p in self.plain.items() if "." not in name)]
        lines: list[str] = []
        for name, entry in sorted(tops, key=lambda item: order.get(item[0], len(order))):
            if isinstance(entry, Param):
                lines += self._plain(name, entry)
            else:
                self.access[name] = self._member("self", name)
                text = self._entry(entry, self.access[name], name)
                wanted = self.optional.get(name)
                lines += self._assigned("self", name, f"{text} if {wanted} else None" if wanted else text)
        for path, made in late.items():
            known = self.inside(path)
            if known is None:
                base = self._base(path.rpartition(".")[0], lines)
                lines += self._assigned(base, path, made.code)
                known = self._member(base, path)
            self.access[path] = known
        for path, leaf in self.leaves.items():
            self.weights |= {p.name: f"{self.access[path]}.{p.name.rpartition('.')[2]}" for p in leaf.params}
        for name, param in self.plain.items():
            if "." in name:
                known = self.inside(name, weight=True)
                if known is None:
                    self._base(name.rpartition(".")[0], lines)
                    lines += self._plain(name, param)
                else:
                    self.weights[name] = known
        return lines

    def _base(self, path: str, lines: list[str]) -> str:
        """The expression of a module; one that nothing else creates becomes a plain nn.Module."""
        if not path:
            return "self"
        known = self.access.get(path) or self.inside(path)
        if known is None:
            base = self._base(path.rpartition(".")[0], lines)
            lines += self._assigned(base, path, "nn.Module()")
            known = self._member(base, path)
        self.access[path] = known
        return known

    def inside(self, path: str, weight: bool = False) -> str | None:
        """The expression of a module (if `weight`: of a parameter or buffer) of a child, if that has it."""
        child = self._child_above(path)
        if child is None or child == path or child not in self.access:
            return None
        inner = self.printed(child).reach(path[len(child) + 1 :], weight)
        return None if inner is None else self.access[child] + inner

    def leaf_at(self, path: str) -> Leaf | None:
        """The leaf module at a dotted path, in this class or a child's."""
        child = self._child_above(path)
        if child is None or child == path:
            return self.leaves.get(path)
        return self.printed(child).members.leaf_at(path[len(child) + 1 :])

    def helper(self, name: str) -> str:
        self.owner.helpers[name] = None
        return name

    def _child(self, path: str, node: Node) -> Call:
        """`Attention(dim=width, heads=heads)`."""
        printed, written = self.printed(path), node.attrs.get("args") or {}
        self.fixed |= {name for a in printed.fixed if a in written for name in _names(written[a])}
        return self._made(printed, {a: self._given(value) for a, value in _arguments(printed, written).items()})

    def _given(self, value: Any, indices: Mapping[str, int] | None = None) -> Text:
        """An argument of a child: a size, or a flag."""
        return literal(value) if isinstance(value, bool) else self.size(value, indices)

    @staticmethod
    def _made(printed: Printed, values: Mapping[str, Text]) -> Call:
        if len(values) == 1 and list(values) == list(printed.arguments)[:1]:
            return Call.of(printed.name, [*values.values()])
        return Call.of(printed.name, [], **{printed.arguments[k]: v for k, v in values.items()})

    def _entry(self, entry: Any, access: str, path: str) -> str:
        """Text of a subtree; records the expression of each module in it."""
        self.access[path] = access
        if isinstance(entry, Call):
            return entry.code
        keys = list(entry)
        numbered = sorted(keys) == sorted(str(i) for i in range(len(keys)))
        keys = [str(i) for i in range(len(keys))] if numbered else keys
        parts, fixed = [], {*self.fixed}
        for key in keys:
            way = f"{access}[{key}]" if numbered else f"{access}[{literal(key).code}]"
            if not numbered and is_plain(key):
                way = f"{access}.{key}"
            parts.append(self._entry(entry[key], way, f"{path}.{key}"))
        if numbered and (text := self._nested(path, [entry[key] for key in keys])):
            self.fixed = fixed
            return text
        if numbered and len(parts) == 1:  # which methods call without a loop
            self.fixed |= {name for size in self.declared(path) for name in _names(size)}
        if numbered and len(parts) > 1 and len(set(parts)) == 1:
            return f"nn.ModuleList({parts[0]} for _ in range({self._count(path, len(parts))}))"
        if numbered and (part := self._indexed(path, len(parts))):
            index = "i" if re.search(r"\bi\b", part) else "_"
            return f"nn.ModuleList({part} for {index} in range({self._count(path, len(parts))}))"
        if numbered and (period := _period(parts)):
            rounds = f"{self._count(path, len(parts))} // {period}"
            return f"nn.ModuleList(block for _ in range({rounds}) for block in ({commas(parts[:period])}))"
        if numbered:
            self.fixed |= {name for size in self.declared(path) for name in _names(size)}
            modules = [each if isinstance(each, Call) else _calls(each) for each in map(entry.get, keys)]
            text = flat([each for each in modules if each], self._classes()) if all(modules) else None
            return text or f"nn.ModuleList([{commas(parts)}])"
        return f"nn.ModuleDict({{{commas(f'{literal(k).code}: {p}' for k, p in zip(keys, parts, strict=True))}}})"

    def _nested(self, path: str, lists: Sequence[Any]) -> str | None:
        """The text of a list of lists whose modules differ in arguments; None if they are others."""
        calls = [[] if isinstance(each, Call) else _calls(each) for each in lists]
        counts = [self.declared(f"{path}.{i}") for i in range(len(lists))]
        if any(len(each) < 2 or [len(each)] != count for each, count in zip(calls, counts, strict=True)):
            return None
        sizes = [(self.size(count).code, self.size(count - 1).code) for (count,) in counts]
        return nested(calls, sizes, self._classes())

    def _classes(self) -> set[str]:
        """The classes of the children."""
        return {self.printed(path).name for path in self.children}

    def _indexed(self, path: str, count: int) -> str | None:
        """One text for all modules of a list, with arguments that depend on the index `i`; None if there is none."""
        texts = []
        for i in range(count):
            node = self.children.get(f"{path}.{i}")
            if node is None or "count" not in node.attrs:
                return None
            printed, written = self.printed(f"{path}.{i}"), node.attrs.get("args") or {}
            given = _arguments(printed, written).items()
            texts.append(self._made(printed, {a: self._given(value, {"i": i}) for a, value in given}).code)
        return texts[0] if len(set(texts)) == 1 else None

    def _count(self, path: str, count: int) -> str:
        """The length of a list of modules, as the size that its calls declare."""
        return self.size(next((size for size in self.declared(path) if size == count), count)).code

    def lengths(self) -> dict[str, int]:
        """{expression of a list of modules: their number}."""
        paths = [*self.children, *self.leaves]
        entries = {path[:at] for path in paths for at in range(len(path) + 1) if path[at : at + 1] in (".", "")}
        bases = Counter(entry.rpartition(".")[0] for entry in entries if self.access.get(entry, "").endswith("]"))
        return {self.access[base]: count for base, count in bases.items() if base in self.access}

    def declared(self, path: str) -> list[int]:
        """The length that the calls of a list's first module declare, if they do."""
        return [n.attrs["count"] for name, n in self.children.items() if name == f"{path}.0" and "count" in n.attrs]

    def _hidden(self, path: str) -> bool:
        """True if `object.name` does not read the member at a path, because something else has its name.

        Such a member is assigned to and read from the dictionaries of nn.Module, so that it keeps its state-dict name.
        """
        holder, _, name = path.rpartition(".")
        if path in self.both or name in MODULE or name.startswith("_"):
            return True
        if not holder:
            return False
        if holder in self.children:
            return name in self.printed(holder).attributes
        return name in (LAYER if holder in self.leaves else CONTAINER if self._child_above(holder) is None else ())

    def _member(self, base: str, path: str, registry: str = "_modules") -> str:
        """The expression of the member at a path; `base` is that of the object that has it."""
        name = path.rpartition(".")[2]
        if self._hidden(path):
            return f"{base}.{registry}[{literal(name).code}]"
        getter = {"_modules": "get_submodule", "_parameters": "get_parameter", "_buffers": "get_buffer"}[registry]
        return f"{base}.{name}" if is_plain(name) else f"{base}.{getter}({literal(name).code})"

    def _assigned(self, base: str, path: str, value: str) -> list[str]:
        name = path.rpartition(".")[2]
        if is_plain(name) or self._hidden(path):
            return layout("", f"{self._member(base, path)} = {value}", reserve=8)
        return layout("", call(f"{base}.add_module", [literal(name), value]).code, reserve=8)

    def _plain(self, path: str, param: Param) -> list[str]:
        """A parameter or buffer that no leaf module holds."""
        holder, _, name = path.rpartition(".")
        base = self.access[holder] if holder else "self"
        weight, hidden = param.kind == "weight", self._hidden(path)
        self.weights[path] = access = self._member(base, path, "_parameters" if weight else "_buffers")
        if not weight:
            value = buffer_value(param, self.size, self.helper)
            fixed = param.kind == "buffer" and param.init.kind in DETERMINISTIC - {"count"}
            persistent = False if fixed else None
            if hidden:
                kept = [f"{base}._non_persistent_buffers_set.add({literal(name).code})"] * fixed
                return [*layout("", f"{access} = {value}", reserve=8), *kept]
            made = call(f"{base}.register_buffer", [literal(name), value], persistent=persistent)
            return layout("", made.code, reserve=8)
        dims = commas(self.size(d).code for d in param.type.shape) or "()"
        value = f"nn.Parameter(torch.empty({dims}))"
        if is_plain(name) or hidden:
            return layout("", f"{access} = {value}", reserve=8)
        return layout("", call(f"{base}.register_parameter", [literal(name), value]).code, reserve=8)

    # ---- constants

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> str:
        """The expression of a constant array, a buffer of that name."""
        return f"self.{self.constants.add(public(name), array, self.heads | self.reserved)}"

    def constant_lines(self) -> list[str]:
        lines: list[str] = []
        for name, array in self.constants.items():
            ones = next((i for i, size in enumerate(array.shape[:-2]) if size != 1), max(array.ndim - 2, 0))
            ones = ones if array.ndim - ones > 1 and array.shape[ones] > 1 else 0
            leading = f"[{commas(['None'] * ones)}]" if ones else ""
            inner = array.reshape(array.shape[ones:])
            value = _even(array) or f"torch.tensor({literal(inner.tolist()).code}){leading}"
            if array.size > LARGE:
                value = f"CONSTANTS[{literal(self.owner.constants.add(name, array)).code}]"
                value += ".float()" if array.dtype.kind == "f" else ""
            lines += layout("", call("self.register_buffer", [literal(name), value], persistent=False).code, reserve=8)
        return lines


def _calls(modules: Mapping[str, Any]) -> list[Call]:
    """The calls that make the modules of a list, in order; empty if it holds others."""
    calls = [modules.get(str(i)) for i in range(len(modules))]
    return [made for made in calls if isinstance(made, Call)] if all(isinstance(made, Call) for made in calls) else []


def _arguments(printed: Printed, written: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of a call: sizes as the caller writes them; flags if the caller sets or passes them."""
    given = {**printed.values, **{a: size for a, size in written.items() if isinstance(size, Named)}}
    return {a: given[a] for a in printed.arguments if a in given}


def _names(size: int) -> set[str]:
    """The static arguments in a size."""
    return {*_NAME.findall(f"{size.expr} {size.meaning}")} if isinstance(size, Named) else set()


def _even(array: np.ndarray[Any, Any]) -> str | None:
    """`torch.linspace(0, 0.1, 12)` of numbers from 0 on at equal distances, if they are four or more."""
    if array.ndim != 1 or array.dtype.kind != "f" or array.size < 4:
        return None
    even = np.linspace(0, array[-1], array.size)
    if not array[-1] or not np.allclose(array, even, rtol=1e-12, atol=0):
        return None
    return call("torch.linspace", [literal(0), literal(float(array[-1])), literal(array.size)]).code


def _period(parts: list[str]) -> int | None:
    """After how many texts a list begins again, if it is that list several times over; two at least."""
    periods = (n for n in range(2, len(parts) // 2 + 1) if len(parts) % n == 0)
    return next((n for n in periods if parts == parts[:n] * (len(parts) // n)), None)


def _insert(tree: dict[str, Any], path: list[str], made: Call) -> bool:
    """Puts a module into the tree; False if a call creates one of its parents."""
    *heads, last = path
    for part in heads:
        inner = tree.setdefault(part, {})
        if isinstance(inner, Call):
            return False
        tree = inner
    tree[last] = made
    return True
