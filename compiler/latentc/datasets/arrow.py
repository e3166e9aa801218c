"""Rows of Arrow files, mapped into memory: images in a column of bytes, and columns of numbers."""

import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import (
    Array,
    absent,
    as_declared,
    augmentation_of,
    augmented_rows,
    integers,
    is_label,
    reading,
)
from latentc.datasets.captions import caption_arrays, of_text, text_names, texts_as_tokens
from latentc.datasets.pictures import Images, Pictures, open_images

IMAGE, LABEL = ("image", "img", "pixel_values", "x"), ("label", "labels", "fine_label", "y")


class Table:
    """Columns of stream files; each process maps them for itself."""

    def __init__(self, files: list[Path]):
        self.files = files
        self.table: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files, "table": None}

    def column(self, name: str) -> Any:
        """A column as a ChunkedArray. Raises ValueError."""
        import pyarrow as pa

        if self.table is None:
            tables = []
            for file in self.files:
                with reading(file, "Arrow"):
                    tables.append(pa.ipc.open_stream(pa.memory_map(str(file))).read_all())
            self.table = pa.concat_tables(tables)
        if name not in self.table.column_names:
            raise ValueError(f"keys: there is {absent('column', name, self.table.column_names)}")
        return self.table.column(name)

    def names(self) -> list[str]:
        """Names of the columns."""
        import pyarrow as pa

        with reading(self.files[0], "Arrow"):
            names: list[str] = pa.ipc.open_stream(pa.memory_map(str(self.files[0]))).schema.names
        return names


def key_of(name: str, keys: dict[str, str], columns: list[str]) -> str:
    """The column of a field: as `keys` says, or of its own or a usual name."""
    usual = {"x": IMAGE, "y": LABEL, "caption": ("text",), "text": ("caption",)}.get(name, ())
    return keys.get(name) or next((c for c in (name, *usual) if c in columns), name)


def text_of(value: Any, key: str) -> str:
    """A text in a column, the first of several. Raises ValueError."""
    text = value[0] if isinstance(value, list) and value else value
    if not isinstance(text, str):
        raise ValueError(f"column `{key}` does not hold texts")
    return text


def _is_tokens(value: Any) -> bool:
    """True for a text that is stored as its tokens."""
    return isinstance(value, list) and bool(value) and not isinstance(value[0], str)


def numbers(values: Any, name: str) -> Array:
    """A column, or part of one, as an array. Raises ValueError."""
    array = np.asarray(values.to_pylist())
    if array.dtype.kind not in "biuf":
        raise ValueError(f"column `{name}` does not hold numbers in arrays of one shape")
    return array


def number_names(settings: dict[str, Any]) -> list[str]:
    """Names of the fields with a column of numbers beside the images: neither computed nor texts."""
    fields = settings["fields"]
    computed = {"x", "tokens", "y", *(["augment"] if settings["augment"] else [])}
    own = (n for n, field in fields.items() if n not in computed and field["medium"] != "text")
    return [name for name in own if not of_text(name, fields) and not fields[name].get("resized")]


def numbers_of(column: Any, key: str, name: str, field: dict[str, Any], index: Array) -> Array:
    """Rows [n, ...] of a field of numbers in the column `key`. Raises ValueError."""
    shape = field["shape"]
    with reading(f"column `{key}`", f"numbers of shape {shape}"):
        values = np.asarray([column[int(i)].as_py() for i in index])
        if values.dtype.kind in "iu":  # Python's integers have lost their dtype, which says how pixels are scaled
            values = values.astype(_element(column.type))
    if values.dtype.kind not in "biuf":
        raise ValueError(f"column `{key}` does not hold numbers of shape {shape}")
    values = as_declared(name, values, field)
    if values[0].size != np.prod(shape, dtype=int):
        raise ValueError(f"rows of `{key}` have shape {list(values.shape[1:])}, but the model takes {shape}")
    return values.reshape(len(index), *shape)  # lists may be flat


def _element(kind: Any) -> Any:
    """The dtype of the numbers in a column of numbers or of lists of them."""
    while hasattr(kind, "value_type"):
        kind = kind.value_type
    return kind.to_pandas_dtype()


class Column:
    """A field of numbers beside images, read row by row."""

    def __init__(self, table: Table, key: str, name: str, field: dict[str, Any]):
        self.table, self.key, self.name, self.field = table, key, name, field

    def __getitem__(self, index: Array) -> Array:
        return numbers_of(self.table.column(self.key), self.key, self.name, self.field, index)


class ArrowPictures(Pictures):
    """Images in a column of bytes, or of {bytes, path} as Hugging Face stores them."""

    def __init__(self, table: Table, settings: dict[str, Any], side: int, channels: int):
        super().__init__(side, channels)
        columns, keys = table.names(), settings["keys"]
        self.table, self.key = table, key_of("x", keys, columns)
        self.size = len(table.column(self.key))
        label = key_of("y", keys, columns)
        self.texts = {name: key_of(name, keys, columns) for name in text_names(settings["fields"])}
        for name in self.texts:
            self.arrays |= caption_arrays(partial(self.text, name), name, settings["fields"])
        for name in number_names(settings):
            self.arrays[name] = Column(table, key_of(name, keys, columns), name, settings["fields"][name])
        self.y = np.zeros(self.size, np.int64)
        if settings["classes"]:
            self.y = integers(numbers(table.column(label), label), f"column `{label}`")

    def content(self, index: int) -> tuple[str, Any]:
        value = self.table.column(self.key)[index].as_py()
        content = value.get("bytes") if isinstance(value, dict) else value
        name = f"row {index} of column `{self.key}`"
        if content is None and isinstance(value, dict) and value.get("path"):
            return f"{value['path']} ({name})", Path(value["path"])
        if not isinstance(content, bytes):
            raise ValueError(f"{name} does not hold the bytes of an image file")
        return name, io.BytesIO(content)

    def text(self, name: str, index: int) -> str:
        """A text of a row."""
        return text_of(self.table.column(self.texts[name])[index].as_py(), self.texts[name])

    def contents(self) -> list[str]:
        return [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in self.table.files]


class ArrowRows:
    """Columns of numbers as fields, read row by row."""

    in_memory = False

    def __init__(self, table: Table, settings: dict[str, Any]):
        self.table, self.fields, self.augment = table, settings["fields"], augmentation_of(settings)
        columns = table.names()
        stored = [n for n in self.fields if (n != "augment" or not self.augment) and not of_text(n, self.fields)]
        self.keys = {name: key_of(name, settings["keys"], columns) for name in stored}
        self.size = len(table.column(next(iter(self.keys.values()))))
        if not self.size:
            raise ValueError("the data is empty")
        self._read(np.arange(min(64, self.size)))

    @property
    def labels(self) -> Array | None:
        """The class of each sample i64[N], if they have one."""
        key = self.keys.get("y")
        if key is None or not is_label(self.fields["y"]):
            return None
        return integers(numbers(self.table.column(key), key), f"column `{key}`")

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Samples by field."""
        found = self._read(index)
        return augmented_rows(found, self.fields["x"], self.augment, rng) if self.augment else found

    def _read(self, index: Array) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for name, key in self.keys.items():
            column = self.table.column(key)
            field = self.fields[name]
            if field["medium"] == "text" and not _is_tokens(column[int(index[0])].as_py()):
                texts = [text_of(column[int(i)].as_py(), key) for i in index]
                found |= texts_as_tokens(name, texts, field, f"{name}_mask" in self.fields)
                continue
            found[name] = numbers_of(column, key, name, field, index)
        return found


def holds_images(table: Table, settings: dict[str, Any]) -> bool:
    """True if the modelled column holds image files."""
    import pyarrow as pa

    if "x" not in settings["fields"]:
        return False
    kind = table.column(key_of("x", settings["keys"], table.names())).type
    return bool(pa.types.is_struct(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def open_arrow(table: Table, settings: dict[str, Any]) -> Images | ArrowRows:
    """The data set of a table. Raises ValueError."""
    if holds_images(table, settings):
        return open_images(settings, lambda settings, side, channels: ArrowPictures(table, settings, side, channels))
    return ArrowRows(table, settings)


def names_from_features(features: Any, keys: dict[str, str]) -> list[str]:
    """Class names in the description of columns that Hugging Face stores; empty if there are none."""
    if not isinstance(features, dict):
        return []
    label = features.get(key_of("y", keys, list(features)))
    names = label.get("names") if isinstance(label, dict) else None
    if isinstance(names, dict):  # {"0": …} in old versions
        names = [names[key] for key in sorted(names, key=int)]
    return [str(name) for name in names] if isinstance(names, list) else []


def features_from_metadata(metadata: dict[bytes, bytes] | None) -> Any:
    """The description of columns in the metadata of a schema; None if there is none."""
    try:
        return json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return None
