"""One thing that `latentc doctor` looked at, and the question that it asks most: is a package here?"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `state` is ok, missing (something optional) or fault."""

    name: str
    state: str
    detail: str
    help: str = ""


def installed(distribution: str) -> str | None:
    """The version of a distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package(name: str, module: str, distributions: Sequence[str], use: str, command: str) -> Finding:
    """Whether a module of one of these distributions can be imported; `use` is what for, `command` installs it."""
    found = [f"{name} {installed(name)}" for name in distributions if installed(name)]
    if len(found) > 1:
        clash = f"{' and '.join(found)} are the same module: one hides the other"
        return Finding(name, "fault", clash, f"pip uninstall {' '.join(distributions)}, then install one")
    try:
        importlib.import_module(module)
    except ImportError as error:
        # A package that is there and cannot be imported is broken, one that is not there was not wanted.
        return Finding(name, "fault" if found else "missing", f"for {use}: {error}", f"run `{command}`")
    return Finding(name, "ok", found[0] if found else "installed")


__all__ = ["Finding", "installed", "package"]
