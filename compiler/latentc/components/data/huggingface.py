"""Data sets of Hugging Face on disk."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName


class HuggingFace(Pictures):
    """A data set that `datasets` wrote with `save_to_disk`: a column of images or of numbers per field.

    Its Arrow files are mapped into memory. Names of classes come from a ClassLabel column.
    """

    kind: Literal["huggingface"]
    path: str = Field("data/train", description="the folder that `save_to_disk` wrote")
    split: str = Field("train", description="which split, if there are several")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="columns of fields; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "huggingface", "classes": 4, "shape": [3, 16, 16]}
