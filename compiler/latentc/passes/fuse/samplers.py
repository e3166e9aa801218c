"""Linear combinations of the sampler: estimate, then update, as one."""

from __future__ import annotations

from types import SimpleNamespace

from latentc.ir.builder import Builder, Var
from latentc.passes.fuse.engine import Rule
from latentc.passes.fuse.pattern import Match


def _check(match: Match) -> str | None:
    for name in "aeck":
        if name in match.values and match.shape(name):
            return f"%{match.values[name].name} is {match.values[name].type}, not one coefficient"
    if not match.shape("x"):
        return "the state is a number itself"
    return None


def _combined(b: Builder, v: SimpleNamespace) -> Var:
    """(c + e a) x + (e k) o, without c or a where there is none."""
    first = v.e * v.a if hasattr(v, "a") else v.e
    first = v.c + first if hasattr(v, "c") else first
    result: Var = b.add(b.mul(first, v.x, out="term"), b.mul(v.e * v.k, v.o, out="term"), out="x")
    return result


# Before hoisting, which makes tables of the products: they are then numbers, computed in float64. Their sum is more
# exact than the two steps are: a step from near pure noise is a difference of large terms.
COMBINED_UPDATE = Rule(
    "combined_update",
    ("c * x + e * (a * x + k * o)", "c * x + e * (x + k * o)", "e * (a * x + k * o)"),
    _combined,
    _check,
)
