"""ImageNet (ILSVRC 2012) as it is distributed: a folder per synset, labelled in the sorted order of synsets.

Layouts that are recognised below `path`: train/n01440764/*.JPEG, the same under ILSVRC/Data/CLS-LOC, val with a folder
per synset, and val with all images in one folder beside LOC_val_solution.csv or the development kit.
"""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import files_below, reading, states
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.pictures import Images, Pictures, open_images

SYNSET = re.compile(r"n\d{8}")
MAPPINGS = ("LOC_synset_mapping.txt", "synset_words.txt")
SOLUTION = "LOC_val_solution.csv"
KIT, TRUTH, META = "ILSVRC2012_devkit_t12/data", "ILSVRC2012_validation_ground_truth.txt", "meta.mat"


class ImageNet(Pictures):
    """The images of one part, "train" or "val"."""

    def __init__(self, path: str, part: str, classes: int, side: int, channels: int):
        super().__init__(side, channels)
        self.root, self.folder = Path(path), folder_of(Path(path), part)
        synsets = synsets_of(self.root)
        if classes and len(synsets) != classes:
            raise ValueError(f"path: {path} has {len(synsets)} synsets, but the model has {classes} classes")
        numbers = {synset: number for number, synset in enumerate(synsets)}
        folders = synset_folders(self.folder)
        if folders:
            held = {name: files_below(self.folder / name, SUFFIXES) for name in folders}
            self.files = [file for files in held.values() for file in files]
            labels = [numbers[name] for name, files in held.items() for _ in files]
        else:
            self.files = files_below(self.folder, SUFFIXES)
            labels = [numbers[synset] for synset in self._solution(len(self.files))]
        if not self.files:
            raise ValueError(f"path: {self.folder} holds no images")
        self.size, self.y = len(self.files), np.array(labels, np.int64)

    def _solution(self, count: int) -> list[str]:
        """The synset of each image of a validation folder without sub-folders."""
        for folder in places(self.root):
            if (file := folder / SOLUTION).is_file():
                with reading(file, "a table of ImageId,PredictionString"), file.open(newline="") as rows:
                    found = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(rows)}
                    return [found[image.stem] for image in self.files]
            if (file := folder / KIT / TRUTH).is_file():
                with reading(file, f"ILSVRC numbers of {count} images"):
                    ids, numbers = ilsvrc_ids(folder), file.read_text().split()
                    if len(numbers) != count:
                        raise ValueError(f"it holds {len(numbers)}")
                    return [ids[int(number)] for number in numbers]
        what = f"{SOLUTION} or {KIT}/{TRUTH}"
        raise ValueError(f"path: the labels of {self.folder} are missing: put {what} into {self.root}")

    def content(self, index: int) -> tuple[str, Path]:
        return str(self.files[index]), self.files[index]

    def contents(self) -> list[str]:
        return states(self.files, self.root)


def places(root: Path) -> list[Path]:
    """Folders in which the parts and the lists can be."""
    return [root, root / "ILSVRC" / "Data" / "CLS-LOC", root.parent]


def folder_of(root: Path, part: str) -> Path:
    """The folder of a part. Raises ValueError."""
    for folder in places(root)[:2]:
        if (folder / part).is_dir():
            return folder / part
    if part == "train" and synset_folders(root):
        return root
    raise ValueError(f"path: {root} has no folder `{part}`, nor has its ILSVRC/Data/CLS-LOC")


def synset_folders(folder: Path) -> list[str]:
    """Names of the sub-folders that are called like synsets, sorted; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if SYNSET.fullmatch(p.name) and p.is_dir())


def mapping_of(root: Path) -> dict[str, str]:
    """{synset: its names}, from a list of lines `n01440764 tench, Tinca tinca` or the development kit; or empty."""
    for folder in places(root):
        for file in (folder / name for name in MAPPINGS):
            if file.is_file():
                with reading(file, "a list of synsets with their names"):
                    lines = [line.split(maxsplit=1) for line in file.read_text(encoding="utf-8").splitlines() if line]
                    return {synset: names.strip() for synset, names in lines}
    for folder in places(root):
        if (folder / KIT / META).is_file():
            return {synset: words for synset, words, _ in meta(folder)}
    return {}


def synsets_of(root: Path) -> list[str]:
    """All synsets, sorted, as everybody's checkpoints number them. Raises ValueError."""
    for folder in (root / "train", root / "ILSVRC" / "Data" / "CLS-LOC" / "train", root):
        if found := synset_folders(folder):
            return found
    if found := sorted(mapping_of(root)):
        return found
    raise ValueError(f"path: {root} has neither folders of synsets (n01440764) nor {MAPPINGS[0]}")


def ilsvrc_ids(folder: Path) -> dict[int, str]:
    """{number in the development kit: synset}; these numbers are in another order than labels."""
    return {number: synset for synset, _, number in meta(folder)}


def meta(folder: Path) -> list[tuple[str, str, int]]:
    """(synset, names, number) of the classes, from the development kit's meta.mat; needs SciPy. Raises ValueError."""
    file = folder / KIT / META
    with reading(file, "the development kit's synsets (needs SciPy)"):
        from scipy.io import loadmat

        rows = loadmat(str(file), squeeze_me=True)["synsets"]
        found = [(str(row["WNID"]), str(row["words"]), int(row["ILSVRC2012_ID"])) for row in rows]
    return [row for row in found if row[2] <= 1000]  # further rows are not classes but groups of them


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names of the synsets; empty if no list of them lies beside the images."""
    root = Path(settings["path"])
    names: dict[str, Any] = mapping_of(root)
    return [names[synset] for synset in synsets_of(root) if synset in names] if names else []


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> ImageNet:
    """The images of a part. Raises ValueError."""
    return ImageNet(settings["path"], settings["part"], settings["classes"], side, channels)


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    return open_images(settings, open_pictures)
