"""Arrays in one .npz file."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Images
from latentc.components.fields import AxisName, DataPath


class Npz(Images):
    """Arrays in one .npz file, one per field, each [N, …]; images may also be uint8 pixels [N, H, W, C]."""

    kind: Literal["npz"]
    path: DataPath = Field("data/train.npz", description="the file")
    keys: dict[AxisName, str] = Field(
        default_factory=dict, description="array names of fields that differ in the file, as {x: images}"
    )
    adds_noise: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "npz", "classes": 4, "shape": [4, 8, 8]}
