"""Weighted sums in IR, without the terms that are 0 and the products with 1, and names for their terms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import partial, reduce

from latentc.ir.builder import Builder, Var

Coefficient = float | Var


def weighted_sum(b: Builder, out: str, *terms: tuple[Coefficient, Var]) -> Var:
    """The sum of coefficient * variable, named `out`."""
    kept = [(k, variable) for k, variable in terms if isinstance(k, Var) or k != 0.0]
    if not kept:
        zero: Var = b.mul(terms[0][1], 0.0, out=out)
        return zero
    name = "term" if len(kept) > 1 else out
    *products, last = (v if isinstance(k, float) and k == 1.0 else b.mul(k, v, out=name) for k, v in kept)
    total: Var = b.add(reduce(partial(b.add, out="term"), products), last, out=out) if products else last
    return total


def summed(b: Builder, out: str, parts: Iterable[Var]) -> Var:
    """The sum of parts, of which there is at least one, named `out`."""
    return reduce(partial(b.op, "add", out=out), parts)


def names_of_terms(kinds: Iterable[str]) -> list[str]:
    """A name for each term: its kind, with a number from the second of a kind on."""
    seen, names = Counter[str](), list[str]()
    for kind in kinds:
        seen[kind] += 1
        names.append(kind if seen[kind] == 1 else f"{kind}_{seen[kind]}")
    return names
