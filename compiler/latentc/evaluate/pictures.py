"""Samples as extractors take them: pixels, brightness in [0, 1], or plain vectors.

Symbols: N samples, H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from latentc_runtime.media.pixels import arranged, bytes_of, require_finite

Array = np.ndarray
View = Literal["pixels", "unit", "vectors"]

AXES = ("height", "width", "channel")
PIXELS: Mapping[str, Any] = {"medium": "image", "axes": AXES, "range": (0, 255)}
"""The field of pictures u8[N, H, W, C]."""


@dataclass(frozen=True)
class Samples:
    """Samples [N, ...] and the properties of their field: medium, axes, range, classes, grid."""

    array: Array
    field: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Samples:
        return Samples(self.array[index], self.field)

    @property
    def are_images(self) -> bool:
        return self.field["medium"] == "image"

    def pixels(self) -> Array:
        """Pictures u8[N, H, W, C]; rounded from the field's range. ValueError if a value is not finite."""
        if self.array.dtype == np.uint8:
            return arranged(self.array, self.field, AXES)
        return bytes_of(arranged(self.array, self.field, AXES), self.field)

    def unit(self) -> Array:
        """Brightness f32[N, H, W, C], clipped to [0, 1] and not rounded. ValueError if a value is not finite."""
        found = arranged(self.array, self.field, AXES)
        require_finite(found)
        count = self.field.get("classes")
        low, high = (0, max(count - 1, 1)) if count else self.field["range"]
        return np.clip((found.astype(np.float32) - low) / (high - low), 0, 1)

    def vectors(self) -> Array:
        """Samples as f32[N, F]: brightness if they are images, else the values. ValueError if one is not finite."""
        found = self.unit() if self.are_images else self.array
        require_finite(found)
        return found.reshape(len(found), -1).astype(np.float32)

    def seen_as(self, view: View) -> Array:
        return {"pixels": self.pixels, "unit": self.unit, "vectors": self.vectors}[view]()
