"""Diagnostics from what components refuse while they are built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from latentc.components.parts import Refusal
from latentc.diagnostics import DiagnosticError

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


@contextmanager
def refusals(spec: Spec, *place: str) -> Iterator[None]:
    """DiagnosticError E0305 in place of a Refusal of the component at `place`, at the part that it names."""
    try:
        yield
    except Refusal as refusal:
        found = refusal.problem
        span = spec.span(*place, *found.path) or spec.span(*place)
        raise DiagnosticError.of("E0305", found.message, span, help=found.help) from None
