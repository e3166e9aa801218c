"""The images of a league: 32 × 32 pixels, as files that every system reads, with some held out.

Symbols: N images, C channels.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.reference import data_from_section
from latentc.evaluate.sources import Real
from latentc.survey import survey
from latentc_runtime.hashes import write_whole

SIDE = 32
HELD_OUT, MOST = 10, 10_000  # one image in ten of each class is held out, at most so many in all
INSPECTED = 1_000  # images that are looked at to learn their shape and classes
TRAINING, TEST, FILES = "images.npz", "held_out.npz", "images.zip"


@dataclass(frozen=True)
class Images:
    """Files of images u8[N, 32, 32, C] with labels i64[N] in a league's folder."""

    folder: Path
    channels: int
    classes: int
    size: int  # how many are for training

    @property
    def training(self) -> Path:
        return (self.folder / TRAINING).absolute()

    @property
    def files(self) -> Path:
        """The training images as files in a zip, as a first stage reads them."""
        return (self.folder / FILES).absolute()

    @property
    def held_out(self) -> Path:
        return (self.folder / TEST).absolute()


def prepared(data: str | Path, folder: Path) -> Images:
    """Reads images of any data that `latentc data` inspects and writes them into `folder`, unless they are there.

    Smaller images get a border in the colour of black, larger ones are resized. DiagnosticError E0422 to E0424.
    """
    found = Images(folder, 0, 0, 0)
    if not (found.training.is_file() and found.held_out.is_file()):
        pictures, labels = _read(data)
        held, seen = _parts(labels)
        write_whole(found.files, _zip(pictures[seen], labels[seen]))
        for file, rows in ((found.held_out, held), (found.training, seen)):
            content = io.BytesIO()
            np.savez_compressed(content, arr_0=pictures[rows], arr_1=labels[rows])
            write_whole(file, content.getvalue())
    with np.load(found.training) as arrays:
        shape, labels = arrays["arr_0"].shape, arrays["arr_1"]
    return Images(folder, shape[3], int(labels.max()) + 1, len(labels))


def _read(data: str | Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    found, _ = survey(data, INSPECTED)
    shape = found.section.get("shape")
    if len(found.classes) < 2 or shape is None or len(shape) != 3 or shape[0] not in (1, 3):
        message = f"a league needs images of at least two classes, which {data} does not hold"
        raise DiagnosticError.of("E0424", message, help="`latentc data` says what it holds")
    arrays = found.section["kind"] in ("npz", "npy_folder")
    section = {**found.section, "shape": shape if arrays else [shape[0], SIDE, SIDE], "horizontal_flip": False}
    source = Real(data_from_section(section), None, str(data), None)
    pictures, labels = [], []
    for start in range(0, source.size, source.chunk_size):
        samples, own = source.chunk(start, min(start + source.chunk_size, source.size))
        assert own is not None  # there are classes
        pictures.append(_of_one_size(samples.seen_as("pixels")))
        labels.append(own)
    return np.concatenate(pictures), np.concatenate(labels)


def _of_one_size(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures u8[N, H, W, C] at 32 × 32 pixels."""
    from PIL import Image

    height, width = pictures.shape[1:3]
    if SIDE // 2 < height <= SIDE and SIDE // 2 < width <= SIDE:
        above, before = (SIDE - height) // 2, (SIDE - width) // 2
        borders = ((0, 0), (above, SIDE - height - above), (before, SIDE - width - before), (0, 0))
        return np.pad(pictures, borders)
    flat = pictures[..., 0] if pictures.shape[3] == 1 else pictures
    made = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for one in flat]
    return np.stack(made).reshape(len(made), SIDE, SIDE, -1)


def _zip(pictures: NDArray[np.uint8], labels: NDArray[np.int64]) -> bytes:
    """A data set of EDM: a PNG for each picture, and dataset.json with the labels."""
    from PIL import Image

    content = io.BytesIO()
    names = [f"{i:07d}.png" for i in range(len(labels))]
    with zipfile.ZipFile(content, "w") as archive:
        for name, picture in zip(names, pictures, strict=True):
            file = io.BytesIO()
            Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture).save(file, "PNG")
            archive.writestr(name, file.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": list(zip(names, labels.tolist(), strict=True))}))
    return content.getvalue()


def _parts(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that are held out and the others, drawn with seed 0, the same share of each class."""
    rng = np.random.default_rng(0)
    out = []
    most = MOST // (int(labels.max()) + 1)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        out.append(rows[: max(1, min(most, len(rows) // HELD_OUT))])
    held = np.sort(np.concatenate(out))
    return held, np.setdiff1d(np.arange(len(labels)), held)
