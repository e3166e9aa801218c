"""A data set of Hugging Face's `datasets` on disk, as `save_to_disk` writes it; needs pyarrow."""

import json
from pathlib import Path
from typing import Any

from latentc.datasets.arrays import absent, reading
from latentc.datasets.arrow import ArrowPictures, ArrowRows, Table, names_from_features, open_arrow
from latentc.datasets.pictures import Images


def folder_of(settings: dict[str, Any]) -> Path:
    """The folder of the data set or of its split. Raises ValueError."""
    root, split = Path(settings["path"]), settings["split"]
    if (root / "dataset_dict.json").is_file():
        with reading(root / "dataset_dict.json", "a list of splits"):
            splits = json.loads((root / "dataset_dict.json").read_text())["splits"]
        if split not in splits:
            raise ValueError(f"split: {root} has {absent('split', split, splits)}")
        root = root / split
    if not (root / "state.json").is_file():
        raise ValueError(f"path: {root} is not a data set written by `save_to_disk`: it has no state.json")
    return root


def table_of(settings: dict[str, Any]) -> Table:
    """The files of the data set. Raises ValueError."""
    root = folder_of(settings)
    with reading(root / "state.json", "the state of a data set"):
        state = json.loads((root / "state.json").read_text())
        files = [root / Path(entry["filename"]).name for entry in state["_data_files"]]
    if state.get("_indices_files"):
        raise ValueError(f"{root} is a selection of rows: call `flatten_indices()` before `save_to_disk`")
    if missing := [file for file in files if not file.is_file()]:
        raise ValueError(f"{root} is incomplete: {missing[0].name} is missing")
    if not files:
        raise ValueError(f"{root} is empty")
    return Table(files)


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the column of labels, if it is a ClassLabel."""
    root = folder_of(settings)
    file = root / "dataset_info.json"
    if not file.is_file():
        return []
    with reading(file, "the description of a data set"):
        return names_from_features(json.loads(file.read_text(encoding="utf-8")).get("features"), settings["keys"])


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> ArrowPictures:
    """The images of the data set. Raises ValueError."""
    return ArrowPictures(table_of(settings), settings, side, channels)


def open_dataset(settings: dict[str, Any]) -> Images | ArrowRows:
    """The data set that `settings` describe. Raises ValueError."""
    return open_arrow(table_of(settings), settings)
