"""WebDataset: .tar files in which the files of a sample have one name, such as 0012.jpg, 0012.cls and 0012.json.

The files are indexed once, so that any sample can be read; they must not be compressed.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from latentc.datasets.arrays import integer, reading
from latentc.datasets.captions import caption_arrays, text_names
from latentc.datasets.image_files import SUFFIXES
from latentc.datasets.pictures import Images, Pictures, open_images

NAMES = ("class_names.txt", "classes.txt")
LARGEST = 1 << 20  # largest size of a label, in bytes


class WebDataset(Pictures):
    """The pictures of one .tar or of all in a folder, in sorted order."""

    def __init__(self, settings: dict[str, Any], side: int, channels: int):
        super().__init__(side, channels)
        root, label, classes = Path(settings["path"]), settings["label"], settings["classes"]
        fields = settings["fields"]
        self.texts: dict[str, list[str]] = {name: [] for name in text_names(fields)}
        self.files = tar_files(root)
        if not self.files:
            raise ValueError(f"path: {root} is neither a .tar file nor a folder of them")
        places, labels = [], []
        for number, file in enumerate(self.files):
            with reading(file, "an uncompressed .tar"):
                for key, offset, size, parts in samples_of(file, label):
                    places.append((number, offset, size))
                    labels.append(label_of(parts, label, key) if classes else 0)
                    for name, texts in self.texts.items():
                        texts.append(caption_of(parts, name, key))
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

    def contents(self) -> list[str]:
        return [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in self.files]


def tar_files(root: Path) -> list[Path]:
    """The .tar file, or those in a folder in sorted order, without hidden ones."""
    return [root] if root.is_file() else [f for f in sorted(root.glob("*.tar")) if f.name[0] != "." and f.is_file()]


def samples_of(file: Path, label: str = "cls") -> list[tuple[str, int, int, dict[str, bytes]]]:
    """(name, offset, bytes of the picture, {suffix: content} of the rest) of each sample with a picture.

    `label`: suffix of the label files. Raises ValueError.
    """
    found: list[tuple[str, int, int, dict[str, bytes]]] = []
    key, parts = "", dict[str, bytes]()
    picture: tuple[int, int] | None = None
    with tarfile.open(file, "r:") as tar, file.open("rb") as raw:
        for member in [*tar, None]:
            folder, _, name = member.name.rpartition("/") if member else ("", "", "")
            base, _, suffix = name.partition(".")
            if member is None or f"{folder}/{base}" != key:
                if picture is not None:
                    found.append((key.lstrip("/"), *picture, parts))
                key, picture, parts = f"{folder}/{base}", None, {}
            if member is not None and member.isfile():
                if f".{suffix.lower()}" in SUFFIXES:
                    picture = (member.offset_data, member.size)
                elif suffix in (label, "cls", "json", "txt") and member.size <= LARGEST:
                    raw.seek(member.offset_data)
                    parts[suffix] = raw.read(member.size)
        check_end(raw, tar.offset)
    return found


def check_end(raw: BinaryIO, offset: int) -> None:
    """Raises ValueError unless only zeros follow `offset`, the end of the last file read from a .tar.

    Python's reader takes the end of the file, a damaged header and the first of joined archives for the end.
    """
    raw.seek(offset)
    block = raw.read(tarfile.BLOCKSIZE)
    if block != tarfile.NUL * tarfile.BLOCKSIZE:
        what = "truncated" if len(block) < tarfile.BLOCKSIZE else "damaged"
        raise ValueError(f"it is {what} at byte {offset}: copy it again")
    while block:
        block = raw.read(1 << 20)
        if block.strip(tarfile.NUL):
            raise ValueError(f"it goes on after its end at byte {offset}: leave joined archives as files of their own")


def label_of(parts: dict[str, bytes], label: str, sample: str) -> int:
    """The label of a sample: of its file .cls (or the suffix `label`), or that key of its .json. Raises ValueError."""
    if label in parts:
        return integer(parts[label], f"{sample}.{label}")
    about = json.loads(parts.get("json", b"{}"))
    for key in (label, "label", "class"):
        if key in about:
            return integer(about[key], f"`{key}` of {sample}.json")
    held = ", ".join([f"{sample}.{suffix}" for suffix in parts] + [f"key `{key}` in its .json" for key in about])
    has = f"only {held}" if held else "no file beside its picture"
    raise ValueError(
        f"the sample {sample} has no label: neither a file {sample}.{label} nor a key `{label}` in its .json, {has}; "
        "`label` names the suffix or key, and unlabelled data needs `classes: 0`"
    )


def caption_of(parts: dict[str, bytes], name: str, sample: str) -> str:
    """The caption of a sample: its file .txt, or that key of its .json. Raises ValueError."""
    if "txt" in parts:
        return parts["txt"].decode().strip()
    about = json.loads(parts.get("json", b"{}"))
    for key in (name, "caption", "text"):
        if isinstance(found := about.get(key), str):
            return found
    raise ValueError(f"the sample {sample} has neither a file .txt nor a key `{name}` in its .json")


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
