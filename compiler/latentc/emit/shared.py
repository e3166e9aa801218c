"""Methods of a class that begin with the same statements: these become a method of their own, which they call."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

from latentc.emit.outcome import body_of
from latentc.emit.text import commas, layout

SHORTEST = 5  # statements that are worth a method
_LISTS = (ast.List, ast.ListComp)


@dataclass(frozen=True)
class Method:
    """A printed method: its body's lines, not indented; `normed` if weights are normalised once per call of it."""

    name: str
    signature: str
    lines: list[str]
    normed: bool = False


class _Statement:
    """A statement and facts about it, which are found when they are asked for: most methods share nothing."""

    def __init__(self, node: ast.stmt, lines: list[str]) -> None:
        self.node, self.lines = node, lines
        self.certain = isinstance(node, ast.Assign)  # it stores its names whatever happens

    @cached_property
    def code(self) -> str:
        return ast.dump(self.node)

    @cached_property
    def parts(self) -> list[ast.AST]:
        return list(ast.walk(self.node))

    @cached_property
    def read(self) -> set[str]:
        over = [n for n in self.parts if isinstance(n, ast.For | ast.comprehension)]
        own = {n.id for loop in over for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        if over:  # what a loop is over may have the name of its variable
            own -= {n.id for n in ast.walk(over[0].iter) if isinstance(n, ast.Name)}
        return {n.id for n in self.parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - own

    @cached_property
    def stored(self) -> set[str]:
        return {n.id for n in self.parts if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

    @cached_property
    def plain(self) -> bool:
        """It makes no lists, whose type a result would not tell."""
        starred = any(isinstance(n, ast.Starred) and isinstance(n.ctx, ast.Store) for n in self.parts)
        return not starred and not (isinstance(self.node, ast.Assign) and isinstance(self.node.value, _LISTS))


class _Body:
    """A method's docstring, the sizes that it unpacks first, and its other statements."""

    def __init__(self, method: Method) -> None:
        self.method = method
        nodes = body_of(method.lines)
        self.doc: list[str] = []
        self.sizes: list[_Statement] = []
        self.rest: list[_Statement] = []
        for i, node in enumerate(nodes):
            lines = method.lines[node.lineno - 2 : (node.end_lineno or 0) - 1]
            if i == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                self.doc = lines
                continue
            sizes = isinstance(node, ast.Assign) and re.search(r"= \w+(\[0\])?\.shape", lines[0]) is not None
            (self.sizes if sizes and not self.rest else self.rest).append(_Statement(node, lines))

    @cached_property
    def inputs(self) -> dict[str, str]:
        (function,) = ast.parse(f"def f{self.method.signature}: pass").body
        assert isinstance(function, ast.FunctionDef)
        return {a.arg: ast.unparse(a.annotation) for a in function.args.args[1:] if a.annotation}

    def read_after(self, place: int) -> set[str]:
        """Names that the statements from a place on read from before it."""
        return _reads(self.rest[place:])


def _reads(statements: Sequence[_Statement]) -> set[str]:
    read: set[str] = set()
    stored: set[str] = set()
    for statement in statements:
        read |= statement.read - stored
        stored |= statement.stored if statement.certain else set()
    return read


def without_shared(methods: Sequence[Method], taken: Collection[str]) -> list[Method]:
    """The methods, in which the statements that several begin with are a method before the first of them."""
    result, names = list(methods), set[str]()
    while (found := _best(result)) is not None:
        bodies, length = found
        made = _extracted(bodies, length, lambda name: name in taken or name in names)
        names.add(made[0].name)
        others = {body.method.name: method for body, method in zip(bodies, made[1:], strict=True)}
        first = next(i for i, method in enumerate(result) if method.name in others)
        result = [others.get(method.name, method) for method in result]
        result.insert(first, made[0])
    return result


def _best(methods: Sequence[Method]) -> tuple[list[_Body], int] | None:
    """(the methods, how many statements they share) that save the most."""
    able = [method for method in methods if not method.normed]
    bodies = [_Body(method) for method in able] if len(able) > 1 else []
    best: tuple[int, list[_Body], int] | None = None
    for one, other in combinations(bodies, 2):
        length = 0
        for a, b in zip(one.rest[:-1], other.rest[:-1], strict=False):
            if a.code != b.code or not a.plain:
                break
            length += 1
        while length >= SHORTEST:
            prefix = [s.code for s in one.rest[:length]]
            alike = [body for body in bodies if [s.code for s in body.rest[:length]] == prefix]
            alike = [body for body in alike if len(body.rest) > length]
            saved = (len(alike) - 1) * length
            if (best is None or saved > best[0]) and _fit(alike, length):
                best = saved, alike, length
            length -= 1
    return (best[1], best[2]) if best else None


def _results(bodies: Sequence[_Body], length: int) -> list[str]:
    """Values that the shared statements compute for those after them, in order."""
    wanted = set().union(*(body.read_after(length) for body in bodies))
    prefix = bodies[0].rest[:length]
    order = [name for s in prefix for name in sorted(s.stored, key=lambda name: " ".join(s.lines).find(name))]
    return [name for name in dict.fromkeys(order) if name in wanted]


def _fit(bodies: Sequence[_Body], length: int) -> bool:
    """True if a method can compute the statements from arguments of all the methods."""
    first = bodies[0]
    read = _reads(first.rest[:length])
    sizes = {name for s in first.sizes for name in s.stored} - {"_"}
    needed = [s.code for s in first.sizes if s.stored & read]
    for body in bodies:
        own = [s.code for s in body.sizes]
        if any(code not in own for code in needed):
            return False
        if any(body.inputs.get(name) != kind for name, kind in first.inputs.items() if name in read):
            return False
    locals_ = {name for body in bodies for s in (*body.sizes, *body.rest) for name in s.stored}
    outside = (read & locals_) - sizes - set(first.inputs)
    known = {name for s in first.sizes if s.stored & read for name in s.read}
    return not outside and 0 < len(_results(bodies, length)) <= 4 and known <= {*first.inputs, "self"}


def _extracted(bodies: Sequence[_Body], length: int, taken: Callable[[str], bool]) -> list[Method]:
    """The method of the shared statements, then the methods that call it."""
    first, results = bodies[0], _results(bodies, length)
    read = _reads(first.rest[:length])
    sizes = [s for s in first.sizes if s.stored & read]
    read |= {name for s in sizes for name in s.read}
    arguments = [name for name in first.inputs if name in read]
    short = len(results) > 1 and all(len(name) == 1 for name in results)
    name = "_" + ("".join(results) if short else "trunk")
    while taken(name):
        name += "_"
    lines = [line for s in sizes for line in s.lines]
    for i in range(length):
        same = all(body.rest[i].lines == first.rest[i].lines for body in bodies)
        lines += first.rest[i].lines if same else [line.partition("  # ")[0] for line in first.rest[i].lines]
    kind = "Tensor" if len(results) == 1 else "tuple[Tensor, ...]"
    signature = f"({commas(['self', *(f'{n}: {first.inputs[n]}' for n in arguments)])}) -> {kind}"
    made = [Method(name, signature, [*lines, f"return {commas(results)}"])]
    for body in bodies:
        after = body.read_after(length)
        kept = [line for s in body.sizes if s.stored & after for line in s.lines]
        left = commas(n if n in after else "_" for n in results)
        call = layout("", f"{left} = self.{name}({commas(arguments)})", "", 8)
        rest = [line for s in body.rest[length:] for line in s.lines]
        made.append(replace(body.method, lines=[*body.doc, *kept, *call, *rest]))
    return made
