"""Rows of a table."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Data
from latentc.components.fields import AxisName, DataPath


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
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "table", "classes": 4, "fields": {"x": {"shape": [8]}}}
