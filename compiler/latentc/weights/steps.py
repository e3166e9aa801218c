"""One entry of a rule's `ops`, parsed: an operation of operations.py with its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latentc.diagnostics import nearest
from latentc.weights.expr import Expr
from latentc.weights.operations import OPERATIONS, Operation, Options, Shape
from latentc.weights.templates import Sizes

_MOST_PARTS = 1 << 16


@dataclass(frozen=True)
class Step:
    """One operation of a rule with its options; `counts`: number of tensors before and after it."""

    name: str
    options: Options
    counts: tuple[int, int]

    def apply(self, parts: Sequence[Expr], shapes: Sequence[Shape] | None) -> list[Expr]:
        """Towards our tensors; `shapes` after this step, if known. Raises ValueError if they do not fit."""
        row, (size, gives) = OPERATIONS[self.name], self._group()
        made: list[Expr] = []
        for place in range(len(parts) // size):
            group = list(parts[place * size : (place + 1) * size])
            after = None if shapes is None else list(shapes[place * gives : (place + 1) * gives])
            made += row.apply(group, self.options, after, gives) if self._acts_on(place) else group
        return made

    def undo(self, parts: Sequence[Expr]) -> list[Expr]:
        """Towards the official tensors. Raises ValueError if they do not fit."""
        row, (size, gives) = OPERATIONS[self.name], self._group()
        made: list[Expr] = []
        for place in range(len(parts) // gives):
            group = list(parts[place * gives : (place + 1) * gives])
            made += row.undo(group, self.options, size) if self._acts_on(place) else group
        return made

    def _acts_on(self, place: int) -> bool:
        return place in self.options.get("only", (place,))

    def _group(self) -> tuple[int, int]:
        """(tensors in a group, tensors that it becomes)."""
        size = OPERATIONS[self.name].size(self.options) or self.counts[0]
        return size, self.counts[1] * size // self.counts[0]


def parse_step(raw: Any, sizes: Sizes, count: int, wanted: int) -> Step:
    """Parse one entry of `ops`, applied to `count` tensors; `wanted`: number of our names. Raises ValueError."""
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(f"an operation is a mapping such as {{transpose: [1, 0]}}, not {raw!r}")
    name = next(iter(raw))
    if name not in OPERATIONS:
        near = nearest(str(name), OPERATIONS)
        mend = f"; did you mean {near!r}?" if near else f": the operations are {', '.join(OPERATIONS)}"
        raise ValueError(f"unknown operation {name!r}{mend}")
    row, value = OPERATIONS[name], raw[name]
    given = dict(value) if isinstance(value, Mapping) else {next(iter(row.options)): value}
    given |= {key: item for key, item in raw.items() if key != name}
    for key in given:
        if key not in row.options:
            near = nearest(str(key), row.options)
            raise ValueError(f"{name} takes no {key!r}" + (f"; did you mean {near!r}?" if near else ""))
    if missing := row.required - given.keys():
        raise ValueError(f"{name} needs {', '.join(sorted(missing))}")
    options = {}
    for key, item in given.items():
        try:
            options[key] = row.options[key](item, sizes)
        except ValueError as error:
            raise ValueError(f"{name}, {key}: {error}") from error
    return Step(name, options, (count, _after(name, row, options, count, wanted)))


def _after(name: str, row: Operation, options: Options, count: int, wanted: int) -> int:
    """Number of tensors after an operation on `count`. Raises ValueError."""
    if any(not 0 <= place < count for place in options.get("only", ())):
        raise ValueError(f"{name}: `only` must list places in 0..{count - 1}")
    size = row.size(options)
    size = count if size is None else size
    if size < 1 or count % size:
        raise ValueError(f"{name}: {count} tensors do not divide into groups of {size}")
    gives = row.gives(options)
    gives = max(1, wanted // (count // size)) if gives is None else gives
    if not 0 < gives <= _MOST_PARTS:
        raise ValueError(f"{name}: a tensor cannot be cut into {gives} parts")
    return count // size * gives
