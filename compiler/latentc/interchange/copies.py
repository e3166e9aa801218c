"""Tensors of a file that a name map leaves out as copies of others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from latentc.weights import Expr, materialise
from latentc.weights.rules import RawRule, parse_map
from latentc.weights.templates import Sizes


def copies(tensors: Mapping[str, Expr], rules: Sequence[RawRule], sizes: Sizes) -> Iterator[tuple[str, str]]:
    """(copy, original) of each tensor that the map ignores and writes as another one, which the file has too.

    `sizes` are those of the network that rules refer to.
    """
    for alternative in parse_map(rules, sizes):
        for rule in alternative:
            if rule.written_as is None or rule.filled_by is not None or rule.unused:
                continue
            for name in tensors:
                bindings = rule.theirs[0].match(name)
                original = None if bindings is None else rule.written_as.fill(bindings)
                if original is not None and original in tensors:
                    yield name, str(original)


def are_equal(tensors: Mapping[str, Expr], pairs: Iterable[tuple[str, str]]) -> bool:
    """Whether both tensors of each pair have the same values."""
    both = ((tensors[name], tensors[original]) for name, original in pairs)
    return all(a.shape == b.shape and np.array_equal(materialise(a), materialise(b)) for a, b in both)
