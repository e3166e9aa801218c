"""Images in archives of EDM."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import DataPath


class Edm(Pictures):
    """A zip or folder of images written by dataset_tool.py of EDM, EDM2 or StyleGAN, with labels in dataset.json."""

    kind: Literal["edm"]
    path: DataPath = Field("data/train.zip", description="the zip or the folder")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "edm", "classes": 4, "shape": [3, 16, 16]}
