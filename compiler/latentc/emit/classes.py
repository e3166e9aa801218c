"""Functions with an origin as nn.Module classes: one class with its methods; equal code is shared."""

from __future__ import annotations

import builtins
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from latentc.emit.body import Body, Context
from latentc.emit.constants import Constants
from latentc.emit.expressions import Expressions
from latentc.emit.groups import Groups, with_loops, with_origins
from latentc.emit.leaves import (
    NORM,
    NORMS,
    Leaf,
    find_leaves,
    initialisation,
    leaf_of,
    normed_layers,
    normed_leaf,
    norms_in_loops,
    same_leaf,
)
from latentc.emit.members import EmitError, Members
from latentc.emit.names import MODULE, TAKEN, public
from latentc.emit.numbered import FEWEST, families, joined, runs
from latentc.emit.shared import Method, without_shared
from latentc.emit.specialise import specialised
from latentc.emit.text import Call, Text, call, code_key, commas, docstring, free_name, identifier, layout, size_text
from latentc.emit.variants import Condition, Joined, flattened, join
from latentc.ir.core import CALLS, Function, Module, Node, Param, Value, reachable

_SELF = "@CLASS@"  # stands for a class's own name while texts are compared


@dataclass(frozen=True)
class Printed:
    """A printed class.

    arguments: {static argument: constructor argument}. methods: {function: name}. values: of the static arguments.
    attributes: names of its sizes, constants and methods. fixed: static arguments that cannot change by themselves.
    numbers: {function: the number that is the first argument of its method}, as `numbered` writes methods.
    """

    name: str
    arguments: Mapping[str, str]
    methods: Mapping[str, str]
    values: Mapping[str, int]
    members: Members
    attributes: frozenset[str]
    fixed: frozenset[str] = frozenset()
    numbers: Mapping[str, int] = field(default_factory=dict)

    def called(self, function: str, callee: str, args: list[Text]) -> Text:
        """A call of a method of the module `callee`."""
        method = self.methods[function]
        number = [Text(str(self.numbers[function]))] if function in self.numbers else []
        return call(callee if method == "forward" else f"{callee}.{method}", [*number, *args])

    def reach(self, path: str, weight: bool = False) -> str | None:
        """The suffix (`.attn.qkv`) that reaches the module, or weight, at a path from this module; None without one."""
        found = (self.members.weights if weight else self.members.access).get(path)
        if found is None:
            return self.members.inside(path, weight)
        return found.removeprefix("self")


class Classes:
    """Prints the classes that functions belong to.

    `networks` {name: functions that are its methods}. `texts` collects the definitions, callees before callers;
    `constants` the arrays of the side file; `printed` the class of each function.
    """

    def __init__(self, module: Module, networks: Mapping[str, Iterable[str]] | None = None) -> None:
        networks = {name: list(functions) for name, functions in (networks or {}).items()}
        module = with_origins(module, [name for functions in networks.values() for name in functions])
        self.module = module.with_(functions={n: normed_layers(f) for n, f in module.functions.items()})
        self.groups = Groups(self.module, networks)
        self.roots = {name for functions in networks.values() for name in functions}
        self.forward_mode = any(node.op == "jvp" for fn in module.functions.values() for node in fn.nodes)
        self.texts: list[str] = []
        self.helpers: dict[str, None] = {}
        self.constants = Constants()
        self.printed: dict[str, Printed] = {}
        self._by_text: dict[tuple[str, tuple[str, ...]], Printed] = {}
        # Names that definitions in the file cannot have.
        self.names = {*TAKEN, *dir(builtins), "NETWORKS", "sizes", *map(builder_of, networks)}
        self._families = _families(self.module, self.groups, networks)

    def of(self, function: str) -> Printed:
        """The class of a function, printed at first use. Raises EmitError if it has none."""
        if self.module.functions[function].origin is None:
            raise EmitError(f"function {function} belongs to no class")
        if function not in self.printed and function in self._families:
            self._print_family(self._families[function])
        if function not in self.printed:
            names = self.groups.of(function)
            printer = _ClassPrinter(self, [self.module.functions[n] for n in names])
            if (printer.differ or printer.mixed) and len(self.groups.component(function)) < len(names):
                names = self.groups.component(function)
                printer = _ClassPrinter(self, [self.module.functions[n] for n in names])
            if printer.mixed:
                raise EmitError(f"the methods {', '.join(names)} share {printer.mixed}, which is of several classes")
            printed = self._named(printer)
            for name in names:
                self.printed.setdefault(name, printed)  # others of the group may be printed as one of a family
        return self.printed[function]

    def check_used(self, builders: str) -> None:
        """Raises EmitError if neither another class nor `builders` creates one of the printed classes.

        A class that nothing creates was meant for a member that is now of another class.
        """
        for printed, text in zip(self._by_text.values(), self.texts, strict=True):
            others = "".join(other for other in self.texts if other is not text) + builders
            if not re.search(rf"\b{printed.name}\(", others):
                raise EmitError(f"nothing in model.py creates the class {printed.name}")

    def _print_family(self, names: list[str]) -> None:
        """Prints functions of one class that differ in optional parts as one class, if they can be written so."""
        for name in names:
            self._families.pop(name)
        joined = join([self.module.functions[name] for name in names], self._called)
        if joined is None:
            return
        printers: dict[Any, list[_ClassPrinter]] = {}
        for name in names:
            printer = _ClassPrinter(self, [self.module.functions[name]])
            printers.setdefault(printer.key, []).append(printer)
        whole = _ClassPrinter(self, [joined.function], joined)
        if any(printer.differ or printer.mixed for found in (*printers.values(), [whole]) for printer in found):
            return
        for printer, *_ in printers.values():
            (fn,) = printer.functions
            if specialised(whole.text, joined.values[fn.name], joined.optional) != specialised(printer.text):
                return
        printed = self._named(whole)
        for name in names:
            methods = {name: printed.methods[joined.function.name]}
            self.printed[name] = replace(printed, methods=methods, values=joined.values[name])

    def _called(self, function: str) -> tuple[str, str]:
        origin = self.module.functions[function].origin
        return (origin.cls, origin.method) if origin else (function, "")

    def _named(self, printer: _ClassPrinter) -> Printed:
        text, key = printer.text, printer.key
        if key not in self._by_text:
            attributes = {*printer.attributes.values(), *printer.members.constants, *printer.methods.values()}
            facts = printer.arguments, printer.methods, printer.values, printer.members, frozenset(attributes)
            name = free_name(identifier(printer.cls), self.names, "")
            self.names.add(name)
            self.texts.append(text.replace(_SELF, name))
            self._by_text[key] = Printed(name, *facts)
        known = self._by_text[key]
        fixed = frozenset(printer.members.fixed)
        return replace(known, methods=printer.methods, values=printer.values, fixed=fixed, numbers=printer.numbers)


def builder_of(network: str) -> str:
    """The name of the function in model.py that builds a network."""
    return "build" if network == "main" else f"build_{identifier(network)}"


def _same_module(one: Printed, other: Printed) -> bool:
    """True if calls of both can be calls of one member: same class, same constructor arguments."""
    values = [{a: printed.values.get(a) for a in printed.arguments} for printed in (one, other)]
    return one.name == other.name and values[0] == values[1]


def _families(module: Module, groups: Groups, networks: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """{function: those of its class name that one network calls}; only single methods that do not call each other.

    Functions that several networks call make their families one.
    """
    roots = {name for functions in networks.values() for name in functions}
    below = {name: set(reachable(module, (name,))) - {name} for name, fn in module.functions.items() if fn.origin}
    found: dict[str, list[str]] = {}
    for functions in networks.values():
        by_class: dict[tuple[str, str], list[str]] = {}
        for name in reachable(module, tuple(functions)):
            fn = module.functions[name]
            if fn.origin and name not in roots and groups.component(name) == [name]:
                by_class.setdefault((fn.origin.cls, fn.origin.method), []).append(name)
        for names in by_class.values():
            joined = dict.fromkeys(names)
            for name in names:
                joined |= dict.fromkeys(found.get(name, ()))
            whole = list(joined)
            found |= dict.fromkeys(whole, whole)
    order = {name: i for i, name in enumerate(module.functions)}
    for names in found.values():
        names.sort(key=order.__getitem__)
    return {
        name: names
        for name, names in found.items()
        if len(names) > 1 and not any(below[one] & set(names) for one in names)
    }


def attribute_name(name: str) -> str:
    """The attribute or method that has a name of the IR."""
    return public(identifier(name, ()))


def _distinct(
    names: Iterable[str], taken: Collection[str], spelled: Callable[[str], str] = identifier
) -> dict[str, str]:
    """{name: an identifier for it} of static arguments, none of which is taken."""
    result: dict[str, str] = {}
    for name in names:
        word = spelled(name)
        while word in taken or word in result.values():
            word += "_"
        result[name] = word
    return result


class _ClassPrinter:
    """Prints one class.

    `differ`: two functions are the same method with different bodies. `mixed`: a member that the functions call as
    modules of different classes or sizes; empty if there is none. `joined`: the one function stands for several.
    """

    def __init__(self, owner: Classes, functions: list[Function], joined: Joined | None = None) -> None:
        self.owner, self.functions, self.joined = owner, functions, joined
        # Methods of a network keep the names of their arguments, parts of networks need not.
        self.named = any(fn.name in owner.roots for fn in functions)
        origins = [fn.origin for fn in functions if fn.origin]
        self.cls = origins[0].cls
        sizes: dict[str, set[int]] = {}
        for origin in origins:
            for name, value in origin.args.items():
                if isinstance(value, int) and not isinstance(value, bool):
                    sizes.setdefault(name, set()).add(int(value))
        # An argument with different values in the methods of one instance cannot be a constructor argument.
        self.values = {name: next(iter(found)) for name, found in sizes.items() if len(found) == 1}
        optional = joined.optional if joined else {}
        self.argument = _distinct({**self.values, **optional}, {"i", "block", *owner.names})
        self.in_constructor: dict[str, None] = {}
        self.attributes: dict[str, str] = {}  # {static argument that methods read: attribute}
        self.parts = [flattened(part) for fn in functions for part in with_loops(owner.module, fn)]
        self.own = [flattened(fn) for fn in functions]
        params = {p.name: p for fn in self.parts for p in fn.params}
        children: dict[str, Node] = {}
        self.mixed = ""
        for node in (n for fn in self.parts for n in fn.nodes if n.op in CALLS and n.attrs["name"]):
            known = children.setdefault(node.attrs["name"], node)
            if not _same_module(owner.of(known.attrs["fn"]), owner.of(node.attrs["fn"])):
                self.mixed = node.attrs["name"]
        leaves = find_leaves(self.parts)
        self.optional = {name: self.argument[flag] for name, flag in joined.members.items()} if joined else {}
        self.norms = self._free_norms({p.split(".")[0] for p in [*leaves, *params, *children]})
        self.members = Members(owner, leaves, children, params, dict(self.norms.values()), self._size, self.optional)
        self.leaves = self.members.leaves
        self.access, self.weights = self.members.access, self.members.weights
        forward = [fn for fn in functions if fn.origin and fn.origin.method == "forward"]
        self.described = next((fn for fn in (*forward, *functions) if fn.doc), functions[0])  # whose doc is the class's
        self.doc = "\n".join(docstring(self.described.doc, "    "))
        self.wanted = {fn.origin.method: self._wanted(fn.origin.method) for fn in functions if fn.origin}
        self.members.reserved |= {*self.wanted.values()}
        self.attribute = _distinct(
            {**self.values, **optional}, {*self.members.heads, *self.members.reserved}, attribute_name
        )
        self.members.reserved |= {*self.attribute.values()}
        self.text, self.arguments, self.methods = self._text()
        self.key = code_key(self.text.replace(_SELF, "CLASS"), self.named), tuple(self.arguments)

    def _wanted(self, method: str) -> str:
        """A method's name; methods give way to members, except `forward`."""
        name = attribute_name(method)
        return name if name == "forward" else free_name(name, self.members.heads | MODULE)

    def _free_norms(self, heads: set[str]) -> dict[Value, tuple[str, Call]]:
        """Norms without weights, which become modules as well: {output: (name, constructor)}."""
        per_function = [[n for n in fn.nodes if n.op in NORMS and len(n.inputs) == 1] for fn in self.own]
        most = max((len(nodes) for nodes in per_function), default=0)
        result: dict[Value, tuple[str, Call]] = {}
        calls: dict[str, Call] = {}
        if most > 4:
            return {}
        for nodes in per_function:
            for i, node in enumerate(nodes):
                name = "norm" if most == 1 else f"norm{i + 1}"
                width, eps = self._size(node.inputs[0].type.shape[-1]), node.attrs["eps"]
                made = Call.of(NORMS[node.op], [width], elementwise_affine=False, eps=eps)
                if name not in heads and calls.setdefault(name, made) == made:
                    result[node.outputs[0]] = (name, made)
        return result

    def _size(self, value: Any, indices: Mapping[str, int] | None = None) -> Text:
        """A size as written in the constructor; `indices` are loop variables there."""

        def spelled(name: str) -> str:
            if name not in self.values:
                return identifier(name)
            self.in_constructor[name] = None
            return self.argument[name]

        return size_text(value, {**(indices or {}), **self.values}, spelled)

    def _attribute(self, name: str) -> str:
        self.attributes[name] = self.attribute[name]
        return f"self.{self.attributes[name]}"

    # ---- text

    def _text(self) -> tuple[str, dict[str, str], dict[str, str]]:
        """(definition with `_SELF` for its name, {static argument: constructor argument}, {function: method})."""
        built = self.members.lines(self._first_uses())
        methods, bodies = self._methods()
        inside = self.members.inside
        leaves = [(path, self.access[path], leaf) for path, leaf in self.leaves.items()]
        # Parameters of a child are initialised in the child.
        plain = [
            (n, self.weights[n], p) for n, p in self.members.plain.items() if p.kind == "weight" and not inside(n, True)
        ]
        init: list[str] = []
        for member in ["", *self.optional]:
            statements = initialisation(
                [(access, leaf) for path, access, leaf in leaves if self._optional(path) == member],
                [(access, param) for path, access, param in plain if self._optional(path) == member],
                lambda size: size_text(size, self.values, self._attribute),
                self.members.helper,
                self.members.lengths(),
            )
            if member and statements:
                statements = [f"if self.{member} is not None:", *(f"    {line}" for line in statements)]
            init += statements
        written = "\n".join([*init, *(line for body in bodies for line in body)])
        self.attributes = {a: n for a, n in self.attributes.items() if re.search(rf"self\.{n}\b", written)}
        optional = self.joined.optional if self.joined else {}
        used = [a for a in self.values if a in self.in_constructor or a in self.attributes]
        arguments = {a: self.argument[a] for a in (*(a for a in used if a not in optional), *optional)}
        types = {"int": "int | None = None", "bool": "bool = False"}
        lines = [f"class {_SELF}(nn.Module):", *([self.doc, ""] if self.doc else [])]
        declared = [f"{n}: {types[optional[a]] if a in optional else 'int'}" for a, n in arguments.items()]
        signature = commas(["self", *declared])
        constructor_lines = ["super().__init__()"]
        constructor_lines += [f"self.{self.attributes[a]} = {n}" for a, n in arguments.items() if a in self.attributes]
        constructor_lines += [*built, *self.members.constant_lines()]
        if init:
            constructor_lines.append("self.reset_parameters()")
        lines += layout("    ", f"def __init__({signature}):")
        lines += [f"        {line}" for line in constructor_lines]
        if init:
            lines += ["", "    def reset_parameters(self):", *(f"        {line}" for line in init)]
        for body in bodies:
            lines += ["", *body]
        return "\n".join(lines) + "\n", arguments, methods

    def _optional(self, path: str) -> str:
        """The optional member that a path is in; empty if it is always there."""
        head = path.split(".")[0]
        return head if head in self.optional else ""

    def _condition(self, condition: Condition) -> str:
        """`self.down`, `self.skip is not None`."""
        if condition.member:
            return f"self.{condition.name} is {'' if condition.negated else 'not '}None"
        return f"{'not ' if condition.negated else ''}{self._attribute(condition.name)}"

    def _methods(self) -> tuple[dict[str, str], list[list[str]]]:
        """({function: method}, text of each method); methods with different texts get different names."""
        methods: dict[str, str] = {}
        seen: dict[str, str] = {}
        taken = {*self.members.heads, *MODULE} - {"forward"}
        printed: list[Method] = []
        self.differ = False
        docs = {fn.doc for fn in self.functions}
        for fn in self.functions:
            assert fn.origin is not None
            signature, lines = self._method(fn, with_doc=len(docs) > 1)
            code = [f"def {attribute_name(fn.origin.method)}{signature}:", *(f"    {line}" for line in lines)]
            key = code_key("\n".join(code), self.named) if len(self.functions) > 1 else ""
            if key in seen:
                methods[fn.name] = seen[key]
                continue
            wanted = self.wanted[fn.origin.method]
            self.differ |= wanted in taken or wanted != attribute_name(fn.origin.method)
            name = free_name(wanted, taken)
            taken.add(name)
            seen[key] = methods[fn.name] = name
            normed = norms_in_loops(self.owner.module, fn)
            self.owner.helpers |= dict.fromkeys(["normed_once"] if normed else [])
            printed.append(Method(name, signature, lines, normed))
        self.numbers: dict[str, int] = {}
        taken |= {*self.members.reserved, *self.members.constants}
        texts = []
        for method in without_shared(self._numbered(printed, methods, taken), taken):
            head = [
                *(["    @normed_once"] if method.normed else []),
                *layout("    ", f"def {method.name}{method.signature}:"),
            ]
            texts.append([*head, *(f"        {x}".rstrip() for x in method.lines)])
        return methods, texts

    def _numbered(self, printed: list[Method], methods: dict[str, str], taken: set[str]) -> list[Method]:
        """Methods that differ only in numbers as one; updates `methods` and `numbers`."""
        called = {n.attrs["fn"] for fn in self.own for n in fn.nodes if n.op in CALLS and not n.attrs["name"]}
        internal = {methods[name] for name in called if name in methods}
        result: dict[str, Method] = {method.name: method for method in printed}
        for stem, places in families([method.name for method in printed]):
            family = [printed[place] for place in places]
            first = int(family[0].name.rpartition("_")[2])
            # A method of another signature or decorator is of another shape.
            for run in runs([[f"{method.signature} {method.normed}", *method.lines] for method in family]):
                alike = [family[i] for i in run]
                names = [method.name for method in alike]
                if len(run) < FEWEST or f"{stem}_k" in taken or internal & set(names):
                    continue
                taken.add(f"{stem}_k")
                lines = joined([method.lines for method in alike], first + run.start, 8)
                signature = alike[0].signature.replace("(self", "(self, k: int", 1)
                result[names[0]] = Method(f"{stem}_k", signature, lines, alike[0].normed)
                for name in names[1:]:
                    del result[name]
                for function, name in list(methods.items()):
                    if name in names:
                        methods[function] = f"{stem}_k"
                        self.numbers[function] = first + run.start + names.index(name)
        return list(result.values())

    def _method(self, fn: Function, with_doc: bool) -> tuple[str, list[str]]:
        params = {p.value: p for part in with_loops(self.owner.module, fn) for p in part.params}
        context = Context(
            self.owner.module,
            self.values,
            self._attribute,
            lambda v: Text(self.weights[params[v].name]),
            lambda node, body: self._leaf(node, body, params),
            self._call,
            self._modules,
            lambda node: leaf.path if (leaf := self._known_leaf(node, params)) else "",
            constant=lambda name, array, like: Text(self.members.constant(name, array)),
            dtype=self._weight_dtype(),
            training="self.training",
            helpers=self.owner.helpers,
            condition=self._condition,
            unshown=self.joined.unshown if self.joined else frozenset(),
        )
        body = Body(fn, context)
        required = self.joined.required if self.joined else len(body.inputs)
        inputs = [f"{name}: Tensor{' | None = None' * (i >= required)}" for i, name in enumerate(body.inputs)]
        if body.star:
            inputs.append(f"*{body.star_name}: Tensor")
        result = "Tensor" if len(fn.outputs) == 1 else "tuple[Tensor, ...]"
        lines = docstring(fn.doc, "", 8) if with_doc and fn.doc and fn is not self.described else []
        return f"({commas(['self', *inputs])}) -> {result}", [*lines, *body.lines]

    def _weight_dtype(self) -> str:
        """The expression for the dtype of the weights; empty if the class itself has none."""
        floats = (p for fn in self.parts for p in fn.params if p.kind == "weight" and p.type.is_float)
        first: Param | None = next(floats, None)
        return f"{self.weights[first.name]}.dtype" if first else ""

    def _modules(self, base: str, indices: range, element: str | None) -> str:
        """Modules of a list, whose variable is `element` in a loop; one whose numbers do not start at 0 is a dict."""
        paths = [*self.members.children, *self.members.leaves]
        parts = (name[len(base) + 1 :].split(".")[0] for name in paths if name.startswith(f"{base}."))
        numbers = sorted({int(number) for number in parts if number.isdigit()})
        whole = element or self.access[base]
        if numbers != [*range(len(numbers))]:
            whole = f"list({whole}.values())"
        start, end = numbers.index(indices[0]), numbers.index(indices[-1]) + 1
        if end < len(numbers) and not self.members.declared(base):
            end -= len(numbers)
        part = f"[{start or ''}:{end if end < len(numbers) else ''}]"
        return whole + ("" if part == "[:]" else part)

    def _leaf(self, node: Node, body: Expressions, params: dict[Value, Param]) -> Text | None:
        if node.outputs and node.outputs[0] in self.norms and len(node.inputs) == 1:
            return Text(f"self.{self.norms[node.outputs[0]][0]}({body.arg(node.inputs[0]).code})")
        normed = normed_leaf(node, params)
        if normed is not None and (found := self.members.leaf_at(normed)) is not None and NORM in dict(found.attrs):
            return Text(f"{self.access.get(normed) or self.members.inside(normed)}.normed()")
        leaf = self._known_leaf(node, params)
        if leaf is None:
            return None
        operand = node.inputs[1] if node.op == "embedding" else node.inputs[0]
        x = body.tensor(operand)
        if node.op == "group_norm" and self.owner.forward_mode:
            x = Text(f"{x.atom}.contiguous()")  # PyTorch has no forward mode for other layouts (its issue 152185)
        return Text(f"{body.element(leaf.path) or self.access[leaf.path]}({x.code})")

    def _known_leaf(self, node: Node, params: dict[Value, Param]) -> Leaf | None:
        """The layer of this class that computes a node."""
        leaf = leaf_of(node, params)
        known = leaf is not None and leaf.path in self.leaves and same_leaf(leaf, self.leaves[leaf.path])
        return leaf if known else None

    def _call(self, node: Node, args: list[Text], element: str | None) -> Text:
        name, fn = node.attrs["name"], node.attrs["fn"]
        if not name:  # another method of this very module
            origin = self.owner.module.functions[fn].origin
            assert origin is not None
            return call(f"self.{self.wanted.get(origin.method) or self._wanted(origin.method)}", args)
        return self.owner.of(fn).called(fn, element or self.access.get(name, ""), args)

    def _first_uses(self) -> dict[str, int]:
        """{name: index of its first use}, so that the constructor lists members in the order of `forward`."""
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
