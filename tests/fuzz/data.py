"""Data sets in every form that readers know, right, wrong or damaged: read as what was stored, or refused.

Values of unknown scale, labels that are no class, what is no file, hidden files, and damaged bytes. What is read must
be the stored brightness and labels; if bytes were damaged, values of the right form.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from files import _spoilt
from PIL import Image

from latentc.components.fields import Field
from latentc.datasets import open_dataset

COUNT, SIDE, CLASSES = 6, 8, 3
Pixels = Callable[[np.ndarray], Any]

# How brightness f64[n, 8, 8, 1] in [0, 1] is stored in an array; True where a reader knows what the values stand for.
ARRAYS: dict[str, tuple[Pixels, bool]] = {
    "u8": (lambda b: np.rint(b * 255).astype(np.uint8), True),
    "u16": (lambda b: np.rint(b * 65535).astype(np.uint16), True),
    "big-endian u16": (lambda b: np.rint(b * 65535).astype(">u2"), True),
    "f32": (lambda b: (b * 2 - 1).astype(np.float32).transpose(0, 3, 1, 2), True),
    "f16": (lambda b: (b * 2 - 1).astype(np.float16).transpose(0, 3, 1, 2), True),
    "f64": (lambda b: (b * 2 - 1).transpose(0, 3, 1, 2), True),
    "f32 up to 255": (lambda b: (b * 254 + 1).astype(np.float32).transpose(0, 3, 1, 2), False),
    "i64": (lambda b: np.rint(b * 255).astype(np.int64), False),
    "i16": (lambda b: np.rint(b * 255).astype(np.int16), False),
    "nan": (lambda b: np.where(b == b.max(), np.nan, b).transpose(0, 3, 1, 2), False),
    "inf": (lambda b: np.where(b == b.max(), -np.inf, b).transpose(0, 3, 1, 2), False),
    "text": (lambda b: b.astype("U8"), False),
    "complex": (lambda b: b + 1j, False),
}


def file_of(array: np.ndarray, format: str, mode: str | None = None, **options: Any) -> bytes:
    content = io.BytesIO()
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(content, format, **options)
    return content.getvalue()


def with_alpha(b: np.ndarray, alpha: int) -> np.ndarray:
    grey = np.rint(b * 255).astype(np.uint8)
    return np.stack([grey, grey, grey, np.full_like(grey, alpha)], -1)


def upright(b: np.ndarray) -> bytes:
    exif = Image.Exif()
    exif[274] = 3  # upside down
    return file_of(np.rint(b[::-1, ::-1] * 255).astype(np.uint8), "PNG", exif=exif)


# How brightness f64[8, 8] is stored in an image file.
FILES: dict[str, tuple[str, Pixels, bool]] = {
    "grey": ("png", lambda b: file_of(np.rint(b * 255).astype(np.uint8), "PNG"), True),
    "RGB": ("bmp", lambda b: file_of(np.rint(b * 255).astype(np.uint8), "BMP", "RGB"), True),
    "16 bits": ("png", lambda b: file_of(np.rint(b * 65535).astype(np.uint16), "PNG"), True),
    "16 bits in a TIFF": ("tif", lambda b: file_of(np.rint(b * 65535).astype(">u2"), "TIFF"), True),
    "float": ("tiff", lambda b: file_of(b.astype(np.float32), "TIFF"), True),
    "alpha": ("png", lambda b: file_of(with_alpha(b, 255), "PNG"), True),
    "turned": ("png", upright, True),
    "float up to 255": ("tif", lambda b: file_of((b * 254 + 1).astype(np.float32), "TIFF"), False),
    "float nan": ("tif", lambda b: file_of((b * np.nan).astype(np.float32), "TIFF"), False),
    "32 bits": ("tif", lambda b: file_of(np.rint(b * 255).astype(np.int32), "TIFF"), False),
    "empty": ("png", lambda b: b"", False),
    "text": ("jpg", lambda b: b"<html>not found</html>", False),
}
# Labels that are stored instead of the right ones.
LABELS: dict[str, Callable[[list[int]], list[Any]]] = {
    "right": lambda labels: labels,
    "whole floats": lambda labels: [float(label) for label in labels],
    "fractions": lambda labels: [label + 0.5 for label in labels],
    "negative": lambda labels: [-1, *labels[1:]],
    "too large": lambda labels: [*labels[:-1], CLASSES],
    "twenty digits": lambda labels: [12345678901234567890, *labels[1:]],
}
ALLOWED = {"right", "whole floats"}
KINDS = ("npz", "npy_folder", "parquet rows", "image_folder", "edm", "webdataset", "parquet")


def run(seed: int) -> str:
    """The outcome of a case: refused or read. Raises whatever else happens."""
    chance = random.Random(seed)
    folder = Path(f"set-{chance.getrandbits(40)}")
    folder.mkdir()
    try:
        return _case(chance, folder)
    finally:
        shutil.rmtree(folder)


def _case(chance: random.Random, folder: Path) -> str:
    kind = chance.choice(KINDS)
    brightness = np.random.default_rng(chance.getrandbits(32)).random((COUNT, SIDE, SIDE, 1))
    labels = [*range(CLASSES), *(chance.randrange(CLASSES) for _ in range(COUNT - CLASSES))]
    which = "right" if kind == "image_folder" else chance.choice(["right"] * 3 + [*LABELS])
    stored = LABELS[which](labels)
    if kind in ("npz", "npy_folder", "parquet rows"):
        form = chance.choice(["u8", "u16", "f32", *ARRAYS])
        make, sound = ARRAYS[form]
        _arrays(kind, folder, make(brightness), stored)
    else:
        form = chance.choice(["grey", "16 bits", *FILES])
        suffix, encode, sound = FILES[form]
        _images(kind, folder, suffix, [encode(b[..., 0]) for b in brightness], stored)
    sound = sound and which in ALLOWED and not (which == "whole floats" and kind == "edm")
    damage = chance.choice(["none", "none", "bytes", "hidden", "pipe"])
    sound = _damage(damage, kind, folder, chance) and sound
    try:
        found = open_dataset(_settings(kind, folder))
        rows = found.rows(np.arange(found.size))
    except ValueError as error:
        assert str(error) and "\n" not in str(error), error
        assert damage == "bytes" or not sound, f"{kind} of {form}, labels {which}, {damage}: refused: {error}"
        return f"{kind} refused"
    assert damage == "bytes" or sound, f"{kind} of {form}, labels {which}, {damage}: was read"
    assert rows["x"].shape == (found.size, 1, SIDE, SIDE) and np.isfinite(rows["x"]).all()
    assert rows["y"].dtype == np.int64 and set(rows["y"].tolist()) <= set(range(CLASSES))
    if damage != "bytes":
        order = np.argsort(labels, kind="stable") if kind == "image_folder" else np.arange(COUNT)
        wanted = brightness.transpose(0, 3, 1, 2)[order] * 2 - 1
        np.testing.assert_allclose(rows["x"], wanted, atol=1.02 / 255, err_msg=f"{kind} of {form}")
        np.testing.assert_array_equal(rows["y"], np.array(labels)[order])
    return f"{kind} read"


def _arrays(kind: str, folder: Path, x: np.ndarray, labels: list[Any]) -> None:
    y = np.array(labels)
    if kind == "npz":
        np.savez(folder / "a.npz", x=x, y=y)
    elif kind == "npy_folder":
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", y)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        plain = x.astype(x.dtype.newbyteorder("=")) if x.dtype.kind != "c" else x.real.astype("U8")
        flat = plain.reshape(COUNT, -1)
        column = pa.array(list(flat)) if flat.dtype.kind != "U" else pa.array(flat.tolist())
        pq.write_table(pa.table({"x": column, "y": in_arrow(labels)}), folder / "a.parquet")


def in_arrow(labels: list[Any]) -> list[Any]:
    """Labels of one type that Arrow has."""
    return [float(label) if max(labels) > 1 << 62 else label for label in labels]


def _images(kind: str, folder: Path, suffix: str, contents: list[bytes], labels: list[Any]) -> None:
    files = {f"{i}.{suffix}": content for i, content in enumerate(contents)}
    if kind == "image_folder":
        for (name, content), label in zip(files.items(), labels, strict=True):
            (folder / "set" / str(label)).mkdir(parents=True, exist_ok=True)
            (folder / "set" / str(label) / name).write_bytes(content)
    elif kind == "edm":
        with zipfile.ZipFile(folder / "a.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
            archive.writestr("dataset.json", json.dumps({"labels": [*map(list, zip(files, labels, strict=True))]}))
    elif kind == "webdataset":
        (folder / "set").mkdir()
        with tarfile.open(folder / "set" / "0.tar", "w") as tar:
            for (name, content), label in zip(files.items(), labels, strict=True):
                for member, part in ((name, content), (f"{Path(name).stem}.cls", str(label).encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(part)
                    tar.addfile(info, io.BytesIO(part))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"image": contents, "label": in_arrow(labels)}), folder / "a.parquet")


def _damage(damage: str, kind: str, folder: Path, chance: random.Random) -> bool:
    """Damages the set; False if it is to be refused for it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if damage == "bytes":
        file = chance.choice(files)
        file.write_bytes(_spoilt(file.read_bytes(), chance))
    elif damage == "hidden" and kind in ("image_folder", "webdataset"):
        (folder / "set" / ".ipynb_checkpoints").mkdir()
        (folder / "set" / ".ipynb_checkpoints" / "0.png").write_bytes(b"no image")
        (folder / "set" / "._0.tar").write_bytes(b"no archive")
    elif damage == "pipe" and kind == "image_folder":
        os.mkfifo(files[0].parent / "pipe.png")
        return False
    return True


def _settings(kind: str, folder: Path) -> dict[str, Any]:
    places = {"npz": "a.npz", "npy_folder": "", "edm": "a.zip", "image_folder": "set", "webdataset": "set"}
    fields = {"x": Field(shape=(1, SIDE, SIDE), medium="image"), "y": Field(classes=CLASSES)}
    return {
        "kind": kind.split()[0],
        "path": str(folder / places.get(kind, "a.parquet")),
        "classes": CLASSES,
        "keys": {},
        "label": "cls",
        "horizontal_flip": False,
        "augment": 0,
        "first_stage": None,
        "fields": {name: field.model_dump(mode="json", exclude_none=True) for name, field in fields.items()},
    }
