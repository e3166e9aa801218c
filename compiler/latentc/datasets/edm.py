"""Data sets of EDM and EDM2: a zip or a folder of images with dataset.json."""

import io
from typing import Any

from latentc.datasets.archive import Archive
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.pictures import Images, Pictures, open_images


class EdmPictures(Pictures):
    """The images of an archive."""

    def __init__(self, path: str, classes: int, side: int, channels: int):
        super().__init__(side, channels)
        self.archive = Archive(path, SUFFIXES)
        self.size, self.y = len(self.archive.names), self.archive.labels(classes)

    def content(self, index: int) -> tuple[str, io.BytesIO]:
        name = self.archive.names[index]
        return f"{name} in {self.archive.path}", io.BytesIO(self.archive.read(name))

    def contents(self) -> list[str]:
        return self.archive.identity()


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> EdmPictures:
    """The images of an archive. Raises ValueError."""
    return EdmPictures(settings["path"], settings["classes"], side, channels)


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    return open_images(settings, open_pictures)
