"""WebDataset: .tar files in which the files of a sample have one name, such as 0012.jpg, 0012.cls and 0012.json.

The files are indexed once, so that any sample can be read; they must not be compressed.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from latentc.datasets.arrays import reading
from latentc.datasets.captions import caption_arrays, text_names
from latentc.datasets.pictures import SUFFIXES, Images, Pictures, open_images

NAMES = ("class_names.txt", "classes.txt")
LARGEST = 1 << 20  # largest size of a label, in bytes


class WebDataset(Pictures):
    """The pictures of one .tar or of all in a folder, in sorted order."""

    def __init__(self, settings: dict[str, Any], side: int, channels: int):
        super().__init__(side, channels)
        root, label, classes = Path(settings["path"]), settings["label"], settings["classes"]
        fields = settings["fields"]
        self.texts: dict[str, list[str]] = {name: [] for name in text_names(fields)}
        self.files = [root] if root.is_file() else sorted(root.glob("*.tar"))
        if not self.files:
            raise ValueError(f"path: {root} is neither a .tar file nor a folder of them")
        places, labels = [], []
        for number, file in enumerate(self.files):
            with reading(file, "an uncompressed .tar"):
                for offset, size, parts in samples_of(file):
                    places.append((number, offset, size))
                    labels.append(label_of(parts, label) if classes else 0)
                    for name, texts in self.texts.items():
                        texts.append(caption_of(parts, name))
        if not places:
            raise ValueError(f"path: {root} holds no images")
        self.places, self.y = np.array(places, np.int64), np.array(labels, np.int64)
        self.size = len(places)
        for name, texts in self.texts.items():
            self.arrays |= caption_arrays(texts.__getitem__, name, fields)

    def content(self, index: int) -> tuple[str, io.BytesIO]:
        number, offset, size = (int(v) for v in self.places[index])
        with self.files[number].open("rb") as file:
            file.seek(offset)
            return f"image {index} in {self.files[number]}", io.BytesIO(file.read(size))

    def identity(self) -> list[str]:
        return [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in self.files]


def samples_of(file: Path) -> list[tuple[int, int, dict[str, bytes]]]:
    """(offset, bytes of the picture, {suffix: content} of the labels) of each sample with a picture."""
    found: list[tuple[int, int, dict[str, bytes]]] = []
    key, picture, parts = "", (0, 0), dict[str, bytes]()
    with tarfile.open(file, "r:") as tar, file.open("rb") as raw:
        for member in [*tar, None]:
            folder, _, name = member.name.rpartition("/") if member else ("", "", "")
            base, _, suffix = name.partition(".")
            if member is None or f"{folder}/{base}" != key:
                if picture[1]:
                    found.append((*picture, parts))
                key, picture, parts = f"{folder}/{base}", (0, 0), {}
            if member is not None and member.isfile():
                if f".{suffix.lower()}" in SUFFIXES:
                    picture = (member.offset_data, member.size)
                elif suffix in ("cls", "json", "txt") and member.size <= LARGEST:
                    raw.seek(member.offset_data)
                    parts[suffix] = raw.read(member.size)
    return found


def label_of(parts: dict[str, bytes], label: str) -> int:
    """The label of a sample: of its file .cls (or the suffix `label`), or that key of its .json. Raises ValueError."""
    if label in parts:
        return int(parts[label])
    about = json.loads(parts.get("json", b"{}"))
    for key in (label, "label", "class"):
        if key in about:
            return int(about[key])
    raise ValueError(f"a sample has neither a file .{label} nor a key `{label}` in its .json; set `label`")


def caption_of(parts: dict[str, bytes], name: str) -> str:
    """The caption of a sample: its file .txt, or that key of its .json. Raises ValueError."""
    if "txt" in parts:
        return parts["txt"].decode().strip()
    about = json.loads(parts.get("json", b"{}"))
    for key in (name, "caption", "text"):
        if isinstance(found := about.get(key), str):
            return found
    raise ValueError(f"a sample has neither a file .txt nor a key `{name}` in its .json")


def class_names(settings: dict[str, Any]) -> list[str]:
    """Names in class_names.txt or classes.txt, or in the samples.json of latentc, beside the files."""
    root = Path(settings["path"])
    root = root.parent if root.is_file() else root
    for file in (root / name for name in NAMES):
        if file.is_file():
            with reading(file, "a text with one name per line"):
                return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if (about := root / "samples.json").is_file():
        with reading(about, "the description of samples"):
            return [str(name) for name in json.loads(about.read_text(encoding="utf-8")).get("class_names", [])]
    return []


def open_pictures(settings: dict[str, Any], side: int, channels: int) -> WebDataset:
    """The pictures of .tar files. Raises ValueError."""
    return WebDataset(settings, side, channels)


def open_dataset(settings: dict[str, Any]) -> Images:
    """The images that `settings` describe. Raises ValueError."""
    return open_images(settings, open_pictures)
