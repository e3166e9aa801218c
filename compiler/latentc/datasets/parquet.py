"""Parquet files, which are copied once into an Arrow file beside them, so that any row can be read; needs pyarrow."""

import hashlib
import os
from pathlib import Path
from typing import Any

from latentc.datasets.arrays import absent, files_below, reading
from latentc.datasets.arrow import (
    ArrowPictures,
    ArrowRows,
    Table,
    features_from_metadata,
    key_of,
    names_from_features,
    number_names,
    open_arrow,
)
from latentc.datasets.captions import text_names
from latentc.datasets.pictures import Images

ROWS = 256  # rows copied at once


def files_of(settings: dict[str, Any]) -> list[Path]:
    """The file, or all files of a folder in sorted order. Raises ValueError."""
    root = Path(settings["path"])
    found = [root] if root.is_file() else files_below(root, {".parquet"})
    if not found:
        raise ValueError(f"path: {root} is neither a .parquet file nor a folder of them")
    return found


def look(settings: dict[str, Any]) -> tuple[list[Path], list[str]]:
    """The files and the columns that the fields need, without a copy of them. Raises ValueError."""
    import pyarrow.parquet as pq

    files = files_of(settings)
    with reading(files[0], "parquet"):
        columns = pq.ParquetFile(files[0]).schema_arrow.names
    declared = settings["fields"]
    texts = text_names(declared)
    fields = [n for n in declared if n in ("x", "tokens", "y") or n in number_names(settings) or n in texts]
    wanted = ["x" if name == "tokens" and settings["first_stage"] else name for name in fields]  # what is encoded
    keys = list(dict.fromkeys(key_of(name, settings["keys"], columns) for name in wanted))
    if missing := [key for key in keys if key not in columns]:
        raise ValueError(f"keys: {files[0]} has {absent('column', missing[0], columns)}")
    return files, keys


def table_of(settings: dict[str, Any]) -> Table:
    """The copy of the columns that the fields need, made now if it is missing. Raises ValueError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    root = Path(settings["path"])
    files, keys = look(settings)
    made_of = [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files]
    digest = hashlib.sha256("\n".join([*keys, *made_of]).encode()).hexdigest()[:12]
    copy = root.parent / f"{root.name}.{digest}.arrow"
    if not copy.is_file():
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError(f"{copy} is missing: run `python -m latentc_support.data` once, before torchrun")
        temporary = copy.with_name(f".{copy.name}.{os.getpid()}.tmp")
        try:
            with pa.OSFile(str(temporary), "wb") as out:
                writer = None
                for file in files:
                    with reading(file, "parquet"):
                        for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=keys):
                            plain = batch.replace_schema_metadata(None)
                            writer = writer or pa.ipc.new_stream(out, plain.schema)
                            writer.write_batch(plain)
                if writer is None:
                    raise ValueError(f"path: {root} holds no rows")
                writer.close()
            temporary.replace(copy)
        finally:
            temporary.unlink(missing_ok=True)
    return Table([copy])


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the column of labels, if Hugging Face's description of the columns is in the file."""
    import pyarrow.parquet as pq

    file = files_of(settings)[0]
    with reading(file, "parquet"):
        metadata = pq.ParquetFile(file).schema_arrow.metadata
    return names_from_features(features_from_metadata(metadata), settings["keys"])


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> ArrowPictures:
    """The images of the files. Raises ValueError."""
    return ArrowPictures(table_of(settings), settings, side, channels)


def open_dataset(settings: dict[str, Any]) -> Images | ArrowRows:
    """The data set that `settings` describe. Raises ValueError."""
    return open_arrow(table_of(settings), settings)
