"""WebDataset shards."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import CaptionedPictures
from latentc.components.fields import DataPath


class WebDataset(CaptionedPictures):
    """Images in uncompressed .tar files, labelled by a .cls file or a key of the .json of the same name.

    The files are indexed when opened. Class names come from class_names.txt next to them.
    """

    kind: Literal["webdataset"]
    path: DataPath = Field("data/train", description="a .tar file, or a folder of them")
    label: str = Field(
        "cls", pattern=r"^[A-Za-z0-9_.]{1,32}$", description="suffix of the label file, or key in the .json"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "webdataset", "classes": 4, "shape": [3, 16, 16]}
