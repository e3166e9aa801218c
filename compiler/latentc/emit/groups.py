"""Groups functions into classes: the functions called on one module of the tree are methods of its class.

Functions with the same origin but no common instance share a class as well, unless their code differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from latentc.ir.core import CALLS, Function, Module, Node, Origin, callees, frozen


def with_origins(module: Module, roots: Iterable[str]) -> Module:
    """Gives `roots` and the functions that methods call an origin (a class of their own) if they have none."""
    functions = dict(module.functions)
    found = [*roots, *(name for name, fn in functions.items() if fn.origin)]
    while found:
        name = found.pop()
        if functions[name].origin is None:
            cls = "".join(word[:1].upper() + word[1:] for word in re.findall(r"[A-Za-z0-9]+", name))
            functions[name] = functions[name].with_(origin=Origin(cls if cls[:1].isalpha() else f"Module{cls}", {}))
        for part in with_loops(module, module.functions[name]):
            called = [n.attrs["fn"] for n in part.nodes if n.op != "loop" and callees(n)]
            found += [name for name in called if functions[name].origin is None]
    return module.with_(functions=functions)


def with_loops(module: Module, fn: Function) -> list[Function]:
    """A function and the bodies of its loops, which share its weights."""
    bodies = [module.functions[n.attrs["body"]] for n in fn.nodes if n.op == "loop"]
    return [fn, *(part for body in bodies for part in with_loops(module, body))]


def calls_of(module: Module, fn: Function) -> list[Node]:
    return [n for part in with_loops(module, fn) for n in part.nodes if n.op in CALLS]


class Groups:
    """Functions by class; `of(function)` lists the methods of its class, in the module's order."""

    def __init__(self, module: Module, networks: Mapping[str, Iterable[str]]) -> None:
        self.module = module
        self._parent = {name: name for name, fn in module.functions.items() if fn.origin}
        self._seen: set[Any] = set()
        self._skeletons: dict[str, Any] = {}
        roots: dict[str, set[str]] = {name: set(functions) for name, functions in networks.items()}
        # A call without a name in a loop's body belongs to the instance whose method contains the loop.
        bodies = {n.attrs["body"] for fn in module.functions.values() for n in fn.nodes if n.op == "loop"}
        for name, fn in module.functions.items():
            for node in calls_of(module, fn) if fn.origin is None and name not in bodies else ():
                if node.attrs["fn"] in self._parent:
                    roots.setdefault(node.attrs["name"], set()).add(node.attrs["fn"])
        for functions in roots.values():
            self._visit(frozenset(functions), {})
        self.components: dict[str, list[str]] = {}
        for name in self._parent:
            self.components.setdefault(self._root(name), []).append(name)
        self._classes: dict[str, list[str]] = {}
        self._merge()

    def of(self, function: str) -> list[str]:
        return self._classes[function]

    def component(self, function: str) -> list[str]:
        """The functions that share an instance with one."""
        return self.components[self._root(function)]

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            name = self._parent[name]
        return name

    def _visit(self, functions: frozenset[str], extra: Mapping[str, frozenset[str]]) -> None:
        """Joins the functions of one instance, then those called on each of its members.

        `extra` {path: functions} are calls of its members from outside.
        """
        own, children = set(functions), {path: set(found) for path, found in extra.items()}
        todo = list(functions)
        while todo:
            for node in calls_of(self.module, self.module.functions[todo.pop()]):
                callee = node.attrs["fn"]
                if node.attrs["name"]:
                    children.setdefault(node.attrs["name"], set()).add(callee)
                elif callee not in own:
                    own.add(callee)
                    todo.append(callee)
        key = (frozenset(own), frozenset((path, frozenset(found)) for path, found in children.items()))
        if key in self._seen:
            return
        self._seen.add(key)
        first, *rest = sorted(own)
        for name in rest:
            self._parent[self._root(name)] = self._root(first)
        below: dict[str, dict[str, frozenset[str]]] = {path: {} for path in children}
        for path, found in children.items():
            for at in (i for i, letter in enumerate(path) if letter == "." and path[:i] in below):
                below[path[:at]][path[at + 1 :]] = frozenset(found)
        for path, found in children.items():
            self._visit(frozenset(found), below[path])

    def _merge(self) -> None:
        """Components of one origin become one class if the methods they have in common are equal."""
        order = {name: i for i, name in enumerate(self.module.functions)}
        merged: dict[Any, list[list[str]]] = {}
        for names in self.components.values():
            origin = self.module.functions[names[0]].origin
            assert origin is not None
            classes = merged.setdefault((origin.cls, frozen(origin.args)), [])
            fitting = next((found for found in classes if self._fits(found, names)), None)
            if fitting is None:
                classes.append(list(names))
            else:
                fitting += names
        for names in (names for classes in merged.values() for names in classes):
            names.sort(key=order.__getitem__)
            self._classes |= dict.fromkeys(names, names)

    def _fits(self, one: list[str], other: list[str]) -> bool:
        by_method = {_method(self.module, name): self._skeleton(name) for name in one}
        return all(
            by_method.get(_method(self.module, name), found) == found
            for name, found in ((name, self._skeleton(name)) for name in other)
        )

    def _skeleton(self, name: str) -> Any:
        """A function and those it calls, hashable and without the names of functions and values."""
        if name not in self._skeletons:
            parts = with_loops(self.module, self.module.functions[name])
            params = tuple((p.name, p.kind, p.init.kind, frozen(p.init.args)) for part in parts for p in part.params)
            nodes = [node for part in parts for node in part.nodes]
            called = tuple(self._called(node.attrs["fn"]) for node in nodes if node.op in CALLS)
            self._skeletons[name] = params, tuple((n.op, frozen(_attributes(n))) for n in nodes), called
        return self._skeletons[name]

    def _called(self, name: str) -> Any:
        origin = self.module.functions[name].origin
        return self._skeleton(name), (origin.cls, origin.method, frozen(origin.args)) if origin else None


def _method(module: Module, name: str) -> str:
    origin = module.functions[name].origin
    return origin.method if origin else ""


def _attributes(node: Node) -> dict[str, Any]:
    """The attributes of a node without the names of functions, which differ between equal functions."""
    return {key: value for key, value in node.attrs.items() if key not in ("fn", "body")}
