"""Image files, in one folder per class."""

from pathlib import Path
from typing import Any

from latentc.datasets.arrays import class_folders, folder_names, states
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.pictures import Images, Pictures, open_images


class ImageFolder(Pictures):
    """Images in the sub-folders of `path`, one per class; anywhere below it if there are no classes."""

    def __init__(self, path: str, classes: int, side: int, channels: int):
        super().__init__(side, channels)
        self.path = Path(path)
        self.files, self.y = class_folders(path, classes, "images", SUFFIXES)
        self.size = len(self.files)

    def content(self, index: int) -> tuple[str, Path]:
        return str(self.files[index]), self.files[index]

    def contents(self) -> list[str]:
        return states(self.files, self.path)


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the folders."""
    return folder_names(settings["path"])


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> ImageFolder:
    """The images of a folder. Raises ValueError."""
    return ImageFolder(settings["path"], settings["classes"], side, channels)


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    return open_images(settings, open_pictures)
