"""Values of a function as PyTorch expressions: the printer that the op rows call back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentc.emit.ops import NUMBERS, TORCH, TORCH_DTYPE
from latentc.emit.schedule import Plan
from latentc.emit.text import PRODUCT, Text, base_name, call, commas, identifier, layout, literal, singular, size_text
from latentc.emit.variants import Condition
from latentc.ir.core import Function, Module, Node, Value
from latentc.ir.types import Dim, Named, Sym

_WORD = r"[A-Za-z_]\w*"


@dataclass
class Context:
    """Where a body is printed: in a class, or as a free function.

    sizes: static arguments by name; `spelled(name)` is how one is written here.
    param: text of a weight. leaf: text of a node that a leaf module (nn.Linear, …) computes, else None.
    call: text of a call, given its node, its arguments and the variable of the module if a loop has one.
    leaf_path: path of the leaf module that computes a node, or empty.
    modules: text of a list of modules, given its path, the indices, and the text of the whole list if a loop has one.
    constant: text of a constant array, given its name, value and a tensor on its device.
    dtype: text of the weights' dtype. training: text of the condition that the model is in training mode.
    free: True outside of classes. reserved: names that the function may not give to values.
    indent: the indentation that the lines will get later. progress: loops show a progress bar.
    plan: the rows of formulas that loops read. helpers: collects the names of the helpers that the text uses.
    condition: text of the condition of a branch. unshown: values that get no comment with their shape.
    """

    module: Module
    sizes: Mapping[str, int]
    spelled: Callable[[str], str]
    param: Callable[[Value], Text]
    leaf: Callable[[Node, Expressions], Text | None]
    call: Callable[[Node, list[Text], str | None], Text]
    modules: Callable[[str, range, str | None], str]
    leaf_path: Callable[[Node], str]
    constant: Callable[[str, np.ndarray[Any, Any], str], Text]
    dtype: str = ""
    training: str = "False"
    free: bool = False
    reserved: frozenset[str] = frozenset()
    indent: int = 8
    progress: bool = False
    plan: Plan | None = None
    helpers: dict[str, None] = field(default_factory=dict)
    condition: Callable[[Condition], str] | None = None
    unshown: frozenset[Value] = frozenset()


@dataclass
class Scope:
    """State of one block of statements.

    `env`: text of each value. `hold`: the last statement that reads the value under a name. `last`: the last statement
    that reads a value. `folded`: the nodes of values that are printed inside their user.
    """

    env: dict[Value, Text]
    hold: dict[str, int]
    last: dict[Value, int] = field(default_factory=dict)
    folded: dict[Value, Node] = field(default_factory=dict)

    def held_after(self, i: int) -> set[str]:
        """Names whose values are read after statement i."""
        return {name for name, last in self.hold.items() if last > i}


class Expressions:
    """Texts of the values of one function in the current scope, which the rows of `ops` and `shapes` ask for."""

    def __init__(self, fn: Function, context: Context) -> None:
        self.fn, self.context = fn, context
        self.training: str = context.training
        self.params = {p.value for p in fn.params}
        self.constants: dict[Value, Node] = {}
        self.numbers: set[Value] = set()  # values that Python computes
        self.bundles: dict[Value, int] = {}
        self.used_sizes: set[str] = set()
        self.unpackable: dict[str, tuple[int, int, Dim]] = {}
        self.labels: dict[str, str] = {}  # variables of the unpackable sizes
        self.inputs: list[str] = []
        self.outputs: list[Value] = []
        self.star: tuple[int, int] | None = None
        self.star_name = ""
        self.pushed: set[Value] = set()  # values pushed onto the stack of skips
        self._carried: set[Value] = set()  # the first values of what loops over modules carry
        self.stack = ""
        self.collected: dict[str, tuple[Value, ...]] = {}  # lists that loops collect, and their values
        self.vectors: dict[str, int] = {}  # vectors whose elements are read one by one, and their lengths
        self.loops = 0  # loops that have read rows of the plan
        self._scope = Scope({}, {})
        self._reserve = context.indent
        self._elements: dict[str, str] = {}  # {module list: its variable} of the loops being printed
        self.unshown = set(context.unshown)

    def _method(self, function: str) -> str:
        """The method by which a function is called; its own name if it is a free function."""
        origin = self.context.module.functions[function].origin
        return function if origin is None else f".{origin.method}"

    # ---- what rows ask

    def convolved(self, value: Value) -> bool:
        """True if a convolution, or a call, takes the value."""
        return any(node.op in ("conv", "call") and value in node.inputs for node in self.fn.nodes)

    def arg(self, value: Value) -> Text:
        """An operand; a scalar constant is a Python number."""
        scope = self._scope
        if value in scope.env:
            return scope.env[value]
        if value in scope.folded:
            return self.expression(scope.folded[value])
        if value in self.params:
            return self.context.param(value)
        if self.context.plan is not None and value in self.context.plan.texts:
            return self.context.plan.texts[value]
        if value in self.constants:
            return self._constant(value)
        return Text(base_name(value.name))

    def gathered(self, values: Sequence[Value]) -> list[str]:
        """The texts of several values; of all that a loop has collected, the list with a star."""
        texts, i = [], 0
        while i < len(values):
            rest = tuple(values[i:])
            name = next((name for name, held in self.collected.items() if rest[: len(held)] == held), None)
            texts.append(self.tensor(rest[0]).code if name is None else f"*{name}")
            i += 1 if name is None else len(self.collected[name])
        return texts

    def tensor(self, value: Value) -> Text:
        """As `arg`, but never a Python number."""
        if not self.number(value):
            return self.arg(value)
        text, kind = self.arg(value), value.type.dtype
        if value in self.constants and "size" in self.constants[value].attrs and value.type.is_float:
            text = call("float", [text])
        if value.type.is_float and text.code.lstrip("-").isdigit():
            text = literal(float(text.code))
        dtype = None if kind in ("i64", "bool") or (kind == "f32" and not self.context.dtype) else self.dtype(kind)
        return call("torch.tensor", [text], dtype=dtype, device=Text(self._device()))

    def dtype(self, name: str) -> Text:
        """A dtype; f32 becomes that of the weights."""
        return Text(self.context.dtype if name == "f32" and self.context.dtype else TORCH_DTYPE[name])

    def number(self, value: Value) -> bool:
        """True if `arg` gives a Python number."""
        return value.type.rank == 0 and (value in self.constants or value in self.numbers)

    def _find_numbers(self, nodes: Iterable[Node]) -> None:
        """Adds the values that nodes compute from sizes and constants alone: Python computes them as well."""
        for node in nodes:
            (out, *_) = node.outputs
            if node.op in NUMBERS and out.type.is_float and all(map(self.number, node.inputs)):
                self.numbers.add(out)

    def size(self, dim: Dim) -> Text:
        """A size, by its name if it has one."""
        if isinstance(dim, Sym):
            if dim.name not in self.unpackable:
                return Text("-1")
            self.used_sizes.add(dim.name)
            name = self.labels[dim.name]
            return Text(name) if dim.factor == 1 else Text(f"{dim.factor} * {name}", PRODUCT)
        known = {**self.unpackable_sizes(), **self.context.sizes}

        def spelled(name: str) -> str:
            if name in self.context.sizes:
                return self.context.spelled(name)
            self.used_sizes.add(name)
            return self.labels[name]

        return size_text(dim, known, spelled)

    def helper(self, name: str) -> str:
        """The name of a helper, which the file then defines."""
        self.context.helpers[name] = None
        return name

    def folded(self, value: Value) -> Node | None:
        """The node of a value that is printed inside its user, else None."""
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
            if "size" in self.constants[value].attrs:
                return self.size(self.constants[value].attrs["size"])
            number = array.item()
            whole = isinstance(number, float) and number.is_integer() and abs(number) < 1e6
            return literal(int(number) if whole else number)
        device = Text(self._device())
        if array.ndim == 1 and array.size > 2 and np.array_equal(array, np.arange(array.size)):
            return call(
                "torch.arange",
                [self.size(value.type.shape[0])],
                device=device,
                dtype=None if dtype == "i64" else self.dtype(dtype),
            )
        text = self.context.constant(identifier(value.name), array, self.inputs[0] if self.inputs else "")
        return text if dtype in ("i64", "f32", "bool") else Text(f"{text.code}.to({TORCH_DTYPE[dtype]})")

    def element(self, path: str) -> str | None:
        """The variable of a module, or list, if a loop runs over the list that it is in."""
        base, _, number = path.rpartition(".")
        return self._elements.get(base) if number.isdigit() else None

    def expression(self, node: Node) -> Text:
        """The right-hand side of a node."""
        node = node.attrs["node"] if node.op == "leaf" else node
        if self.context.plan is not None and (part := self.context.plan.parts.get(node.outputs[0])) is not None:
            return Text(f"{self.arg(node.inputs[0]).code}{part}")
        leaf = self.context.leaf(node, self)
        if leaf is not None:
            return leaf
        if node.outputs[0] in self.numbers:
            return NUMBERS[node.op](*(self.arg(v) for v in node.inputs))
        if node.op == "call":
            return self.context.call(node, [self._operand(v) for v in node.inputs], self.element(node.attrs["name"]))
        if node.op in ("gradient", "jvp"):
            return self._derivative(node)
        if node.op == "each":
            return self._each(node)
        if node.op == "guided":
            both = self._both_branches(node)
            return self._combined(both, node) if node.attrs["guides"][0] == "guided" else both
        return TORCH[node.op](self, node)

    def _operand(self, value: Value) -> Text:
        """An operand of a call; a bundle is unpacked."""
        return Text(f"*{self.arg(value).code}") if value in self.bundles else self.tensor(value)

    def _each(self, node: Node) -> Text:
        """`[c[:2] for c in caches]`."""
        name, others = node.inputs[0].name, iter(node.inputs[1:])
        element = singular(name) if singular(name) != name else f"{name}_item"
        while any(re.search(rf"\b{element}\b", self.arg(v).code) for v in node.inputs[1:]):
            element += "_"
        text = Text(element)
        for inner in node.attrs["nodes"]:
            self._scope.env[inner.inputs[0]] = text
            given = [(own, next(others)) for own in inner.inputs[1:]]
            ins = (inner.inputs[0], *(own if other is node.inputs[0] else other for own, other in given))
            text = TORCH[inner.op](self, Node(inner.op, ins, inner.outputs, inner.attrs))
        return Text(f"[{text.code} for {element} in {self.arg(node.inputs[0]).code}]")

    def _derivative(self, node: Node) -> Text:
        """`value_and_gradient(lambda x: net(x, y), x)`; `jvp(lambda z, t: net(z, y, t), (z, t), (v, dt))`."""
        wrt, of = node.attrs["wrt"], node.attrs["of"]
        fn = self.context.module.functions[node.attrs["fn"]]
        count = len(fn.inputs)
        args = [self._operand(v) for v in node.inputs[:count]]
        given = [args[i] for i in wrt]
        taken = {word for i, a in enumerate(args) if i not in wrt for word in re.findall(r"\w+", a.code)}
        for i in wrt:
            name = args[i].code if args[i].code.isidentifier() else base_name(fn.inputs[i].name)
            while name in taken:
                name += "_"
            taken.add(name)
            args[i] = Text(name)
        called = self.context.call(node, args, self.element(node.attrs["name"]))
        body = called.code if len(fn.outputs) == 1 else f"{called.atom}[{of}]"
        function = Text(f"lambda {commas(args[i].code for i in wrt)}: {body}")
        if node.op == "gradient":
            return call(self.helper("value_and_gradient"), [function, *given])
        tangents = [self.tensor(v) for v in node.inputs[count:]]
        tuples = [f"({commas(t.code for t in texts)}{',' * (len(texts) == 1)})" for texts in (given, tangents)]
        return call(self.helper("jvp"), [function, *map(Text, tuples)])

    def _starred(self, name: str, value: Value) -> str:
        return f"*{name}" if value in self.bundles else name

    def _both_branches(self, node: Node) -> Text:
        kinds = node.attrs["kinds"]
        nulls = iter(node.inputs[len(kinds) : -1])
        args = []
        for value, kind in zip(node.inputs, kinds, strict=False):
            other = next(nulls) if kind == "conditional" else value
            text = self._operand(value)
            if kind != "carried" and value in self.bundles:
                pair = f"{self.arg(value).code}, {self.arg(other).code}"
                text = Text(f"*map(torch.cat, zip({pair}))")
            elif kind != "carried" and value.type.rank:
                text = Text(f"torch.cat([{text.code}, {self.arg(other).code}])")
            args.append(text)
        return self.context.call(node, args, self.element(node.attrs["name"]))

    def _combined(self, both: Text, node: Node) -> Text:
        channels = node.attrs["channels"]
        scale = self.arg(node.inputs[-1])
        return call(self.helper("guide"), [both, scale], channels=None if channels is None else int(channels))

    def shape_comment(self, value: Value) -> str:
        def shown(found: re.Match[str]) -> str:
            return self.labels.get(found[0], found[0])

        sizes = commas(d.expr if isinstance(d, Named) else str(d) for d in value.type.shape)
        return f"[{re.sub(_WORD, shown, sizes)}]"

    def _layout(self, code: str, comment: str = "") -> list[str]:
        return layout("", code, comment, self._reserve)
