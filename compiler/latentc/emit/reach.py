"""Leaves out of a project what nothing in it calls: definitions of modules that many projects have copies of.

A definition stays if a script reaches it, by its name or through imports; methods and members of modules that are
passed on stay if any code that stays mentions their names. Top-level statements of loaded modules run, so they stay.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from latentc.emit.model import SUPPORT
from latentc.emit.text import HARD_WIDTH

_PLAIN = {"Protocol", "ABC"}  # bases that call none of a class's methods
_TABLES = {"SETTINGS"}  # dicts of which a project may need some rows only
Key = tuple[str, str]  # path of a module, name of a definition in it


def reached_only(
    files: Mapping[str, str],
    scripts: Collection[str],
    whole: Collection[str],
    found: Collection[str] = (),
    rows: Mapping[str, Collection[str]] | None = None,
) -> dict[str, str]:
    """The modules {path: text} that `scripts` load, each with the definitions that they reach.

    Modules in `whole` keep all their definitions. `found`: names of modules that settings name.
    `rows`: keys of the rows that tables keep, by the tables' names.
    """
    modules = {path: _read(path, text, path in scripts, path in whole) for path, text in files.items()}
    walk = _Walk(modules, whole, found, rows or {})
    for path in scripts:
        walk.load(path)
    walk.finish()
    return {
        path: files[path] if path in whole else modules[path].text_of(walk.reached)
        for path in files
        if path in walk.loaded or path.endswith("__init__.py")
    }


class _Mentions:
    """Names, members, other words and imports in a piece of code, without some of its nodes."""

    def __init__(self, root: ast.AST, apart: Collection[ast.AST] = ()) -> None:
        self.variables = _bound(root)
        self.names: set[str] = set()  # but for its variables
        self.members: set[tuple[str, str]] = set()  # (name, member of what the name stands for)
        self.words: set[str] = set()  # attributes of other expressions, and identifiers in texts
        self.imports: list[ast.Import | ast.ImportFrom] = []
        settled: set[int] = set()  # nodes that their parent has dealt with
        for node in _walked(root, apart):
            if id(node) in settled:
                continue
            match node:
                case ast.Attribute(value=ast.Name(id=name) as owner, attr=member):
                    self.members.add((name, member))
                    settled.add(id(owner))
                case ast.Call(
                    func=ast.Name(id="getattr" | "hasattr"),
                    args=[ast.Name(id=name) as owner, ast.Constant(value=str(member)) as word, *_],
                ) if member.isidentifier():
                    self.members.add((name, member))
                    settled |= {id(owner), id(word)}
                case ast.Name(id=name):
                    self.names.add(name)
                case ast.Attribute(attr=attribute):
                    self.words.add(attribute)
                case ast.Constant(value=str(text)):
                    self.words.update(part for part in text.split(".") if part.isidentifier())
                case ast.Import() | ast.ImportFrom():
                    self.imports.append(node)
        self.names -= self.variables


class _Module:
    """A parsed module: its definitions by name, what its imports bind, and the statements that run when it loads."""

    def __init__(self, path: str, text: str, script: bool) -> None:
        self.path, self.text, self.tree = path, text, ast.parse(text)
        self.definitions: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, Key] = {}  # {name here: definition}; ("path", "") is the module itself
        self.running: list[ast.stmt] = []
        self.loads: list[str] = []
        self._mentions: dict[tuple[int, bool], _Mentions] = {}
        self._names: dict[int, set[str]] = {}
        lines, last = text.splitlines(), None
        for node in self.tree.body:
            names = _defined(node)
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imported |= dict(self.bindings(node))
                if "noqa" in lines[node.lineno - 1]:
                    self.loads += [key[0] for _, key in self.bindings(node)]
            elif names:
                for name in names:
                    self.definitions.setdefault(name, []).append(node)
            elif _is_text(node) and last is not None and _defined(last):
                for name in _defined(last):  # the docstring of a constant
                    self.definitions[name].append(node)
            elif not _is_text(node) and (script or not _is_main(node)):
                self.running.append(node)
            last = node

    def bindings(self, node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Key]]:
        """(name, what it stands for) of an import of the project's own modules."""
        for alias in node.names:
            name = alias.asname or alias.name
            if isinstance(node, ast.Import):
                yield name, (f"{alias.name.replace('.', '/')}.py", "")
            elif node.level and node.module is None:
                yield name, (f"{SUPPORT}/{alias.name}.py", "")
            else:
                folder = f"{SUPPORT}/" if node.level else ""
                yield name, (f"{folder}{str(node.module).replace('.', '/')}.py", alias.name)

    def mentions(self, node: ast.AST, with_parts: bool) -> _Mentions:
        """Of a definition or a part of one; without the parts that may be left out unless `with_parts`."""
        key = id(node), with_parts
        if key not in self._mentions:
            apart = [] if with_parts else [one for _, part in _parts(node) for one in part]
            self._mentions[key] = _Mentions(node, apart)
        return self._mentions[key]

    def names(self, node: ast.stmt, apart: Collection[ast.stmt | ast.expr]) -> set[str]:
        """All names in a statement, and texts that could be names, except in the nodes `apart`."""
        if any(one is not node and node.lineno <= one.lineno <= (node.end_lineno or 0) for one in apart):
            return {*_names(node, apart)}
        if id(node) not in self._names:
            self._names[id(node)] = {*_names(node, [])}
        return self._names[id(node)]

    def text_of(self, reached: Collection[Key]) -> str:
        """The text without definitions and parts that are not reached, and without imports that nothing needs."""
        gone: list[tuple[ast.stmt | ast.expr, ast.stmt | ast.expr]] = []  # (first, last)
        for name, nodes in self.definitions.items():
            stays = (self.path, name) in reached and name != "__all__"
            parts = [(f"{name}.{part}", span) for node in nodes for part, span in _parts(node)]
            gone += [s for part, s in parts if (self.path, part) not in reached] if stays else [(n, n) for n in nodes]
        left_out = [node for span in gone for node in span]
        left = [n for n in self.tree.body if n not in left_out and not isinstance(n, ast.Import | ast.ImportFrom)]
        used = {name for node in left for name in self.names(node, left_out)}
        lines = self.text.splitlines()
        edits = {(_first_line(first, lines), last.end_lineno or 0): list[str]() for first, last in gone}
        for node in self.tree.body:
            if (new := _import_of(node, used, lines)) is not None:
                edits[node.lineno - 1, node.end_lineno or 0] = new
        for (first, end), new in sorted(edits.items(), reverse=True):
            lines = _replaced(lines, first, end, new)
        return "\n".join(_without_empty_sections(lines)).strip("\n") + "\n"


_shared = lru_cache(maxsize=128)(_Module)


def _read(path: str, text: str, script: bool, own: bool) -> _Module:
    """A module; one that is not a project's own is read once for all projects."""
    return (_Module if own else _shared)(path, text, script)


@dataclass
class _Walk:
    """The definitions that the scripts reach so far."""

    modules: Mapping[str, _Module]
    whole: Collection[str]
    found: Collection[str]
    rows: Mapping[str, Collection[str]]
    loaded: set[str] = field(default_factory=set)
    reached: set[Key] = field(default_factory=set)
    objects: set[str] = field(default_factory=set)  # modules that are read as objects
    words: set[str] = field(default_factory=set)  # attributes and texts in code that is reached
    finds: bool = False  # some module is imported by a name that the code computes

    def load(self, path: str) -> None:
        if path in self.loaded or path not in self.modules:
            return
        self.loaded.add(path)
        module = self.modules[path]
        for other in module.loads:
            self.load(other)
        for node in module.running:
            self.scan(module, node)
        if path in self.whole:
            for name in module.definitions:
                self.reach((path, name))

    def reach(self, key: Key) -> None:
        path, name = key
        if (submodule := f"{path.removesuffix('.py')}/{name}.py") in self.modules:
            path, name = submodule, ""
        if path not in self.modules:
            return
        self.load(path)
        module = self.modules[path]
        if not name:
            self.objects.add(path)
        elif key not in self.reached and name in module.definitions:
            self.reached.add(key)
            for node in module.definitions[name]:
                self.scan(module, node, path in self.whole)
        elif name in module.imported:
            self.reach(module.imported[name])

    def scan(self, module: _Module, node: ast.AST, with_parts: bool = True) -> None:
        """Reaches what a statement mentions, without the parts that may be left out unless `with_parts`."""
        found = module.mentions(node, with_parts)
        names = {*found.names}
        for name, member in found.members:
            self.finds |= member == "import_module"
            if path := self.module_of(module, name):
                self.reach((path, member))
            else:
                self.words.add(member)
                names |= {name} - found.variables
        self.words |= found.words
        for name in names:
            if name in module.definitions:
                self.reach((module.path, name))
            elif name in module.imported:
                self.reach(module.imported[name])
        for statement in found.imports:
            for _, key in module.bindings(statement):
                self.reach(key)

    def module_of(self, module: _Module, name: str) -> str:
        """The path of the project's module that a name in `module` stands for; empty if it is none."""
        path, inner = module.imported.get(name, ("", ""))
        submodule = f"{path.removesuffix('.py')}/{inner}.py" if inner else path
        return submodule if submodule in self.modules else ""

    def finish(self) -> None:
        """Reaches methods and members of modules by their names, until nothing more is found."""
        before = -1
        while before != len(self.reached) + len(self.loaded):
            before = len(self.reached) + len(self.loaded)
            if self.finds:
                named = {p for p in self.modules if p.removesuffix(".py").rpartition("/")[2] in self.found}
                for path in named - self.loaded:
                    self.load(path)
                    self.objects.add(path)
            for path in [*self.objects]:
                for name in self.modules[path].definitions if path in self.modules else ():
                    if name in self.words:
                        self.reach((path, name))
            for path, name in [*self.reached]:
                for node in self.modules[path].definitions.get(name, ()):
                    self._reach_parts(path, name, node)

    def _reach_parts(self, path: str, name: str, node: ast.stmt) -> None:
        for part, (_, content) in _parts(node):
            key = (path, f"{name}.{part}")
            kept = self.rows.get(name, (part,)) if isinstance(content, ast.expr) else self.words
            if key not in self.reached and part in kept:
                self.reached.add(key)
                self.scan(self.modules[path], content)


def _defined(node: ast.stmt) -> list[str]:
    """The names that a top-level statement defines."""
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=targets) if all(isinstance(t, ast.Name | ast.Tuple) for t in targets):
            return [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.AugAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_main(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "__main__" in ast.dump(node.test)


def _parts(node: ast.AST) -> list[tuple[str, tuple[ast.stmt | ast.expr, ast.stmt | ast.expr]]]:
    """(name, first and last node) of the parts that may be left out: rows of tables, and methods of plain classes."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys, values=values)) if name in _TABLES:
            rows = zip(keys, values, strict=True)
            return [(str(k.value), (k, value)) for k, value in rows if isinstance(k, ast.Constant)]
        case ast.ClassDef(bases=bases, body=body):
            plain = all(isinstance(base, ast.Name) and base.id in _PLAIN for base in bases)
            methods = [n for n in body if isinstance(n, ast.FunctionDef) and not n.name.startswith("__")]
            return [(method.name, (method, method)) for method in methods] if plain else []
    return []


def _walked(root: ast.AST, apart: Collection[ast.AST]) -> Iterator[ast.AST]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if not any(node is one for one in apart):
            yield node
            waiting += ast.iter_child_nodes(node)


def _bound(root: ast.AST) -> set[str]:
    """The names that a function binds itself: arguments and variables."""
    if not isinstance(root, ast.FunctionDef):
        return set()
    nodes = [*ast.walk(root)]
    stored = {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.arg for n in nodes if isinstance(n, ast.arg)}


def _names(root: ast.AST, apart: Collection[ast.AST]) -> Iterator[str]:
    for node in _walked(root, apart):
        match node:
            case ast.Name(id=name):
                yield name
            case ast.Constant(value=str(text)) if text.isidentifier():
                yield text


def _import_of(node: ast.stmt, used: Collection[str], lines: list[str]) -> list[str] | None:
    """An import of the names that are used only; None if the statement stays as it is."""
    if not isinstance(node, ast.Import | ast.ImportFrom) or "noqa" in lines[node.lineno - 1]:
        return None
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return None
    kept = [a for a in node.names if (a.asname or a.name).partition(".")[0] in used]
    if len(kept) == len(node.names):
        return None
    if not kept:
        return []
    names = [f"{a.name} as {a.asname}" if a.asname else a.name for a in kept]
    if isinstance(node, ast.Import):
        return [f"import {', '.join(names)}"]
    head = f"from {'.' * node.level}{node.module or ''} import"
    line = f"{head} {', '.join(names)}"
    return [line] if len(line) <= HARD_WIDTH else [f"{head} (", *(f"    {name}," for name in names), ")"]


def _first_line(node: ast.stmt | ast.expr, lines: list[str]) -> int:
    """Index of the first line of a definition, with its decorators and the comment right above it."""
    decorators = getattr(node, "decorator_list", [])
    first: int = min([node.lineno, *(one.lineno for one in decorators)]) - 1
    while first and lines[first - 1].lstrip().startswith("#") and "----" not in lines[first - 1]:
        first -= 1
    return first


def _replaced(lines: list[str], first: int, end: int, new: list[str]) -> list[str]:
    """Lines with others in place of `first` to `end` - 1; without new ones, the wider gap around them stays."""
    head, tail = lines[:first], lines[end:]
    if new:
        return [*head, *new, *tail]
    before, after = 0, 0
    while before < len(head) and not head[-1 - before].strip():
        before += 1
    while after < len(tail) and not tail[after].strip():
        after += 1
    if before >= after:
        return [*head, *tail[after:]]
    return [*head[: len(head) - before], *tail]


def _without_empty_sections(lines: list[str]) -> list[str]:
    """Lines without headings (`# ---- settings`) that nothing follows but the next one."""
    found: list[str] = []
    for line in [*lines, "# ----"]:
        if line.startswith("# ----"):
            content = [at for at, text in enumerate(found) if text.strip()]
            if content and found[content[-1]].startswith("# ----"):
                found = found[: content[-1]]
        found.append(line)
    return found[:-1]
