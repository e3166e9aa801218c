"""Free functions of a module, losses and samplers, as plain Python functions over the networks they call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from latentc.emit.body import Body, Context
from latentc.emit.classes import Classes
from latentc.emit.constants import Constants
from latentc.emit.outlined import outlined
from latentc.emit.rolled import rolled
from latentc.emit.schedule import Plan, Schedules
from latentc.emit.text import Text, call, commas, docstring, identifier, layout, literal
from latentc.ir.core import CALLS, Function, Module, Node, callees, networks_called

_RESERVED = frozenset({"model", "weights", "table", "guide", "tqdm"})
_SHORT = 8  # elements of an integer constant that is written out


class Functions:
    """Prints free functions; `texts` collects the definitions of a file, `constants` the arrays of the side file.

    `classes`: those of the files that define the networks, whose methods the functions call.
    """

    def __init__(self, module: Module, classes: Sequence[Classes] = ()) -> None:
        self.module, self.classes = module, classes or [Classes(module)]
        self.texts: list[str] = []
        self.constants = Constants()
        self.schedules = Schedules()
        self.helpers: dict[str, None] = {}
        self._names: dict[str, str] = {}
        self._variables = {variable_of(n) for entry in module.entries.values() for n in self.networks(entry)}

    def begin_file(self, imported: Iterable[str] = ()) -> None:
        """Begins another file, which defines every function that it calls but those that it has `imported`."""
        # Under keys that no function has: the names are only reserved.
        self.texts, self._names = [], {f"imported {name}": name for name in imported}
        self.helpers.clear()

    def networks(self, function: str) -> list[str]:
        """Names of the networks that a function calls, directly or through others."""
        return networks_called(self.module, function)

    def has_weights(self, function: str) -> bool:
        """True if a function, or a free function it calls, has weights, which it then takes as `weights`."""
        fn = self.module.functions[function]
        return bool(fn.params) or any(
            self._is_free(callee) and self.has_weights(callee) for node in fn.nodes for callee in callees(node)
        )

    def add(self, function: str, name: str = "", progress: bool = False, plan: Plan | None = None) -> str:
        """The Python name of a function, printed at first use.

        `progress`: its loops show a progress bar. `plan`: the rows of formulas that they read.
        """
        if function in self._names:
            return self._names[function]
        fn = self.module.functions[function]
        python = identifier(name or fn.name)
        while python in self._names.values() or python in self._variables:
            python += "_"
        self._names[function] = python
        averaged = _averaged(fn)
        if averaged and self._is_free(averaged) and _same_names(fn, self.module.functions[averaged]):
            self.texts.append(self._means(fn, python, self.add(averaged)))
            return python
        models = [variable_of(n) for n in self.networks(function)]
        called = {self.add(c) for node in fn.nodes for c in callees(node) if node.op in CALLS and self._is_free(c)}
        context = Context(
            self.module,
            {},
            lambda word: word,
            lambda v: Text(f"weights[{literal(v.name).code}]"),
            lambda node, body: None,
            self._call,
            lambda path, indices, element: path,
            lambda node: "",
            constant=self._table,
            free=True,
            training=f"{models[0]}.training" if models else "False",
            reserved=_RESERVED | frozenset(models) | frozenset(called) | (plan.names if plan else frozenset()),
            indent=4,
            helpers=self.helpers,
            progress=progress,
            plan=plan,
        )
        body = Body(fn, context)
        inputs = [*(f"{m}: nn.Module" for m in models), *(f"{n}: Tensor" for n in body.inputs)]
        if self.has_weights(function):
            inputs.insert(len(models), "weights: Mapping[str, Tensor]")
        if body.star:
            inputs.append(f"*{body.star_name}: Tensor")
        if plan is not None and plan.settable:
            inputs.append("**settings: Any")
        result = "Tensor" if len(fn.outputs) == 1 else "tuple[Tensor, ...]"
        found = [*models, "weights", *body.inputs]
        statements, functions = body.lines, list[str]()
        while (shorter := outlined(statements, found, self._names.values(), 4)) is not None:
            statements, functions = shorter.lines, [*functions, shorter.text]
            self._names[f"{function}: {shorter.name}"] = shorter.name
        statements = rolled(statements, found, 4)
        lines = [
            *layout("", f"def {python}({commas(inputs)}) -> {result}:"),
            *docstring(fn.doc, "    "),
            *([f"    {plan.head}"] if plan else []),
            *(f"    {line}".rstrip() for line in statements),
        ]
        self.texts += [*functions, "\n".join(lines) + "\n"]
        return python

    @staticmethod
    def _means(fn: Function, python: str, callee: str) -> str:
        """A function that returns the means of what another returns, given the same."""
        several = len(fn.outputs) > 1
        result = "tuple[Tensor, ...]" if several else "Tensor"
        called = f"{callee}(*args, **inputs)"
        lines = [
            f"def {python}(*args: Any, **inputs: Tensor) -> {result}:",
            *docstring(fn.doc, "    "),
            f"    return tuple(term.mean() for term in {called})" if several else f"    return {called}.mean()",
        ]
        return "\n".join(lines) + "\n"

    def _is_free(self, function: str) -> bool:
        return self.module.functions[function].origin is None

    def _call(self, node: Node, args: list[Text], element: str | None) -> Text:
        fn, name = node.attrs["fn"], node.attrs["name"]
        if self._is_free(fn):
            python = self.add(fn)
            weights = ["weights"] if self.has_weights(fn) else []
            if weights and name:
                self.helpers["under"] = None
                weights = [f"under(weights, {literal(name).code})"]
            return call(python, [*(variable_of(n) for n in self.networks(fn)), *weights, *args])
        file = next((classes for classes in self.classes if fn in classes.printed), self.classes[-1])
        return file.of(fn).called(fn, variable_of(name), args)

    def _table(self, name: str, array: np.ndarray[Any, Any], like: str) -> Text:
        if array.dtype.kind != "f" and array.size <= _SHORT:
            return call("torch.tensor", [literal(array.tolist())], device=Text(f"{like}.device") if like else None)
        stored = self.constants.add(identifier(name.removesuffix("_table")), array)
        return call("table", [literal(stored), *([like] if like else [])])


def _same_names(one: Function, other: Function) -> bool:
    """True if two functions take the same inputs by keyword."""
    return [v.name for v in one.inputs] == [v.name for v in other.inputs]


def _averaged(fn: Function) -> str | None:
    """The function whose outputs [B], given all inputs of `fn`, are returned as means and nothing else."""
    if not fn.nodes or fn.nodes[0].op != "call" or fn.nodes[0].attrs["name"] or fn.params:
        return None
    called, *means = fn.nodes
    if called.inputs != fn.inputs or len(means) != len(called.outputs) or len(means) != len(fn.outputs):
        return None
    rows = zip(means, called.outputs, fn.outputs, strict=True)
    taken = all(n.op == "mean" and n.inputs == (x,) and n.outputs == (y,) and x.type.rank == 1 for n, x, y in rows)
    return str(called.attrs["fn"]) if taken else None


def variable_of(network: str) -> str:
    """The argument name of a network: `model` for the main one."""
    name = "model" if network == "main" else identifier(network)
    return f"{name}_" if network in ("model", "weights") else name
