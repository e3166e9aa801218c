"""Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName, DataPath, Field


class Parquet(Pictures):
    """Parquet files with one column of images (as stored by Hugging Face) or numbers per field.

    They are copied once to an Arrow file next to them, which is memory-mapped.
    """

    kind: Literal["parquet"]
    path: DataPath = Option("data/train", description="a .parquet file, or a folder of them")
    keys: dict[AxisName, str] = Option(
        default_factory=dict, description="column per field; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    HOLDS: ClassVar[str] = "a column for each field, of images, numbers or texts"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "parquet", "classes": 4, "shape": [3, 16, 16]}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return encoded or not field.resized
