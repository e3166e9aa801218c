"""Component packages: Python packages whose components join those of the core's folders.

A package's `__init__` has a docstring and a table, {folder of the core: {kind: module of the package}}:

    COMPONENTS = {
        "networks": {"canvas_transformer": "canvas_transformer"},
        "samplers": {"next_granularity": "sampler"},
    }

so that listing the kinds imports the `__init__`s only, and naming one imports its module. Published systems are
packages in `latentc.systems`. One that builds on another lists it: `BASES = ("maskgit",)`.
A package may define capabilities of its own, in the form that `contracts` describes:

    CAPABILITIES = {"score": {"words": "scores a sample", "methods": {"forward": "state -> output"}}}

Packages of users are found by the entry point group `latentc.components`, and by folder: those given to `add` (the
option `--components`), in the environment variable LATENTC_COMPONENTS, and in the user's `config.toml` under
`components`. Nothing that a spec says adds a package.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from latentc.components import mistakes
from latentc.diagnostics import DiagnosticError, did_you_mean

SHIPPED = "latentc.systems"
GROUP = "latentc.components"
VARIABLE = "LATENTC_COMPONENTS"
CORE = Path(__file__).parent

_given: list[Path] = []


@dataclass(frozen=True)
class Package:
    """A component package: its dotted name, its table of components and what loaded it."""

    name: str
    components: Mapping[str, Mapping[str, str]]
    source: str = "latentc"
    capabilities: Mapping[str, Any] = field(default_factory=dict)

    def modules(self, folder: str) -> Iterator[tuple[str, str]]:
        """The kinds that it adds to a folder, each with the dotted name of its module."""
        for kind, module in self.components.get(folder, {}).items():
            yield kind, f"{self.name}.{module}"


def add(folder: Path | str) -> None:
    """Adds the component package in a folder, for this process. DiagnosticError E0902."""
    path = Path(folder).resolve()
    if path not in _given:
        _from_folder(path, "--components")
        _given.append(path)
        forget()


def given() -> tuple[Path, ...]:
    """The folders that `add` added."""
    return tuple(_given)


def forget() -> None:
    """Looks for packages again at the next use."""
    for cached in (packages, modules, folders, capabilities, _by_folder):
        cached.cache_clear()


@cache
def packages() -> tuple[Package, ...]:
    """Every component package, the systems first; imports their `__init__`s. DiagnosticError E0902."""
    return (*_systems(), *own())


def _systems() -> Iterator[Package]:
    root = importlib.import_module(SHIPPED)
    for name in sorted(f"{SHIPPED}.{found.name}" for found in pkgutil.iter_modules(root.__path__) if found.ispkg):
        module = importlib.import_module(name)
        yield Package(name, module.COMPONENTS, capabilities=vars(module).get("CAPABILITIES", {}))


def own() -> tuple[Package, ...]:
    """The user's packages, each once. DiagnosticError E0902."""
    found = {package.name: package for package in _by_folder()}
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.value):
        name = entry.value.partition(":")[0]
        if name not in found:
            found[name] = _installed(entry, name)
    return tuple(found.values())


@cache
def _by_folder() -> tuple[Package, ...]:
    """The packages that are named by their folders."""
    found: dict[str, Package] = {}
    for source, folder in _folders():
        package = _from_folder(folder.resolve(), source)
        found.setdefault(package.name, package)
    return tuple(found.values())


def unclaimed(folder: str, kind: str, module: str) -> None:
    """DiagnosticError E0902 if a package that is named by its folder claims a kind of the core's `module`.

    Of installed packages `modules` finds out, so that specs of core kinds are read without looking for entry points.
    """
    for package in _by_folder():
        if kind in package.components.get(folder, {}):
            raise claimed_twice(folder, kind, module, f"{package.name}.{package.components[folder][kind]}")


def specs() -> dict[str, Path]:
    """{name: path} of the specs in the users' packages (PACKAGE/specs/NAME.yaml). DiagnosticError E0902."""
    roots = [mistakes.USERS[package.name] for package in own()]
    return {path.stem: path for root in roots for path in sorted((root / "specs").glob("*.yaml"))}


def _folders() -> Iterator[tuple[str, Path]]:
    """The folders of packages, each with the place that names it."""
    yield from (("--components", path) for path in _given)
    named = os.environ.get(VARIABLE, "")
    yield from ((VARIABLE, Path(text).expanduser()) for text in named.split(os.pathsep) if text)
    yield from ((str(configuration()), path) for path in _configured())


def configuration() -> Path:
    """The user's configuration file, which may not exist."""
    base = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return (Path(base) if base else Path.home() / ".config") / "latentc" / "config.toml"


def _configured() -> list[Path]:
    """The folders under `components` in the user's configuration, relative to it. DiagnosticError E0902."""
    file = configuration()
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        raise DiagnosticError.of("E0902", f"cannot read {file}: {error}", help="mend it, or remove it") from None
    given = settings.get("components", [])
    if unknown := [key for key in settings if key != "components"]:
        mend = did_you_mean(unknown[0], ["components"], "it may have `components`, a list of folders")
        raise DiagnosticError.of("E0902", f"{file}: unknown key `{unknown[0]}`", help=mend)
    if not isinstance(given, list) or not all(isinstance(text, str) for text in given):
        mend = 'write `components = ["/path/to/package"]`'
        raise DiagnosticError.of("E0902", f"{file}: `components` is not a list of folders", help=mend)
    return [file.parent / Path(text).expanduser() for text in given]


def _from_folder(path: Path, source: str) -> Package:
    """The package in a folder, imported under the folder's name. DiagnosticError E0902."""
    init, name = path / "__init__.py", path.name
    if not init.is_file():
        inside = sorted(child.parent.name for child in path.glob("*/__init__.py")) if path.is_dir() else []
        what = f"{path} has no `__init__.py`" if path.is_dir() else f"no such folder: {path}"
        mend = f"give {path / inside[0]}" if inside else "`latentc init --component network -o mypkg` writes a package"
        raise DiagnosticError.of("E0902", f"{source}: {what}", help=mend)
    if not name.isidentifier():
        mend = "rename the folder: its name is imported as a Python package"
        raise DiagnosticError.of("E0902", f"{source}: `{name}` is no name of a Python package", help=mend)
    module = sys.modules.get(name)
    if module is None or Path(module.__file__ or "").resolve() != init:
        if module is not None or _elsewhere(name, init):
            message = f"{source}: {path} has the name of another Python package, `{name}`"
            raise DiagnosticError.of("E0902", message, help="rename the folder, or uninstall the other package")
        spec = importlib.util.spec_from_file_location(name, init, submodule_search_locations=[str(path)])
        assert spec is not None
        module = _imported(name, source, spec)
    return _package(module, source)


def _elsewhere(name: str, init: Path) -> bool:
    """Whether `import NAME` would find something else than this file."""
    found = importlib.util.find_spec(name)
    return found is not None and found.origin is not None and Path(found.origin).resolve() != init


def _installed(entry: EntryPoint, name: str) -> Package:
    source = f"the entry point `{entry.name}` of {entry.dist.name if entry.dist else 'a package'}"
    return _package(_imported(name, source), source)


def _imported(name: str, source: str, spec: ModuleSpec | None = None) -> ModuleType:
    """A package, imported by name or from its file. DiagnosticError E0902."""
    try:
        if spec is None:
            return importlib.import_module(name)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        assert spec.loader is not None
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(name, None)
        where = (spec.origin if spec else None) or ""
        raise mistakes.of_import(error, f"the component package `{name}` ({source})", Path(where).parent) from error
    return module


def _package(module: ModuleType, source: str) -> Package:
    """The package of an imported module; its table is checked. DiagnosticError E0902."""
    table: Any = vars(module).get("COMPONENTS")
    where = f"{module.__file__}: " if module.__file__ else ""
    form = 'write COMPONENTS = {"networks": {"my_kind": "my_module"}}'
    if table is None:
        raise DiagnosticError.of("E0902", f"{where}the package `{module.__name__}` has no COMPONENTS", help=form)
    if not isinstance(table, Mapping) or not all(_is_table(kinds) for kinds in table.values()):
        raise DiagnosticError.of("E0902", f"{where}COMPONENTS is not {{folder: {{kind: module}}}}", help=form)
    known = {*_core_folders(), *(folder for package in _systems() for folder in package.components)}
    for folder in table:
        if folder not in known and not str(folder).startswith(f"{module.__name__}/"):
            mend = did_you_mean(str(folder), known, f"folders: {', '.join(sorted(known))}")
            raise DiagnosticError.of("E0902", f"{where}COMPONENTS has an unknown folder `{folder}`", help=mend)
    mistakes.USERS[module.__name__] = Path(module.__file__ or "").resolve().parent
    return Package(module.__name__, table, source, _capabilities(module, where))


def _capabilities(module: ModuleType, where: str) -> Mapping[str, Any]:
    """The capabilities that a package defines. DiagnosticError E0902."""
    own: Any = vars(module).get("CAPABILITIES", {})
    if not isinstance(own, Mapping) or not all(map(_is_capability, own.values())):
        form = 'write CAPABILITIES = {"name": {"words": "does this", "methods": {"forward": "state -> output"}}}'
        raise DiagnosticError.of("E0902", f"{where}CAPABILITIES has another form", help=form)
    return own


def _is_capability(one: Any) -> bool:
    return isinstance(one, Mapping) and {*one} == {"words", "methods"} and _is_table(one["methods"])


def _is_table(kinds: Any) -> bool:
    return isinstance(kinds, Mapping) and all(isinstance(text, str) for pair in kinds.items() for text in pair)


def _core_folders() -> Iterator[str]:
    return (path.parent.relative_to(CORE).as_posix() for path in CORE.rglob("*/__init__.py"))


@cache
def capabilities() -> Mapping[str, Any]:
    """The capabilities that packages define: {name: {"words": what it does, "methods": see `contracts`}}."""
    return {name: own for package in packages() for name, own in package.capabilities.items()}


@cache
def folders() -> frozenset[str]:
    """The folders to which packages add components."""
    return frozenset(folder for package in packages() for folder in package.components)


@cache
def modules(folder: str) -> Mapping[str, str]:
    """The kinds that packages add to a folder, each with the dotted name of its module.

    DiagnosticError E0902 where two packages claim one kind.
    """
    found: dict[str, str] = {}
    for package in packages():
        for kind, module in package.modules(folder):
            if kind in found:
                raise claimed_twice(folder, kind, found[kind], module)
            found[kind] = module
    return found


def claimed_twice(folder: str, kind: str, *modules: str) -> DiagnosticError:
    """Says which modules claim one kind."""
    message = f"{' and '.join(modules)} both claim the kind `{kind}` in {folder}"
    return DiagnosticError.of("E0902", message, help="rename one of them, or leave its package out")


def folder_of(module: str) -> Path:
    """The folder of the package that a dotted module belongs to; the system's folder of a system."""
    parts = module.split(".")
    package = sys.modules[".".join(parts[:3]) if module.startswith(f"{SHIPPED}.") else parts[0]]
    return Path(package.__file__ or "").resolve().parent
