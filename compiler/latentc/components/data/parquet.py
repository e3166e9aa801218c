"""Parquet files."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Pictures
from latentc.components.fields import AxisName


class Parquet(Pictures):
    """Parquet files with one column of images (as stored by Hugging Face) or numbers per field.

    They are copied once to an Arrow file next to them, which is memory-mapped.
    """

    kind: Literal["parquet"]
    path: str = Field("data/train", description="a .parquet file, or a folder of them")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="column per field; by default `image` or `img`, and `label` or `labels`"
    )
    requires: ClassVar[tuple[str, ...]] = ("pillow>=10", "pyarrow>=15")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "parquet", "classes": 4, "shape": [3, 16, 16]}
