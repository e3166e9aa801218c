"""A sheet of samples: a row per class, with its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc_runtime.media.labels import labelled_grid
from latentc_runtime.media.pixels import png

COLUMNS, ROWS, SIDE = 8, 16, 64


class Sheet:
    """Collects pictures: COLUMNS of each of the first ROWS classes, or ROWS rows of any without classes."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.held: dict[int, list[Any]] = {}

    def wants(self, label: int) -> bool:
        """Whether there is room for one more picture of a class."""
        if not self.classes:
            label, most = 0, COLUMNS * COLUMNS
        else:
            most = COLUMNS
        return label < ROWS and len(self.held.get(label, ())) < most

    def add(self, picture: Any, label: int) -> None:
        """A picture of Pillow: its centre square is shown."""
        from PIL import Image

        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box, side = (left, top, left + short, top + short), min(short, SIDE)
        small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC, box)
        self.held.setdefault(label if self.classes else 0, []).append(small)


def contact_sheet(sheet: Sheet, names: Sequence[str]) -> bytes:
    """The pictures as a PNG file, a row per class. Raises ValueError if there are none."""
    from PIL import Image

    if not sheet.held:
        raise ValueError("no image could be read, so there is no sheet of them")
    side = max(picture.width for row in sheet.held.values() for picture in row)
    pictures, labels = [], []
    for label, row in sorted(sheet.held.items()):
        count = COLUMNS if sheet.classes else -(-len(row) // COLUMNS) * COLUMNS
        blank = [Image.new("RGB", (side, side), "white")] * (count - len(row))
        pictures += [np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC)) for picture in [*row, *blank]]
        labels += [names[label] if label < len(names) else str(label) if sheet.classes else ""] * count
    if not sheet.classes:
        from latentc_runtime.media.pixels import grid

        return png(grid(np.stack(pictures), COLUMNS, 2))
    return png(labelled_grid(np.stack(pictures), COLUMNS, labels))
