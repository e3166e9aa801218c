"""Options of components that apply only together with another, and would be ignored without it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from latentc.components import Component
from latentc.components.parts import Applies
from latentc.spec.problem import Problem
from latentc.spec.yaml import PathKey


def ignored_options(path: PathKey, part: Component) -> Iterator[Problem]:
    """Options of a component that differ from their defaults although they apply to nothing."""
    for name, (other, values) in _applies(type(part)).items():
        info, chosen = type(part).model_fields[name], getattr(part, other)
        if getattr(part, name) == info.get_default(call_default_factory=True):
            continue
        if bool(chosen) if values is None else chosen in values:
            continue
        key = info.alias or name
        needed = f"`{other}` is set" if values is None else f"`{other}` is {_words(values)}"
        shown = f", not {chosen}" if isinstance(chosen, str | int | float) else ""
        message = f"`{key}` applies only if {needed}{shown}"
        yield Problem("E0305", (*path, key), message, help=f"leave `{key}` out, or change `{other}`")


def _applies(cls: type) -> Applies:
    """Options of the class and its bases."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        found |= vars(base).get("APPLIES", {})
    return found


def _words(values: tuple[Any, ...]) -> str:
    return " or ".join(f"{value}" for value in values)


__all__ = ["ignored_options"]
