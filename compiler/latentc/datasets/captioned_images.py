"""Image files with captions: those of a COCO annotation file, or of a table with a row per caption."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import files_below, reading, states
from latentc.datasets.captions import caption_arrays, text_names
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.pictures import Images, Pictures, open_images
from latentc.datasets.table import read_rows

IMAGE = ("image", "file_name", "image_id", "ImageID")  # what columns are called
CAPTION = ("caption", "text")
Captions = list[tuple[str, str]]  # the name of an image file, with or without its suffix, and a caption


class CaptionedImages(Pictures):
    """A sample per image, with its first caption, or per caption if there are more for each."""

    def __init__(self, settings: dict[str, Any], side: int, channels: int):
        super().__init__(side, channels)
        self.path, file = Path(settings["path"]), Path(settings["captions"])
        images = files_below(self.path, SUFFIXES)
        if not images:
            raise ValueError(f"path: {self.path} holds no images")
        by_path = {image.relative_to(self.path).as_posix(): image for image in images}
        by_name: dict[str, list[Path]] = {}
        for image in images:
            for name in (image.name, image.stem):
                by_name.setdefault(name, []).append(image)
        self.files: list[Path] = []
        self.texts: list[str] = []
        taken: dict[Path, int] = {}
        for name, caption in captions_of(file, settings["keys"]):
            found = [by_path[name]] if name in by_path else by_name.get(name, [])
            if not found:
                raise ValueError(f"captions: {file} has a caption of {name}, which is not in {self.path}")
            if len(found) > 1:
                several = " and ".join(one.relative_to(self.path).as_posix() for one in found[:2])
                raise ValueError(f"captions: {file} has a caption of {name}, which may be {several}: give its path")
            (image,) = found
            taken[image] = taken.get(image, 0) + 1
            if taken[image] <= settings["per_image"]:
                self.files.append(image)
                self.texts.append(caption)
        self.picture = np.unique([str(image) for image in self.files], return_inverse=True)[1]
        self.size, self.y = len(self.files), np.zeros(len(self.files), np.int64)
        for field in text_names(settings["fields"]):
            self.arrays = caption_arrays(self.texts.__getitem__, field, settings["fields"])
        self.captions = states([file], file.parent)

    def content(self, index: int) -> tuple[str, Path]:
        return str(self.files[index]), self.files[index]

    def contents(self) -> list[str]:
        return [*states(self.files, self.path), *self.captions]


def captions_of(file: Path, keys: dict[str, str]) -> Captions:
    """The captions of a file, in its order. Raises ValueError."""
    if file.suffix == ".json":
        return _of_coco(file)
    rows = read_rows(file)
    names = [_column(rows[0], keys, name, usual, file) for name, usual in (("image", IMAGE), ("caption", CAPTION))]
    with reading(file, f"a table with `{names[0]}` and `{names[1]}` in each row"):
        return [(str(row[names[0]]), str(row[names[1]])) for row in rows]


def _column(row: dict[str, Any], keys: dict[str, str], name: str, usual: tuple[str, ...], file: Path) -> str:
    found = [key for key in ((keys[name],) if name in keys else usual) if key in row]
    if not found:
        raise ValueError(f"keys: {file} has no column for `{name}`; it has {', '.join(map(str, row))}")
    return found[0]


def _of_coco(file: Path) -> Captions:
    """The captions of COCO's captions_train2017.json and the like."""
    if not file.is_file():
        raise ValueError(f"captions: no such file: {file}")
    with reading(file, "COCO's annotations, `images` and `annotations` with captions"):
        held = json.loads(file.read_text(encoding="utf-8"))
        names = {image["id"]: image["file_name"] for image in held["images"]}
        found = [(names[one["image_id"]], one["caption"]) for one in held["annotations"]]
    if not found:
        raise ValueError(f"captions: {file} holds no captions")
    return found


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> CaptionedImages:
    """The images that `settings` describe. Raises ValueError."""
    return CaptionedImages(settings, side, channels)


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe, with their captions. Raises ValueError."""
    return open_images(settings, open_pictures)
