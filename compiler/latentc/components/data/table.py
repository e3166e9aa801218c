"""Rows of a table."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Data
from latentc.components.fields import AxisName


class Table(Data):
    """Columns of a .csv or .tsv file with a row of names, or keys of a .jsonl file with an object per line.

    A field of numbers is one column, or NAME_0, NAME_1, … for several; JSON lists work, too. A label is a number or a
    name; names are numbered in sorted order. Text becomes tokens; the fields NAME_mask and NAME_starts, if there are
    any, say which of them count, and which begin a word. `tokens` may be called `text` in the file, and `y` `label`.
    """

    kind: Literal["table"]
    path: str = Field("data/train.csv", description="the file")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="columns of fields that are called otherwise in the file, as {tokens: review}"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "table", "classes": 4, "fields": {"x": {"shape": [8]}}}
