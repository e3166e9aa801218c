"""Image files, cropped to the middle square and resized."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentc.datasets.arrays import Array, as_declared, augmented_rows, class_folders, folder_names, mirror, reading

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


class ImageFolder:
    """Images of `side` × `side` pixels, and labels if there are classes."""

    in_memory = False

    def __init__(self, path: str, classes: int, side: int, channels: int):
        self.files, self.y = class_folders(path, classes, "images", SUFFIXES)
        self.size, self.side, self.mode = len(self.files), side, "L" if channels == 1 else "RGB"

    def pixels(self, index: int, side: int | None = None) -> NDArray[np.uint8]:
        """One image u8[H, W, C], H = W = `side`."""
        from PIL import Image

        side = side or self.side
        path = self.files[index]
        with reading(path, "an image"), Image.open(path) as file:
            picture = file.convert(self.mode)
        short = min(picture.size)
        left, top = (picture.width - short) // 2, (picture.height - short) // 2
        box = (left, top, left + short, top + short)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC, box)
        return np.asarray(picture).reshape(side, side, -1)


class Images:
    """The fields `x` and `y` of an image folder; images are mirrored or augmented as `Arrays` does."""

    in_memory = False

    def __init__(self, folder: ImageFolder, fields: dict[str, Any], flip: bool, augment: float = 0):
        self.folder, self.fields, self.flip, self.augment = folder, fields, flip, augment
        self.size = folder.size

    def rows(self, index: Array, rng: np.random.Generator | None = None) -> dict[str, Array]:
        """Images as the field `x` declares them, and labels; mirrored at random if `rng` is given."""
        field = self.fields["x"]
        x = as_declared(np.stack([self.folder.pixels(int(i)) for i in index]), field)
        if self.flip and not self.augment and rng is not None:
            x = mirror(x, rng.random(len(index)) < 0.5, 1 + field["axes"].index("width"))
        found = {"x": x, "y": self.folder.y[index]} if "y" in self.fields else {"x": x}
        return augmented_rows(found, field, self.augment, rng) if self.augment else found


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the folders."""
    return folder_names(settings["path"])


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    field = settings["fields"].get("x", {})
    if field.get("medium") != "image":
        raise ValueError("an image folder holds images, and the model takes none")
    sizes = dict(zip(field["axes"], field["shape"], strict=True))
    folder = ImageFolder(settings["path"], settings["classes"], sizes["width"], sizes.get("channel", 1))
    return Images(folder, settings["fields"], settings["horizontal_flip"], settings["augment"])
