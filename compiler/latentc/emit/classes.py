"""Functions with an origin as nn.Module classes: one a class, its methods together, equal texts shared."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentc.emit.body import Body, Context
from latentc.emit.expressions import Expressions
from latentc.emit.leaves import (
    NORMS,
    buffer_value,
    constructor,
    find_leaves,
    initialisation,
    leaf_of,
    same_leaf,
    spectral_layers,
)
from latentc.emit.text import Text, call, commas, docstring, identifier, layout, literal, size_text
from latentc.ir.core import CALLS, Function, Module, Node, Origin, Param, Value
from latentc.ir.inits import DETERMINISTIC
from latentc.ir.types import Named

_SELF = "@CLASS@"  # a class's own name while its text is compared with others'


class EmitError(Exception):
    """A module that has no text as PyTorch classes; a fault of ours, not of a spec."""


@dataclass(frozen=True)
class Printed:
    """A class as printed: its name, the constructor arguments it takes, and the method that each function became."""

    name: str
    arguments: tuple[str, ...]
    methods: Mapping[str, str]


class Classes:
    """Prints the classes that functions belong to; `texts` are the definitions so far, callees before callers."""

    def __init__(self, module: Module) -> None:
        self.module = module = module.with_(functions={n: spectral_layers(f) for n, f in module.functions.items()})
        self.texts: list[str] = []
        self.helpers: dict[str, None] = {}
        self._printed: dict[Any, Printed] = {}
        self._by_text: dict[str, Printed] = {}
        self._names: set[str] = set()
        self._groups: dict[Any, list[Function]] = {}
        for fn in module.functions.values():
            if fn.origin is not None:
                self._groups.setdefault(_key(fn.origin), []).append(fn)

    def of(self, function: str) -> Printed:
        """The class of a function, printed at first use. Raises EmitError if it has none."""
        origin = self.module.functions[function].origin
        if origin is None:
            raise EmitError(f"function {function} belongs to no class")
        key = _key(origin)
        if key not in self._printed:
            self._printed[key] = self._print(self._groups[key])
        return self._printed[key]

    def _print(self, functions: list[Function]) -> Printed:
        origin = functions[0].origin
        assert origin is not None
        text, arguments, methods = _ClassPrinter(self, functions).text()
        if text in self._by_text:
            known = self._by_text[text]
            return Printed(known.name, known.arguments, methods)
        name, n = identifier(origin.cls), 1
        while name in self._names:
            n += 1
            name = f"{identifier(origin.cls)}{n}"
        self._names.add(name)
        self.texts.append(text.replace(_SELF, name))
        printed = self._by_text[text] = Printed(name, arguments, methods)
        return printed


def _key(origin: Origin) -> Any:
    return origin.cls, tuple((k, int(v) if isinstance(v, Named) else repr(v)) for k, v in origin.args.items())


class _ClassPrinter:
    """One class: its tree of submodules, constructor, initialisation and methods."""

    def __init__(self, owner: Classes, functions: list[Function]) -> None:
        self.owner, self.functions = owner, functions
        assert functions[0].origin is not None
        self.args = functions[0].origin.args
        self.sizes = {k: int(v) for k, v in self.args.items() if isinstance(v, int) and not isinstance(v, bool)}
        self.in_constructor: dict[str, None] = {}
        self.attributes: dict[str, None] = {}
        self.parts = [part for fn in functions for part in _with_loops(owner.module, fn)]
        self.leaves = find_leaves(self.parts)
        self.params: dict[str, Param] = {}
        for fn in self.parts:
            for p in fn.params:
                known = self.params.setdefault(p.name, p)
                if known.type != p.type:
                    raise EmitError(f"{fn.name}: {p.name} is {p.type} here and {known.type} in another method")
        owned = {p.name for leaf in self.leaves.values() for p in leaf.params}
        self.plain = {name: p for name, p in self.params.items() if name not in owned}
        self.children = self._children()
        self.norms = self._free_norms()
        self.access: dict[str, str] = {}

    def _children(self) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for fn in self.parts:
            for node in fn.nodes:
                if node.op in CALLS and not self._is_own(node):
                    if not node.attrs["name"]:
                        raise EmitError(f"{fn.name} calls {node.attrs['fn']} without a name")
                    found.setdefault(node.attrs["name"], node)
        return found

    def _is_own(self, node: Node) -> bool:
        """Whether a call is of another method of this very module."""
        origin = self.owner.module.functions[node.attrs["fn"]].origin
        own = self.functions[0].origin
        return not node.attrs["name"] and origin is not None and own is not None and _key(origin) == _key(own)

    def _free_norms(self) -> dict[Value, tuple[str, str]]:
        """Norms without weights as modules too: {output: (name, constructor)}."""
        heads = {p.split(".")[0] for p in [*self.leaves, *self.plain, *self.children]}
        per_function = [[n for n in fn.nodes if n.op in NORMS and len(n.inputs) == 1] for fn in self.functions]
        most = max((len(nodes) for nodes in per_function), default=0)
        result: dict[Value, tuple[str, str]] = {}
        texts: dict[str, str] = {}
        if most > 4:
            return {}
        for nodes in per_function:
            for i, node in enumerate(nodes):
                name = "norm" if most == 1 else f"norm{i + 1}"
                width, eps = self._size(node.inputs[0].type.shape[-1]), node.attrs["eps"]
                text = call(NORMS[node.op], [width], elementwise_affine=False, eps=eps).code
                if name not in heads and texts.setdefault(name, text) == text:
                    result[node.outputs[0]] = (name, text)
        return result

    def _size(self, value: Any) -> Text:
        """A size in the constructor."""

        def spelled(name: str) -> str:
            self.in_constructor[name] = None
            return name

        return size_text(value, self.sizes, spelled)

    def _attribute(self, name: str) -> str:
        self.attributes[name] = None
        taken = {p.split(".")[0] for p in [*self.leaves, *self.plain, *self.children]}
        return f"self.{name}_" if name in taken else f"self.{name}"

    # ---- text

    def text(self) -> tuple[str, tuple[str, ...], dict[str, str]]:
        """(definition with a stand-in for its own name, constructor arguments, {function: method})."""
        built = self._submodules()
        methods, bodies = self._methods()
        init = initialisation(
            [(self.access[path], leaf) for path, leaf in self.leaves.items()],
            [(self.access[n], p) for n, p in self.plain.items() if p.kind == "weight"],
            lambda size: size_text(size, self.sizes, self._attribute),
        )
        written = "\n".join([*init, *(line for body in bodies for line in body)])
        self.attributes = {a: None for a in self.attributes if re.search(rf"self\.{a}_?\b", written)}
        arguments = tuple(a for a in self.args if a in self.in_constructor or a in self.attributes)
        doc = next((fn.doc for fn in self.functions if fn.doc), "")
        lines = [f"class {_SELF}(nn.Module):", *docstring(doc, "    ")]
        signature = commas(["self", *(f"{identifier(a)}: int" for a in arguments)])
        constructor_lines = ["super().__init__()"]
        constructor_lines += [f"{self._attribute(a)} = {identifier(a)}" for a in arguments if a in self.attributes]
        constructor_lines += built
        if init:
            constructor_lines.append("self.reset_parameters()")
        lines += ["" if doc else None, *layout("    ", f"def __init__({signature}):")]  # type: ignore[list-item]
        lines += [f"        {line}" for line in constructor_lines]
        if init:
            lines += ["", "    def reset_parameters(self):", *(f"        {line}" for line in init)]
        for body in bodies:
            lines += ["", *body]
        return "\n".join(line for line in lines if line is not None) + "\n", arguments, methods

    def _methods(self) -> tuple[dict[str, str], list[list[str]]]:
        """Methods with different texts get different names."""
        methods: dict[str, str] = {}
        seen: dict[str, str] = {}
        taken: set[str] = set()
        texts = []
        docs = {fn.doc for fn in self.functions}
        for fn in self.functions:
            assert fn.origin is not None
            signature, lines = self._method(fn, with_doc=len(docs) > 1)
            key = "\n".join([fn.origin.method, signature, *lines])
            if key in seen:
                methods[fn.name] = seen[key]
                continue
            name, n = identifier(fn.origin.method), 1
            while name in taken:
                n += 1
                name = f"{identifier(fn.origin.method)}_{n}"
            taken.add(name)
            seen[key] = methods[fn.name] = name
            texts.append([*layout("    ", f"def {name}{signature}:"), *(f"        {x}".rstrip() for x in lines)])
        return methods, texts

    def _method(self, fn: Function, with_doc: bool) -> tuple[str, list[str]]:
        params = {p.value: p for part in _with_loops(self.owner.module, fn) for p in part.params}
        context = Context(
            self.owner.module,
            self.sizes,
            self._attribute,
            lambda v: Text(self.access[params[v].name]),
            lambda node, body: self._leaf(node, body, params),
            self._call,
            self._modules,
            helpers=self.owner.helpers,
        )
        body = Body(fn, context)
        inputs = [f"{name}: Tensor" for name in body.inputs]
        if body.star:
            inputs.append(f"*{body.star_name}: Tensor")
        result = "Tensor" if len(fn.outputs) == 1 else "tuple[Tensor, ...]"
        lines = docstring(fn.doc, "", 8) if with_doc and fn.doc and fn is not self.functions[0] else []
        return f"({commas(['self', *inputs])}) -> {result}", [*lines, *body.lines]

    def _modules(self, base: str, first: int, stop: int) -> str:
        """Modules `first` to `stop - 1` of a list."""
        count = sum(name.rpartition(".")[0] == base for name in self.children)
        part = f"[{first or ''}:{stop if stop < count else ''}]"
        return self.access[base] + ("" if part == "[:]" else part)

    def _leaf(self, node: Node, body: Expressions, params: dict[Value, Param]) -> Text | None:
        if node.outputs and node.outputs[0] in self.norms and len(node.inputs) == 1:
            return Text(f"self.{self.norms[node.outputs[0]][0]}({body.arg(node.inputs[0]).code})")
        leaf = leaf_of(node, params)
        if leaf is None or not same_leaf(leaf, self.leaves[leaf.path]):
            return None
        operand = node.inputs[1] if node.op == "embedding" else node.inputs[0]
        return Text(f"{self.access[leaf.path]}({body.tensor(operand).code})")

    def _call(self, node: Node, args: list[Text], element: str) -> Text:
        name, fn = node.attrs["name"], node.attrs["fn"]
        if self._is_own(node):
            origin = self.owner.module.functions[fn].origin
            assert origin is not None
            return call("self" if origin.method == "forward" else f"self.{identifier(origin.method)}", args)
        callee = self.access.get(name, "")
        base, _, variable = element.partition(" ")
        if variable and re.fullmatch(re.escape(base) + r"\.\d+", name):
            callee = variable
        method = self.owner.of(fn).methods[fn]
        return call(callee if method == "forward" else f"{callee}.{method}", args)

    # ---- submodules

    def _child(self, node: Node) -> str:
        """`Attention(dim=width, heads=heads)`."""
        fn = self.owner.module.functions[node.attrs["fn"]]
        assert fn.origin is not None
        printed = self.owner.of(fn.name)
        written = node.attrs.get("args") or {}
        values = {a: self._size(written.get(a, int(fn.origin.args[a]))) for a in printed.arguments}
        same = [v.code for v in values.values()]
        if len(values) == 1:
            return call(printed.name, same).code
        return call(printed.name, [f"{identifier(k)}={v.code}" for k, v in values.items()]).code

    def _submodules(self) -> list[str]:
        tree: dict[str, Any] = {}
        for path, leaf in self.leaves.items():
            _insert(tree, path.split("."), constructor(leaf, self._size, self._helper))
        for path, node in self.children.items():
            _insert(tree, path.split("."), self._child(node))
        lines = []
        tree.update(self.norms.values())
        for name, param in self.plain.items():
            if not name.isidentifier():
                raise EmitError(f"{name} is neither a leaf module nor a plain name")
            if name in tree:
                raise EmitError(f"{name} is both a parameter and a module")
            self.access[name] = f"self.{name}"
            tree[name] = param
        for name, entry in _in_order(tree, self._first_uses()):
            if isinstance(entry, Param):
                lines += layout("", self._plain(name, entry), reserve=8)
            else:
                lines += layout("", f"self.{name} = {self._entry(entry, f'self.{name}', name)}", reserve=8)
        return lines

    def _first_uses(self) -> dict[str, int]:
        """Order in which names at the top are first used, so that the constructor reads as forward does."""
        order: dict[str, int] = {}
        for fn in self.parts:
            names = {p.value: p.name for p in fn.params}
            for node in fn.nodes:
                used = [names[v] for v in node.inputs if v in names]
                if node.outputs and node.outputs[0] in self.norms:
                    used.append(self.norms[node.outputs[0]][0])
                for name in [*used, str(node.attrs.get("name", ""))]:
                    order.setdefault(name.split(".")[0], len(order))
        return order

    def _entry(self, entry: Any, access: str, path: str) -> str:
        """Text of a subtree; notes how each module in it is reached."""
        if isinstance(entry, str):
            self.access[path] = access
            return entry
        keys = list(entry)
        numbered = keys == [str(i) for i in range(len(keys))]
        self.access[path] = access
        parts = []
        for key in keys:
            if numbered:
                way = f"{access}[{key}]"
            else:
                way = f"{access}.{key}" if key.isidentifier() else f"{access}[{literal(key).code}]"
            parts.append(self._entry(entry[key], way, f"{path}.{key}"))
        if numbered and len(parts) > 1 and len(set(parts)) == 1:
            return f"nn.ModuleList([{parts[0]} for _ in range({self._count(path, len(parts))})])"
        if numbered:
            return f"nn.ModuleList([{commas(parts)}])"
        return f"nn.ModuleDict({{{commas(f'{literal(k).code}: {p}' for k, p in zip(keys, parts, strict=True))}}})"

    def _count(self, path: str, count: int) -> str:
        """How many modules a list has, as the size that its calls give."""
        sizes = (n.attrs["count"] for name, n in self.children.items() if name == f"{path}.0" and "count" in n.attrs)
        return self._size(next((size for size in sizes if size == count), count)).code

    def _plain(self, name: str, param: Param) -> str:
        """A parameter or buffer that no leaf module holds."""
        if param.kind == "weight":
            dims = commas(self._size(d).code for d in param.type.shape) or "()"
            return f"self.{name} = nn.Parameter(torch.empty({dims}))"
        value = buffer_value(param, self._size, self._helper)
        persistent = None if param.init.kind not in DETERMINISTIC else False
        return call("self.register_buffer", [literal(name), value], persistent=persistent).code

    def _helper(self, name: str) -> str:
        self.owner.helpers[name] = None
        return name


def _with_loops(module: Module, fn: Function) -> list[Function]:
    """A function and the bodies of its loops, which share its weights."""
    bodies = [module.functions[n.attrs["body"]] for n in fn.nodes if n.op == "loop"]
    return [fn, *(part for body in bodies for part in _with_loops(module, body))]


def _insert(tree: dict[str, Any], path: Sequence[str], text: str) -> None:
    *heads, last = path
    for part in heads:
        inner = tree.setdefault(part, {})
        if isinstance(inner, str):
            raise EmitError(f"{'.'.join(path)}: {part} is a module of its own")
        tree = inner
    if last in tree:
        raise EmitError(f"{'.'.join(path)} is made twice")
    tree[last] = text


def _in_order(tree: Mapping[str, Any], order: Mapping[str, int]) -> Iterable[tuple[str, Any]]:
    return sorted(tree.items(), key=lambda item: order.get(item[0], len(order)))


__all__ = ["Classes", "EmitError", "Printed"]
