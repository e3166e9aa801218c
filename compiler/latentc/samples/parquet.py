"""Parquet files as Hugging Face `datasets` reads them: columns image, label and seed; needs pyarrow."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import files_below, integers
from latentc.datasets.arrow import features_from_metadata, names_from_features
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.samples.job import Job
from latentc.samples.pictures import picture_from_bytes, png_from_picture, stacked
from latentc.samples.sets import Samples, chosen, names_of, read_about
from latentc.samples.shards import ShardWriter

Array = np.ndarray
SHARDED = True
_COMMAND = 'pip install "latentc[data]"'


class Writer(ShardWriter):
    """Images as PNG in the column `image`, other samples as flat lists in the column `sample`."""

    SUFFIX = ".parquet"

    def __init__(self, path: Path, about: Mapping[str, Any], job: Job, conditions: Mapping[str, Array]) -> None:
        self.arrow = needed("pyarrow", "parquet", _COMMAND)
        self.parquet = needed("pyarrow.parquet", "parquet", _COMMAND)
        super().__init__(path, about, job, conditions)
        pa = self.arrow
        features: dict[str, Any] = {}
        columns = []
        if self.medium == "image":
            columns.append(pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
            features["image"] = {"_type": "Image"}
        else:
            value = pa.from_numpy_dtype(np.dtype(about["dtype"]))
            columns.append(pa.field("sample", pa.list_(value)))
            features["sample"] = {"feature": {"dtype": str(value), "_type": "Value"}, "_type": "Sequence"}
        if job.labels is not None:
            columns.append(pa.field("label", pa.int64()))
            names = {"names": list(self.names), "_type": "ClassLabel"}
            features["label"] = names if self.names else {"dtype": "int64", "_type": "Value"}
        columns.append(pa.field("seed", pa.uint64()))
        features["seed"] = {"dtype": "uint64", "_type": "Value"}
        self.schema = pa.schema(columns, {"huggingface": json.dumps({"info": {"features": features}})})

    def open(self, path: Path) -> None:
        self.file = self.parquet.ParquetWriter(path, self.schema, compression="zstd")

    def add(self, samples: Samples) -> None:
        first: list[Any]
        if self.medium == "image":
            first = [{"bytes": png_from_picture(one), "path": None} for one in samples.arrays]
        else:
            first = [one.reshape(-1) for one in samples.arrays]
        rows = {self.schema.names[0]: first, "label": samples.labels, "seed": samples.seeds}
        held = [self.arrow.array(rows[field.name], field.type) for field in self.schema]
        self.file.write_batch(self.arrow.record_batch(held, schema=self.schema))

    def finish(self) -> None:
        self.file.close()


class Reader:
    """The samples of one .parquet file or of all in a folder, in sorted order."""

    format = "parquet"

    def __init__(self, path: Path) -> None:
        self.arrow = needed("pyarrow", "parquet", _COMMAND)
        self.parquet = needed("pyarrow.parquet", "parquet", _COMMAND)
        self.path, self.about = path, read_about(path) if path.is_dir() else {}
        self.files = _files(path)
        self.class_names = names_of(self.about)
        self.count = 0
        for file in self.files:
            opened = self._opened(file)
            self.count += opened.metadata.num_rows
            features = features_from_metadata(opened.schema_arrow.metadata)
            self.class_names = self.class_names or tuple(names_from_features(features, {"y": "label"}))

    def _opened(self, file: Path) -> Any:
        try:
            return self.parquet.ParquetFile(file)
        except (OSError, ValueError) as error:  # pyarrow's errors derive from these
            raise DiagnosticError.of("E0726", f"{file} cannot be read as parquet: {error}") from None

    @functools.cached_property
    def labels(self) -> Array | None:
        """The column `label`, if all files have it."""
        parts = []
        for file in self.files:
            opened = self._opened(file)
            if "label" not in opened.schema_arrow.names:
                return None
            parts.append(_labels(opened.read(["label"]).column("label"), str(file)))
        return np.concatenate(parts)

    def chunks(self, size: int = 256, rows: Array | None = None) -> Iterator[Samples]:
        start = 0
        for file in self.files:
            try:
                for batch in self._opened(file).iter_batches(batch_size=size):
                    first, own = chosen(start, start + batch.num_rows, rows)
                    start += batch.num_rows
                    if own.size:
                        yield self._chunk(first, batch.take(self.arrow.array(own)), str(file))
            except (OSError, ValueError) as error:
                raise DiagnosticError.of("E0726", f"{file} cannot be read as parquet: {error}") from None

    def _chunk(self, start: int, batch: Any, name: str) -> Samples:
        columns = set(batch.schema.names)
        found = next((c for c in ("image", "img", "sample") if c in columns), None)
        if found is None:
            raise DiagnosticError.of("E0726", f"{name} has no column `image`; columns: {', '.join(sorted(columns))}")
        rows = batch.column(found).to_pylist()
        if found == "sample":
            shape, dtype = self.about["shape"], self.about["dtype"]
            arrays = np.array(rows, dtype).reshape(len(rows), *shape)
        else:
            contents = [row["bytes"] if isinstance(row, dict) else row for row in rows]
            if not all(isinstance(content, bytes) for content in contents):
                raise DiagnosticError.of("E0726", f"`{found}` in {name} does not hold the bytes of image files")
            arrays = stacked([picture_from_bytes(content, name) for content in contents], name)
        seeds = batch.column("seed").to_numpy().astype(np.uint64) if "seed" in columns else None
        labels = _labels(batch.column("label"), name) if "label" in columns else None
        return Samples(start, arrays, seeds, labels)


def _labels(column: Any, name: str) -> Array:
    """A column of classes as i64[n]. DiagnosticError E0726."""
    try:
        return integers(column.to_numpy(zero_copy_only=False), "column `label`")
    except ValueError as error:
        raise DiagnosticError.of("E0726", f"{name}: {error}") from None


def _files(path: Path) -> list[Path]:
    """The file, or those in a folder. DiagnosticError E0726."""
    try:
        return [path] if path.is_file() else files_below(path, {".parquet"})
    except ValueError as error:
        raise DiagnosticError.of("E0726", str(error)) from None


def recognises(path: Path) -> bool:
    """True for a .parquet file and for a folder with some."""
    return path.suffix == ".parquet" if path.is_file() else bool(_files(path))
