"""Conditions that a network takes as the numbers of one vector.

Symbols: B batch, C numbers of the conditions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from latentc.components.backbone import Backbone
from latentc.components.condition import Entry, with_operands
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var


def problems_of_arrays(network: Backbone, spec: Spec) -> Iterator[Problem]:
    """Problems of conditions that cannot be concatenated to one vector."""
    yield from network.problems_of_conditions(spec)
    entries = network.entries(spec)
    if not entries:
        yield Problem((), f"a {network.kind} needs a condition", "add one, such as `conditioning.covariates`")
    for entry in entries:
        if len(entry.ports) != 1 or entry.ports[0].type.dtype != "f32":
            yield Problem((), f"condition `{entry.name}` is not an array of numbers", "use `{kind: array}`")


def size_of(entries: Sequence[Entry]) -> int:
    """C."""
    shapes = ([int(d) for d in entry.ports[0].type.shape[1:]] for entry in entries)  # type: ignore[arg-type]
    return sum(map(math.prod, shapes))


def joined(b: Builder, entries: tuple[Entry, ...], operands: Sequence[Var]) -> Var:
    """f32[B, C]: the conditions in a row."""
    parts = [
        x if x.type.rank == 2 else b.reshape(x, shape=(x.shape[0], size_of((entry,))), out=entry.name)
        for entry, (x,) in with_operands(entries, operands)
    ]
    return b.concat(*parts, axis=1, out="c") if len(parts) > 1 else parts[0]
