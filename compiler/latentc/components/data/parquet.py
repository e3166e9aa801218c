"""Parquet files."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName


class Parquet(Pictures):
    """Parquet files with a column of images (as Hugging Face stores them) or of numbers per field.

    They are copied once into an Arrow file beside them, which is mapped into memory.
    """

    kind: Literal["parquet"]
    path: str = Field("data/train", description="a .parquet file, or the folder of all")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="columns of fields; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "parquet", "classes": 4, "shape": [3, 16, 16]}
