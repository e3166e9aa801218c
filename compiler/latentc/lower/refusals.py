"""Diagnostics from what components refuse while they are built."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from latentc.components.parts import Refusal
from latentc.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from latentc.components import Component
    from latentc.spec.schema import Spec


@contextmanager
def refusals(spec: Spec, *place: str) -> Iterator[None]:
    """DiagnosticError E0305 in place of a Refusal of the component at `place`, at the part that it names."""
    try:
        yield
    except Refusal as refusal:
        found = refusal.problem
        path = (*place_of(refusal.part, at(spec, *place)), *found.path)
        span = spec.span(*place, *path) or spec.span(*place)
        raise DiagnosticError.of("E0305", found.message, span, help=found.help) from None


def at(spec: Spec, *place: str) -> Any:
    """The component at a place of the spec."""
    found: Any = spec
    for name in place:
        found = found[name] if isinstance(found, Mapping) else getattr(found, name)
    return found


def place_of(part: Component | None, root: Any) -> tuple[str | int, ...]:
    """The path of a part in a component: of this object, or else of an equal one; () if it has none."""
    paths = list(_parts(root)) if part is not None else []
    same = [path for path, found in paths if found is part] or [path for path, found in paths if found == part]
    return same[0] if same else ()


def _parts(root: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """All parts of a component, with their paths."""
    if isinstance(root, BaseModel):
        inner: Iterable[tuple[str | int, Any]] = ((name, getattr(root, name)) for name in type(root).model_fields)
    elif isinstance(root, Mapping):
        inner = root.items()
    else:
        inner = enumerate(root) if isinstance(root, tuple | list) else ()
    for name, value in inner:
        if isinstance(value, BaseModel):
            yield (name,), value
        yield from (((name, *path), found) for path, found in _parts(value))
