"""Cached latents with a file per sample."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.dataset import Data


class DitFeatures(Data):
    """Latents cached as fast-DiT does: a folder *features with 0.npy, 1.npy, … and a folder *labels.

    Moments (mean and deviation stacked along the channels) are drawn anew in every epoch.
    """

    kind: Literal["dit_features"]
    path: str = Field("data/features", description="the folder that holds both folders")
    moments: Literal["none", "std", "log_variance"] = Field(
        "none", description="what the second half of the channels holds; none: the files hold latents"
    )
    scale: float = Field(1.0, gt=0, description="factor of the latents; fast-DiT stores them scaled by 0.18215 already")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "dit_features", "classes": 4, "shape": [4, 8, 8]}
