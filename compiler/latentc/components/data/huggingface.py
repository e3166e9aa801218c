"""Data sets of Hugging Face on disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName, DataPath, Field


class HuggingFace(Pictures):
    """A data set saved by `datasets` with `save_to_disk`, with one column of images or numbers per field.

    Its Arrow files are memory-mapped. Class names come from a ClassLabel column.
    """

    kind: Literal["huggingface"]
    path: DataPath = Option("data/train", description="folder written by `save_to_disk`")
    split: str = Option("train", description="split, if there are several")
    keys: dict[AxisName, str] = Option(
        default_factory=dict, description="column per field; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    HOLDS: ClassVar[str] = "a column for each field, of images, numbers or texts"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "huggingface", "classes": 4, "shape": [3, 16, 16]}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return encoded or not field.resized
