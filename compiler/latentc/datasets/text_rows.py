"""Texts of a table, one after another, in blocks of the sample length."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, Arrays, integer
from latentc.datasets.table import Rows, cells, class_names, class_number, read_rows
from latentc_runtime.texts import tokens_from_text


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """Blocks of tokens, and the class of the text that each begins in. Raises ValueError."""
    return Arrays(blocks(read_rows(Path(settings["path"])), class_names(settings), settings), settings["fields"])


def blocks(rows: Rows, names: list[str], settings: dict[str, Any]) -> dict[str, Array]:
    """Tokens [N, L] of all texts in a row, without an incomplete last block, and the class of the text it begins in."""
    file, fields, keys = Path(settings["path"]), settings["fields"], settings["keys"]
    field = fields["tokens"]
    (length,) = field["shape"]
    row: list[int] = []
    labels: list[Any] = []
    for line in rows:
        (text,) = cells(line, "tokens", keys, field, file)
        label = cells(line, "y", keys, fields["y"], file)[0] if "y" in fields else ""
        piece = settings["row"].replace("{label}", str(label)).replace("{text}", str(text))
        tokens = tokens_from_text(f" {piece}" if row else piece, field, sys.maxsize)
        row += tokens
        labels += [label] * len(tokens)
    count = len(row) // length
    if not count:
        raise ValueError(f"path: texts of {file} have {len(row)} tokens, too few for one block of {length}")
    arrays = {"tokens": np.array(row[: count * length], np.int64).reshape(count, length)}
    if "y" in fields:
        first = labels[: count * length : length]
        arrays["y"] = np.array(
            [class_number(one, names) if names else integer(one, f"a label of {file}") for one in first], np.int64
        )
    return arrays
