"""Every package of `latentc.systems` has the components that its table lists, and imports what it declares."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import systems_page

import latentc
from latentc import components, systems
from latentc.components import packages

ROOT = Path(latentc.__file__).parent
PACKAGES = {package.name: package for package in packages.packages()}


def modules(package: str) -> Iterator[str]:
    """The dotted names of a package's modules, its own first."""
    paths = importlib.import_module(package).__path__
    yield package
    yield from (found.name for found in pkgutil.walk_packages(paths, f"{package}."))


@pytest.mark.parametrize("name", PACKAGES)
def test_a_table_lists_what_the_modules_define(name: str) -> None:
    defined = [
        (kind, module.removeprefix(f"{name}."))
        for module in modules(name)
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type) and issubclass(value, components.Component) and value.__module__ == module
        if (kind := components.kind_of(value))
    ]
    table = PACKAGES[name].components
    listed = [(kind, module) for kinds in table.values() for kind, module in kinds.items()]
    assert sorted(listed) == sorted(defined)
    assert importlib.import_module(name).__doc__


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_says_what_the_paper_is_and_where_to_find_the_rest_of_it(name: str) -> None:
    text = importlib.import_module(name).__doc__ or ""
    about, *rest = re.split(r"^(Specs|Tests|Rows?)(?: in docs/systems\.yaml)?: ", text, flags=re.MULTILINE)
    assert re.match(r"[^\n].*\(.*\b\d{4}\b.*\)\.\n\n\S", about, re.DOTALL), "paper, authors and year; its idea"
    assert [key.rstrip("s") for key in rest[::2]] == ["Spec", "Test", "Row"]
    specs, tests, rows = (" ".join(value.split()).removesuffix(".") for value in rest[1::2])
    assert [path for path in f"{specs}, {tests}".split(", ") if not (ROOT.parents[1] / path).exists()] == []
    entries = systems_page.notes()["systems"] | systems_page.notes()["techniques"]
    assert rows in entries or set(rows.split(", ")) <= set(entries)


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent.name for path in Path(systems.__path__[0]).glob("*/*.py")}
    assert {f"latentc.systems.{folder}" for folder in folders} == set(PACKAGES)


def test_no_kind_is_claimed_twice() -> None:
    for folder in packages.folders():
        assert set(packages.modules(folder)) <= set(components.load(folder))


def test_systems_import_their_bases_only() -> None:
    for name in PACKAGES:
        bases = getattr(importlib.import_module(name), "BASES", ())
        allowed = {name, *(f"latentc.systems.{base}" for base in bases)}
        assert allowed <= set(PACKAGES)
        found = {s for module in modules(name) for s in _systems_of(module)}
        assert found <= allowed, name


def _systems_of(module: str) -> Iterator[str]:
    """The systems that a module imports, for type checkers too."""
    path = Path(importlib.import_module(module).__file__ or "")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "latentc.systems":
            names += [f"latentc.systems.{alias.name}" for alias in node.names]
        yield from (".".join(name.split(".")[:3]) for name in names if name.startswith("latentc.systems."))


def test_naming_a_kind_imports_its_module_only() -> None:
    """With what that imports, and listing kinds imports no module of a package."""
    program = (
        "import sys\n"
        "from latentc import components\n"
        "from latentc.components import packages\n"
        "inside = lambda: sorted(n for n in sys.modules if n.startswith('latentc.systems.') and n.count('.') > 2)\n"
        "components.find('networks', 'unet'); print([n for n in sys.modules if n.startswith('latentc.systems')])\n"
        "packages.modules('networks'); print(inside())\n"
        "components.find('samplers', 'next_granularity'); print(inside())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    sampler = "['latentc.systems.nvg.granules', 'latentc.systems.nvg.sampler', 'latentc.systems.var.scales']"
    assert done.stdout.splitlines() == ["[]", "[]", sampler]
