"""Data sets of Hugging Face on disk."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName


class HuggingFace(Pictures):
    """A data set saved by `datasets` with `save_to_disk`, with one column of images or numbers per field.

    Its Arrow files are memory-mapped. Class names come from a ClassLabel column.
    """

    kind: Literal["huggingface"]
    path: str = Field("data/train", description="folder written by `save_to_disk`")
    split: str = Field("train", description="split, if there are several")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="column per field; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "huggingface", "classes": 4, "shape": [3, 16, 16]}
