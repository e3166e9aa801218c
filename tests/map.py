"""A map of the house: how large its rooms are, what holds them together, and which modules serve one paper only.

    python tests/map.py                # the measured figures of the design, today's beside the goal (`make map`)
    python tests/map.py --list FIGURE  # what a figure counts: capabilities, members, fields, kinds, way, …
    python tests/map.py --rooms        # every module of components/ and systems/ with the systems that execute it

A module serves a spec if loading, lowering or emitting the spec calls one of its functions; importing it does not
count. Of a spec's variants, those are lowered whose kinds or flags no earlier one has, and the first is emitted.
Every spec runs in a process of its own, so that nothing is cached from another.

Specs with the same first source are one system, called by one of their names.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import json
import os
import pkgutil
import re
import sys
import tempfile
import traceback
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import networkx as nx
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "compiler" / "latentc"
HOUSE = (PACKAGE, ROOT / "runtime", ROOT / "templates")
STANDARD = ROOT / "tests" / "standard.yaml"

LIMITS = {
    "lines of components/": 31_000,
    "lines of the compiler": 96_000,
    "capabilities of the core": 18,
    "members of Mixer": 10,
    "members of Objective": 12,
    "members of Condition": 14,
    "members of Process": 18,
    '`getattr(x, "name")` among components': 0,
    "core fields set by one system only": 0,
    "files from YAML to IR: edm": 40,
    "files from YAML to IR: llamagen": 40,
    "files from YAML to IR: tarflow": 40,
    "largest room's share of the house, %": 25,
    "import circles": 0,
    "`_private` modules with one importer": 0,
    "classes in edm's model.py": 5,
    "lines of dit's project": 3_000,
    "papers that do not run": 0,
    "papers without recorded results": 31,
}
"""The largest value that each figure should have."""

BASES = ("Mixer", "Objective", "Condition", "Process")
WAYS = ("edm", "llamagen", "tarflow")


# Files and lines


def sources(*folders: str) -> list[Path]:
    """The Python files below folders of the compiler; those of the whole compiler if none is named."""
    roots = [PACKAGE / folder for folder in folders] or [PACKAGE]
    return sorted(path for root in roots for path in root.rglob("*.py"))


def lines(paths: Collection[Path]) -> int:
    """The number of lines of all these files."""
    return sum(path.read_bytes().count(b"\n") for path in paths)


def rooms() -> dict[str, int]:
    """{room: its lines}: the folders of the compiler, one per paper, its loose files, the runtime, the templates."""
    found: dict[str, int] = defaultdict(int)
    for root in HOUSE:
        for path in root.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(root).parts
                deep = 2 if inside[0] == "systems" and len(inside) > 2 else 1
                name = "/".join(inside[:deep]) if len(inside) > 1 else "loose files"
                found[name if root == PACKAGE else root.name] += path.read_bytes().count(b"\n")
    return dict(sorted(found.items(), key=lambda room: -room[1]))


# Imports


@cache
def imports() -> Mapping[str, frozenset[str]]:
    """{module: the modules of latentc that it imports anywhere}, those for type checkers aside.

    Importing a name from a package is importing the module of that name, if it is one, else the package.
    """
    names = {module_of(path): path for path in sources()}
    found: dict[str, frozenset[str]] = {}
    for name, path in names.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        of_checkers = {inner for node in ast.walk(tree) if _is_for_checkers(node) for inner in ast.walk(node)}
        given: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import) and node not in of_checkers:
                given |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node not in of_checkers and node.module:
                whole = {f"{node.module}.{alias.name}" for alias in node.names}
                given |= (whole & names.keys()) | ({node.module} if whole - names.keys() else set())
        found[name] = frozenset((given & names.keys()) - {name})
    return found


def module_of(path: Path) -> str:
    """The module of a file of the compiler."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_for_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def circles() -> list[list[str]]:
    """Chains of modules, each of which imports the next one, and the last the first."""
    graph = nx.DiGraph((name, other) for name, others in imports().items() for other in others)
    return sorted(nx.simple_cycles(graph), key=lambda circle: (len(circle), circle))


def lonely() -> dict[str, str]:
    """{`_private` module: its only importer}."""
    importers: dict[str, list[str]] = defaultdict(list)
    for name, others in imports().items():
        for other in others:
            importers[other].append(name)
    private = (name for name in imports() if re.match(r"_[a-z]", name.rpartition(".")[2]))
    return {name: importers[name][0] for name in private if len(importers[name]) == 1}


def named_attributes() -> list[str]:
    """Places of `getattr(x, "name")` in components and systems, as FILE:LINE: NAME."""
    found = []
    for path in sources("components", "systems"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
                name = node.args[1]
                if isinstance(name, ast.Constant) and not str(name.value).startswith("__"):
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}: {name.value}")
    return found


# Classes


@cache
def component_modules() -> tuple[Any, ...]:
    """Every module of components and systems, imported."""
    found = []
    for folder in ("components", "systems"):
        if (PACKAGE / folder / "__init__.py").is_file():
            package = importlib.import_module(f"latentc.{folder}")
            found.append(package)
            for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
                found.append(importlib.import_module(module.name))
    return tuple(found)


def core_capabilities() -> tuple[str, ...]:
    """The capabilities that the core knows."""
    return tuple(importlib.import_module("latentc.components.capabilities").CAPABILITIES)


def members(base: str) -> tuple[str, ...]:
    """What subclasses of a component's base may override: its public methods, properties and class variables."""
    found = {
        cls
        for module in component_modules()
        for name, cls in vars(module).items()
        if name == base and isinstance(cls, type) and cls.__module__.startswith("latentc.components")
    }
    cls = max(found, key=lambda cls: len(cls.__subclasses__()))
    names = {*vars(cls), *inspect.get_annotations(cls)} - {"model_config", "EXAMPLE", *cls.model_fields}
    return tuple(sorted(name for name in names if not name.startswith("_")))


# Specs


@cache
def systems() -> Mapping[str, str]:
    """{spec: its system}, of every shipped spec. Papers lend systems the name of their spec, the shortest if several.

    The names of first stages and of examples on digits come last.
    """
    from latentc.files.shipped import shipped_specs

    papers: dict[str, list[tuple[bool, int, str]]] = defaultdict(list)
    for name, path in shipped_specs().items():
        source = str(yaml.safe_load(path.read_text(encoding="utf-8")).get("source", name)).partition(" (")[0]
        paper = re.search(r"arXiv:[\d.]+\d", source)
        aside = path.parent.name in ("digits", "first_stages")
        papers[paper[0] if paper else source].append((aside, len(name), name))
    return {name: min(names)[-1] for names in papers.values() for _, _, name in names}


Field = tuple[type, str]


def set_fields(part: Any) -> Iterator[tuple[Field, Any, bool]]:
    """(field, value, whether it differs from the default) of all components of a spec; their classes declare it."""
    from pydantic import BaseModel

    if isinstance(part, BaseModel):
        for name, info in type(part).model_fields.items():
            value = getattr(part, name)
            yield from set_fields(value)
            if name == "kind" or not type(part).__module__.startswith(("latentc.components", "latentc.systems")):
                continue
            owner = next(cls for cls in type(part).__mro__ if name in inspect.get_annotations(cls))
            default = info.is_required() or value != info.get_default(call_default_factory=True)
            yield (owner, name), value, bool(default)
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from set_fields(value)
    elif isinstance(part, tuple):
        for value in part:
            yield from set_fields(value)


@cache
def specs() -> tuple[tuple[str, Any], ...]:
    """(system, spec) of every variant of every shipped spec."""
    from latentc.spec import load_spec
    from latentc.spec.load import variant_names

    return tuple(
        (system, load_spec(name, variant))
        for name, system in systems().items()
        for variant in (None, *variant_names(name))
    )


@cache
def classes_of_specs() -> frozenset[type]:
    """The classes of all parts of the shipped specs."""
    found: set[type] = set()

    def visit(part: Any) -> None:
        from pydantic import BaseModel

        if isinstance(part, BaseModel):
            found.add(type(part))
            part = {name: getattr(part, name) for name in type(part).model_fields}
        for value in part.values() if isinstance(part, Mapping) else part if isinstance(part, tuple) else ():
            visit(value)

    for _, spec in specs():
        visit(spec)
    return frozenset(found)


@cache
def fields_of_specs() -> Mapping[Field, frozenset[str]]:
    """{field: the systems whose specs give it another value than its default}, of components that specs use."""
    found: dict[Field, set[str]] = defaultdict(set)
    for system, spec in specs():
        for field, _, differs in set_fields(spec):
            found[field] |= {system} if differs else set()
    return {field: frozenset(of) for field, of in found.items()}


@cache
def standard(section: str) -> Any:
    """A section of the list of what the core keeps for a reason: {name: why}, or {word: {file: why}}."""
    listed = yaml.safe_load(STANDARD.read_text(encoding="utf-8"))[section]
    return {name: why for names, why in listed.items() for name in _each(names)}


def _each(names: str) -> list[str]:
    """The names `Class.a` and `Class.b` that `Class.{a,b}` stands for."""
    before, _, fields = names.rstrip("}").partition("{")
    return [before + field for field in fields.split(",")]


def unset_kinds() -> tuple[str, ...]:
    """FOLDER/KIND of all kinds that no shipped spec uses in any variant."""
    from latentc import components
    from latentc.components import packages

    root = Path(components.__file__).parent
    folders = {str(path.parent.relative_to(root)) for path in root.rglob("*/__init__.py")} | packages.folders()
    kinds = {cls: f"{folder}/{kind}" for folder in folders for kind, cls in components.load(folder).items()}
    return tuple(sorted(name for cls, name in kinds.items() if cls not in classes_of_specs()))


def lone_fields() -> dict[str, str]:
    """{Class.field: the only system that sets it, or nothing}, of fields of the core that are no standard settings.

    A field belongs to the class that declares it first, and is set by specs, or by a class that has another default.
    Fields count that admit several values, of classes that occur in specs: other kinds have a reason of their own.
    """
    standards = standard("settings")
    return {
        name: " ".join(of)
        for name, of in settings().items()
        if len(of) < 2 and not any(fnmatchcase(name, pattern) for pattern in standards)
    }


@cache
def settings() -> Mapping[str, frozenset[str]]:
    """{Class.field: what sets it}, of the core."""
    found: dict[str, set[str]] = defaultdict(set)
    for cls in classes_of_specs():
        for name, info in cls.model_fields.items():
            declaring = [of for of in cls.__mro__ if name in inspect.get_annotations(of)]
            own = declaring[-1]
            one = info.annotation is type(None) or name == "kind"
            if own.__module__.startswith("latentc.components") and not one:
                of = found[f"{own.__name__}.{name}"]
                of.update(*(fields_of_specs().get((each, name), ()) for each in declaring))
                if info.default != own.model_fields[name].default:
                    of.add(cls.__name__)
    return {name: frozenset(found[name]) for name in sorted(found)}


def private_names() -> dict[str, list[str]]:
    """{name: the files outside systems whose code has it}, of `names_of_systems`, but those listed as other words."""
    listed = standard("names")
    found = {
        name: [file for file in files if not any(fnmatchcase(file, known) for known in listed.get(name, {}))]
        for name, files in names_of_systems().items()
    }
    return {name: files for name, files in found.items() if files}


@cache
def names_of_systems() -> Mapping[str, list[str]]:
    """{name: the files outside systems whose code has it}: kinds and classes of systems, and packages.

    A single word, such as `given`, can be anything: that of a package counts as a whole string, that of a kind where a
    text quotes it. Comments and docstrings may name a paper as the source of a formula.
    """
    from latentc.components import packages

    shipped = [package for package in packages.packages() if package.name.startswith("latentc.systems.")]
    core = {path: ast.parse(path.read_text(encoding="utf-8")) for path in set(sources()) - set(sources("systems"))}
    ours = {node.name for tree in core.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    ours |= set(core_capabilities())
    classes = {cls.__name__ for module in component_modules() for cls in vars(module).values() if _is_of_system(cls)}
    kinds = {kind for package in shipped for kinds in package.components.values() for kind in kinds} - ours
    names = {package.name.rpartition(".")[2] for package in shipped}
    names |= {name for name in kinds | (classes - ours) if re.search("_|[a-z][A-Z]", name)}
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in sorted(core.items()):
        nodes = list(ast.walk(tree))
        docs = {node.value for node in nodes if isinstance(node, ast.Expr)}
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and node not in docs]
        texts = [text for text in texts if isinstance(text, str)]
        words = {word for text in texts for word in re.findall(r"\w+", text)}
        words = {word for word in words if not word.isalnum()} | set(texts)
        quoted = {word for text in texts for word in re.findall(r"(?:`|kind: )(\w+)", text)}
        inside = names & (words | {node.id for node in nodes if isinstance(node, ast.Name)}) | kinds & quoted
        for name in inside:
            found[name].append(str(path.relative_to(PACKAGE)))
    return dict(found)


def _is_of_system(value: Any) -> bool:
    return isinstance(value, type) and value.__module__.startswith("latentc.systems.")


# What a spec executes


def called(work: Callable[[], Any]) -> set[str]:
    """The files of the compiler of which `work` calls a function, relative to it.

    The bodies of modules and classes are no functions; nor do lambdas and comprehensions count apart from theirs.
    """
    seen: set[CodeType] = set()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        seen.add(frame.f_code)

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    files = {code.co_filename for code in seen if code.co_flags & inspect.CO_NEWLOCALS}
    inside = f"{PACKAGE}{os.sep}"
    return {file.removeprefix(inside) for file in files if file.startswith(inside)}


def apart(work: Callable[[], Any]) -> Any:
    """What `work` returns in a child process, as JSON; nothing that it caches stays."""
    with tempfile.NamedTemporaryFile("w+", suffix=".json") as file:
        if (child := os.fork()) == 0:
            code = 1
            try:
                json.dump(work(), file)
                file.flush()
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                os._exit(code)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
            raise ChildProcessError("a child process failed")
        return json.loads(Path(file.name).read_text(encoding="utf-8"))


def way(name: str) -> list[str]:
    """The files of the compiler on the way of a spec from YAML to IR."""
    component_modules()
    from latentc.lower import lower
    from latentc.spec import load_spec

    return apart(lambda: sorted(called(lambda: lower(load_spec(name)))))  # type: ignore[no-any-return]


def executed(name: str) -> list[str]:
    """The files of the compiler that a spec executes: emitting it, loading and lowering its variants."""
    component_modules()
    from latentc.emit.project import project_files
    from latentc.lower import lower
    from latentc.spec import load_spec
    from latentc.spec.load import variant_names

    def work() -> None:
        known: set[Any] = set()
        for variant in (None, *variant_names(name)):
            spec = load_spec(name, variant)
            # Sizes and names do not choose code; kinds, flags, and whether there is a value at all do.
            new = {(field, bool(value)) for field, value, _ in set_fields(spec)}
            new -= known
            if new:
                known |= new
                lowered = lower(spec, to_emit=True)
                if variant is None:
                    project_files(lowered, spec)
                lower(spec)

    return apart(lambda: sorted(called(work)))  # type: ignore[no-any-return]


def modules_of_systems() -> dict[str, list[str]]:
    """{file of components or systems: the systems whose specs execute a function of it}.

    Says on standard error which spec runs; a spec that fails is left out.
    """
    found: dict[str, set[str]] = {str(path.relative_to(PACKAGE)): set() for path in sources("components", "systems")}
    for name, system in systems().items():
        print(name, end=" ", file=sys.stderr, flush=True)
        try:
            files = executed(name)
        except ChildProcessError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        for file in found.keys() & set(files):
            found[file].add(system)
    print(file=sys.stderr)
    return {file: sorted(of) for file, of in found.items()}


def edm_classes() -> int:
    """The classes in the emitted model.py of edm."""
    return len(re.findall(r"^class ", emitted("edm")["model.py"], re.M))


def emitted(name: str) -> dict[str, str]:
    """The Python files of a spec's training project."""
    from latentc.emit.project import project_files
    from latentc.lower import lower
    from latentc.spec import load_spec

    spec = load_spec(name)
    files = project_files(lower(spec, to_emit=True), spec)
    return {name: str(text) for name, text in files.items() if name.endswith(".py")}


# What is printed


def figures() -> Iterator[tuple[str, int]]:
    """(figure, today's value) of each line of LIMITS, in their order."""
    yield "lines of components/", lines(sources("components"))
    yield "lines of the compiler", lines(sources())
    yield "capabilities of the core", len(core_capabilities())
    for base in BASES:
        yield f"members of {base}", len(members(base))
    yield '`getattr(x, "name")` among components', len(named_attributes())
    yield "core fields set by one system only", len(lone_fields())
    for name in WAYS:
        yield f"files from YAML to IR: {name}", len(way(name))
    sizes = rooms()
    yield "largest room's share of the house, %", round(100 * max(sizes.values()) / sum(sizes.values()))
    yield "import circles", len(circles())
    yield "`_private` modules with one importer", len(lonely())
    yield "classes in edm's model.py", edm_classes()
    yield "lines of dit's project", sum(text.count("\n") for text in emitted("dit").values())
    found = papers()
    yield "papers that do not run", sum(not rows for rows, _ in found.values())
    yield "papers without recorded results", sum(not recordings for _, recordings in found.values())


def papers() -> dict[str, tuple[int, int]]:
    """{paper that latentc sets out to cover: (systems and techniques of it, recorded results of its authors' code)}."""
    import systems_page

    found = {}
    for title, rows in systems_page.papers().items():
        recorded = {name for row in rows for name in systems_page.numbers_of(row)}
        found[title] = (len(rows), len(recorded))
    return found


def _counted() -> list[str]:
    found = papers()
    run, recorded = (sum(bool(counts[i]) for counts in found.values()) for i in (0, 1))
    own = [f"{title}: rows {rows}, recorded results {recordings}" for title, (rows, recordings) in found.items()]
    return [*own, f"{len(found)} papers: {run} run, {recorded} of them with recorded results"]


LISTS: dict[str, Callable[[], Collection[str]]] = {
    "capabilities": core_capabilities,
    "members": lambda: [f"{base}: {', '.join(members(base))}" for base in BASES],
    "names": named_attributes,
    "fields": lambda: [f"{field}: {system or 'none'}" for field, system in lone_fields().items()],
    "kinds": unset_kinds,
    "private names": lambda: [f"{name}: {', '.join(files)}" for name, files in private_names().items()],
    "way": lambda: [f"{name}: {file}" for name in WAYS for file in way(name)],
    "rooms": lambda: [f"{count} {room}" for room, count in rooms().items()],
    "circles": lambda: [" > ".join(circle) for circle in circles()],
    "private": lambda: [f"{name}: {importer}" for name, importer in lonely().items()],
    "papers": _counted,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", action="store_true", help="the systems that execute each module")
    parser.add_argument("--list", choices=LISTS, help="what a figure counts")
    given = parser.parse_args()
    if given.list:
        print(*LISTS[given.list](), sep="\n")
    elif given.rooms:
        for file, of in sorted(modules_of_systems().items(), key=lambda item: (len(item[1]), item[0])):
            print(len(of), file.removesuffix(".py"), ",".join(of))
    else:
        width = max(map(len, LIMITS))
        print(f"{'':{width}}  {'today':>7}  {'goal':>6}")
        for figure, value in figures():
            mark = "" if value <= LIMITS[figure] else "  missed"
            print(f"{figure:{width}}  {value:7,}  {LIMITS[figure]:6,}{mark}", flush=True)


if __name__ == "__main__":
    main()
