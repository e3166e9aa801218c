"""A table with numbers for each value of a label, such as Lagrange's multipliers of the samples of a data set.

Unlike `condition_mlp` it takes labels, and unlike a label's embedding its rows start at a number that the spec says.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class


class ConditionTable(Backbone):
    """`embed`: a label i64[B] -> its row of a learned table, f32[B, `numbers`]."""

    kind: Literal["condition_table"]
    numbers: int = Field(1, gt=0, le=65_536, description="dimension of a row")
    start: float = Field(0.0, ge=-1e6, le=1e6, description="initial value of all entries")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "condition_table", "numbers": 4}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"embed_conditions"})
    TRAINING_ONLY: ClassVar[bool] = True
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        entries = self.entries(spec)
        if len(entries) != 1 or entries[0].ports[0].values is None:
            message = (
                f"a {self.kind} has one row per class, so it takes one label, not "
                f"{', '.join(e.name for e in entries) or 'none'}"
            )
            yield Problem(("conditions",), message, "list a condition `{kind: label}` here")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        entries = self.entries(spec)
        static = {"rows": entries[0].ports[0].values, "numbers": self.numbers}
        embed = add_method(mb, name, "embed", _embed(self.start, entries), ports_of(entries), static)
        return Network(name, {"embed": embed}, self.PROVIDES)


@cache
def _embed(start: float, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("ConditionTable", "embed")
    def embed(b: Builder, label: Var, *, rows: int, numbers: int) -> Var:
        """The row of each label."""
        return b.embedding(b.param("weight", f32(rows, numbers), "constant", value=start), label, out="numbers")

    return embed
