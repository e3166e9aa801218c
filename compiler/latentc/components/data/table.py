"""Rows of a table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Data
from latentc.components.fields import AxisName, DataPath
from latentc.components.objectives.next_token import NextToken
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Table(Data):
    """Columns of a .csv or .tsv file with a header row, or keys of a .jsonl file with one object per line.

    A numeric field is one column, or several named NAME_0, NAME_1, …; JSON lists also work. A label is a number or a
    name; names are numbered in sorted order. Text becomes tokens; the fields NAME_mask and NAME_starts, if present,
    mark the valid tokens and those that begin a word. `tokens` may be called `text` in the file, and `y` `label`.
    """

    kind: Literal["table"]
    path: DataPath = Field("data/train.csv", description="the file")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="column names of fields that differ in the file, as {tokens: review}"
    )
    row: str | None = Field(
        None,
        description="template of a text when texts are concatenated and cut into blocks of the sample length: "
        "`{text}`, and `{label}` for its label; texts end with the field's `end` and are separated by a space; null: "
        "each text is a sample",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "table", "classes": 4, "fields": {"x": {"shape": [8]}}}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.row is None:
            return
        tokens = self.fields.get("tokens")
        if tokens is None or tokens.medium != "text" or "{text}" not in self.row:
            yield Problem(
                ("row",),
                "a `row` needs the field `tokens` to be text, and must contain `{text}`",
                "for example `row: '{label}: {text}'`, with a field `tokens` of medium `text`",
            )
        if not (isinstance(spec.objective, NextToken) and spec.objective.bare):
            message = "rows already contain their classes, but the objective would add another token for the class"
            yield Problem(("row",), message, "use `objective: {kind: next_token, bare: true}`")
