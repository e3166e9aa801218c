"""Cached latents with a file per sample."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import DataPath, Field


class DitFeatures(Data):
    """Latents cached by fast-DiT: a folder *features with 0.npy, 1.npy, … and a folder *labels.

    Moments (mean and deviation stacked along the channels) are sampled anew in every epoch.
    """

    kind: Literal["dit_features"]
    path: DataPath = Option("data/features", description="folder that contains both folders")
    moments: Literal["none", "std", "log_variance"] = Option(
        "none", description="contents of the second half of the channels; none: the files contain latents"
    )
    scale: float = Option(
        1.0, gt=0, description="factor of the latents; those of fast-DiT are already scaled by 0.18215"
    )
    HOLDS: ClassVar[str] = "latents `x` and labels `y`"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "dit_features", "classes": 4, "shape": [4, 8, 8]}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return field.is_label if name == "y" else name == "x" and field.dtype == "f32"
