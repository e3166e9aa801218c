"""A folder of sounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field as Option

from latentc.components.dataset import Data
from latentc.components.fields import DataPath, Field


class AudioFolder(Data):
    """PCM WAV files in one sub-folder per class; takes a random segment of each, padded with silence if shorter."""

    kind: Literal["audio_folder"]
    path: DataPath = Option(
        "data/train", description="folder with one folder per class; any WAV files if `classes` is 0"
    )
    rate: float = Option(22050, gt=0, description="sample rate of all files, in Hz")
    HOLDS: ClassVar[str] = "sounds `x` and labels `y`"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "audio_folder", "classes": 4, "shape": [1, 256]}

    @classmethod
    def provides(cls, name: str, field: Field, fields: Mapping[str, Field], encoded: bool) -> bool:
        return field.is_label if name == "y" else name == "x" and field.medium == "audio"

    def _array(self, shape: tuple[int, ...]) -> Field:
        return Field(shape=shape, medium="audio", rate=self.rate)
