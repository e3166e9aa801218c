"""Images of any size as the fields `x` and `y` of a data set: cropped to the middle square and resized."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc.datasets.arrays import (
    Array,
    Augmentation,
    as_declared,
    augmentation_of,
    augmented_rows,
    check_classes,
    mirror,
)
from latentc.datasets.image_files import VERSION, picture_from_file


class Pictures(ABC):
    """Images by number: `size` of them, with labels `y` i64[N]; each becomes `side` × `side` pixels."""

    in_memory = False
    skips = False  # an image that cannot be read gives way to the next one that can; else it is an error
    size: int
    y: Array
    picture: Array | None = None  # i64[N]: the number of each sample's image, if several samples have one image
    arrays: dict[str, Any]  # further fields of the samples by name, such as captions: indexed by rows

    def __init__(self, side: int, channels: int):
        self.side, self.mode = side, "L" if channels == 1 else "RGB"
        self.arrays = {}

    @abstractmethod
    def content(self, index: int) -> tuple[str, Any]:
        """One image file: what messages call it, and a path or an opened file."""

    @abstractmethod
    def contents(self) -> list[str]:
        """Texts that differ if the files do."""

    def identity(self) -> list[str]:
        """Texts that differ if the images do, for caches."""
        return [VERSION, *self.contents()]

    def picture_of(self, index: int) -> Any:
        """One image as Pillow has it, of any size."""
        name, source = self.content(index)
        return picture_from_file(source, name, self.mode)

    def unreadable(self, seconds: float) -> tuple[list[str], int, int]:
        """Reads images in random order for some time: (messages of those that failed, number read, number of all)."""
        own = np.arange(self.size) if self.picture is None else np.unique(self.picture, return_index=True)[1]
        faults, read, end = list[str](), 0, time.monotonic() + seconds
        for index in np.random.default_rng(0).permutation(own):
            if time.monotonic() > end:
                break
            read += 1
            try:
                self.picture_of(int(index))
            except ValueError as error:
                faults.append(str(error))
        return faults, read, len(own)

    def read(self, index: Array, how: Callable[[int], Any]) -> tuple[Array, Array]:
        """(rows read i64[n], what `how` gives of each), where damaged images give way to others if `skips` is set."""
        rows, found = np.array(index), []
        for at in range(len(rows)):
            for _ in range(self.size):
                try:
                    found.append(how(int(rows[at])))
                    break
                except ValueError:
                    if not self.skips:
                        raise
                    rows[at] = (rows[at] + 1) % self.size
            else:
                raise ValueError("none of the images can be read")
        return rows, np.stack(found)

    def random_view(self, index: int, views: dict[str, Any], flip: bool, rng: np.random.Generator) -> Array:
        """An image u8[H, W, C] as training sees it this time: random crops and operations."""
        from latentc.datasets.views import random_view

        picture = random_view(self.picture_of(index), self.side, views, flip, rng)
        return np.asarray(picture).reshape(self.side, self.side, -1)

    def pixels(self, index: int, side: int | None = None) -> NDArray[np.uint8]:
        """One image u8[H, W, C], H = W = `side`."""
        from PIL import Image

        side = side or self.side
        picture = self.picture_of(index)
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box)
        return np.asarray(picture).reshape(side, side, -1)


class Images:
    """The fields `x` and `y` of pictures, which are mirrored or augmented as `Arrays` does."""

    in_memory = False

    def __init__(
        self,
        pictures: Pictures,
        fields: dict[str, Any],
        flip: bool,
        augment: Augmentation | None = None,
        views: dict[str, Any] | None = None,
    ):
        self.pictures, self.fields, self.flip, self.augment, self.views = pictures, fields, flip, augment, views
        self.size = pictures.size
        if "y" in fields:
            check_classes("y", pictures.y, fields["y"])
        self.labels: Array | None = pictures.y if "y" in fields else None

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Images as the field `x` declares them, and labels; mirrored at random if `rng` is given."""
        field = self.fields["x"]
        views, flip, pictures = self.views, self.flip, self.pictures
        if views is not None and rng is not None:
            index, pixels = pictures.read(index, lambda i: pictures.random_view(i, views, flip, rng))
        else:
            index, pixels = pictures.read(index, pictures.pixels)
        x = as_declared("x", pixels, field)
        if self.views is None and self.flip and rng is not None:
            x = mirror(x, rng.random(len(index)) < 0.5, 1 + field["axes"].index("width"))
        found = {"x": x, "y": self.pictures.y[index]} if "y" in self.fields else {"x": x}
        found |= {name: array[index] for name, array in self.pictures.arrays.items()}
        if self.views is not None:
            from latentc.datasets.views import mixed_rows

            height, width = (1 + field["axes"].index(axis) for axis in ("height", "width"))
            found = mixed_rows(found, "x", (height, width), self.views, rng)
        return augmented_rows(found, field, self.augment, rng) if self.augment else found

    def identity(self) -> list[str]:
        """Texts that differ if the images do, for caches."""
        return self.pictures.identity()


def open_images(settings: dict[str, Any], open_pictures: Callable[[dict[str, Any], int, int], Pictures]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    field = settings["fields"].get("x", {})
    if field.get("medium") != "image":
        raise ValueError("the data are images, but the model takes none")
    sizes = dict(zip(field["axes"], field["shape"], strict=True))
    pictures = open_pictures(settings, sizes["width"], sizes.get("channel", 1))
    pictures.skips = settings.get("damaged") == "skip"
    return Images(
        pictures, settings["fields"], settings["horizontal_flip"], augmentation_of(settings), settings.get("views")
    )
