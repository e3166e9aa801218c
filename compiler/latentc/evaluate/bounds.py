"""Limits of figures, such as `fd=1.1x`: the budgets of tune and of quantisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

from latentc.diagnostics import DiagnosticError


@dataclass(frozen=True)
class Bound:
    """A limit of one figure, if `relative` as a multiple of what the original has (spec's sampler, unquantised)."""

    name: str
    value: float
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.name}={self.value:g}{'x' if self.relative else ''}"

    def limit(self, own: float) -> float:
        """The limit as a number; `own` is the original's figure."""
        return self.value * own if self.relative else self.value

    def excess(self, figure: float, own: float, higher: bool) -> float:
        """The factor by which a figure misses the limit; 1 within it. `higher`: higher figures are better."""
        limit = self.limit(own)
        if math.isnan(figure):
            return math.inf
        if higher:
            figure, limit = limit, figure
        if figure <= limit:
            return 1.0
        return figure / limit if limit > 0 else math.inf


def bound_from_text(text: str) -> Bound:
    """`error=0.05`, `seconds=0.2`, `fd=1.1x` (times what the original has). DiagnosticError E0715."""
    name, equals, value = (part.strip() for part in text.partition("="))
    relative = value.endswith("x")
    try:
        number = float(value.removesuffix("x"))
    except ValueError:
        number = math.nan
    if not equals or not name or not math.isfinite(number) or number < 0:
        mend = "write `--budget error=0.05`, `seconds=0.2`, `evaluations=10`, or `fd=1.1x` for 1.1 times the spec's own"
        raise DiagnosticError.of("E0715", f"`{text}` is not a budget", help=mend)
    return Bound(name, number, relative)
