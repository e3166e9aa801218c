"""Rows of a table: a .csv or .tsv file whose first row names the columns, or a .jsonl file with an object per line."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import Array, Arrays, absent, integers, reading
from latentc.datasets.captions import of_text, texts_as_tokens
from latentc_runtime.texts import word_starts

USUAL = {"tokens": ("text",), "y": ("label",)}
Rows = list[dict[str, Any]]


def open_dataset(settings: dict[str, Any]) -> Arrays:
    """Columns as fields: numbers, labels by number or name, and texts as tokens. Raises ValueError."""
    file, fields = Path(settings["path"]), settings["fields"]
    rows = read_rows(file)
    names = class_names(settings)
    arrays: dict[str, Array] = {}
    for name, field in fields.items():
        if any(of_text(name, fields, *kind) for kind in (("_mask", "bool"), ("_starts", "f32"))):
            continue  # computed from the text
        values = [cells(row, name, settings["keys"], field, file) for row in rows]
        if field["medium"] == "text":
            texts = [str(value[0]) for value in values]
            arrays |= texts_as_tokens(name, texts, field, masked=f"{name}_mask" in fields)
            if f"{name}_starts" in fields:
                starts = [word_starts(tokens, field) for tokens in arrays[name].tolist()]
                arrays[f"{name}_starts"] = np.array(starts, np.float32)
        elif name == "y" and names:
            arrays[name] = np.array([class_number(value[0], names) for value in values], np.int64)
        else:
            with reading(f"column `{name}` of {file}", "numbers"):
                array = np.array(values, np.float64).reshape(len(rows), *field["shape"])
            if not np.isfinite(array).all():
                raise ValueError(f"column `{name}` of {file} holds numbers that are not finite")
            if field["dtype"] == "i64":
                array = integers(array, f"column `{name}` of {file}")
            arrays[name] = array.astype(np.float32) if field["dtype"] == "f32" else array
    return Arrays(arrays, fields)


def read_rows(file: Path) -> Rows:
    """The rows of the file by column. Raises ValueError."""
    if not file.is_file():
        raise ValueError(f"path: no such file: {file}")
    rows: Rows
    if file.suffix == ".jsonl":
        with reading(file, "one JSON object per line"):
            rows = [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    else:
        with reading(file, "a table with a row of names"), file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t" if file.suffix == ".tsv" else ","))
    if not rows:
        raise ValueError(f"path: {file} holds no rows")
    return rows


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the classes: the labels of the file in sorted order; empty if they are numbers."""
    if "y" not in settings["fields"]:
        return []
    file = Path(settings["path"])
    field = settings["fields"]["y"]
    labels = {str(cells(row, "y", settings["keys"], field, file)[0]) for row in read_rows(file)}
    return [] if all(map(_is_number, labels)) else sorted(labels)


def _is_number(label: str) -> bool:
    """True for numbers, also those that no class can have, such as -1: names they are not."""
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def class_number(label: Any, names: list[str]) -> int:
    """The number of the class of this name."""
    return names.index(str(label))


def cells(row: dict[str, Any], name: str, keys: dict[str, str], field: dict[str, Any], file: Path) -> list[Any]:
    """The value of a field in a row: several numbers are in columns NAME_0, NAME_1, …. Raises ValueError."""
    key = keys.get(name) or next((k for k in (name, *USUAL.get(name, ())) if k in row), name)
    if key in row:
        return row[key] if isinstance(row[key], list) else [row[key]]
    count = int(np.prod(field["shape"], dtype=int))
    columns = [f"{key}_{i}" for i in range(count)]
    if field["medium"] == "text" or not set(columns) <= set(row):
        raise ValueError(f"keys: {file} has {absent('column', key, map(str, row), name)}")
    return [row[column] for column in columns]
