"""A folder of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import fields
from latentc.components.dataset import Pictures
from latentc.components.fields import DataPath


class ImageFolder(Pictures):
    """Images in one sub-folder per class, as torchvision's ImageFolder reads them; classes in sorted order."""

    kind: Literal["image_folder"]
    path: DataPath = Field("data/train", description="folder with one folder per class; any images if `classes` is 0")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "image_folder", "classes": 4, "shape": [3, 16, 16]}

    @classmethod
    def at(cls, path: Path, field: Mapping[str, Any]) -> ImageFolder | None:
        """Images in a folder; classes are its sub-folders, if it has some."""
        from latentc.datasets.arrays import files_below, folder_names
        from latentc.datasets.image_files import SUFFIXES

        if field["medium"] != "image" or field.get("classes") or not files_below(path, SUFFIXES):
            return None
        classes = len(folder_names(str(path)))
        own = {key: field[key] for key in ("shape", "axes", "range", "medium")}
        return cls(
            kind="image_folder",
            path=str(path),
            classes_=classes,
            fields_={"x": fields.Field(**own)},
            horizontal_flip=False,
        )
