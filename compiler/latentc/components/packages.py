"""Component packages: Python packages whose components join those of the core's folders.

A package's `__init__` has a docstring and a table, {folder of the core: {kind: module of the package}}:

    COMPONENTS = {
        "networks": {"canvas_transformer": "canvas_transformer"},
        "samplers": {"next_granularity": "sampler"},
    }

so that listing the kinds imports the `__init__`s only, and naming one imports its module. Published systems are
packages in `latentc.systems`. One that builds on another lists it: `BASES = ("maskgit",)`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

SHIPPED = "latentc.systems"


@dataclass(frozen=True)
class Package:
    """A component package: its dotted name and its table of components."""

    name: str
    components: Mapping[str, Mapping[str, str]]

    def modules(self, folder: str) -> Iterator[tuple[str, str]]:
        """The kinds that it adds to a folder, each with the dotted name of its module."""
        for kind, module in self.components.get(folder, {}).items():
            yield kind, f"{self.name}.{module}"


@cache
def packages() -> tuple[Package, ...]:
    """Every component package, sorted by name; imports their `__init__`s."""
    root = importlib.import_module(SHIPPED)
    names = sorted(f"{SHIPPED}.{found.name}" for found in pkgutil.iter_modules(root.__path__) if found.ispkg)
    return tuple(Package(name, importlib.import_module(name).COMPONENTS) for name in names)


@cache
def folders() -> frozenset[str]:
    """The folders to which packages add components."""
    return frozenset(folder for package in packages() for folder in package.components)


@cache
def modules(folder: str) -> Mapping[str, str]:
    """The kinds that packages add to a folder, each with the dotted name of its module.

    Raises ValueError where two packages claim one kind.
    """
    found: dict[str, str] = {}
    for package in packages():
        for kind, module in package.modules(folder):
            if kind in found:
                raise ValueError(f"{found[kind]} and {module} both claim the kind {kind!r} in {folder}")
            found[kind] = module
    return found
