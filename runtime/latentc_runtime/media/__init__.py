"""How samples of each medium are written and shown.

Each medium's module has `FORMATS` {suffix: writer}, and visual media have `pictures`. These modules, `files` and
`pixels` use only numpy and raise ValueError; training projects contain copies of those they need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np

from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Output
from latentc_runtime.media import array, audio, files, image, pixels, points, text, video
from latentc_runtime.media.files import Array
from latentc_runtime.media.labels import labelled_grid
from latentc_runtime.media.pixels import Pixels

FORMATS = {
    "image": image.FORMATS,
    "video": video.FORMATS,
    "audio": audio.FORMATS,
    "points": points.FORMATS,
    "text": text.FORMATS,
    "array": array.FORMATS,
}
PICTURES = {"image": image.pictures, "video": video.pictures, "audio": audio.pictures, "points": points.pictures}
_T = TypeVar("_T")


def images(samples: Array, output: Output) -> Pixels:
    """Samples as pictures u8[B, H, W, C]. Raises BundleError E0612 if they are not images."""
    if output.medium != "image":
        formats = ", ".join(FORMATS[output.medium])
        message = f"samples of this bundle are not images: their medium is `{output.medium}`"
        raise BundleError("E0612", message, f"write them as {formats}, or compile a spec whose samples are images")
    return _checked(lambda: image.pictures(_samples(samples, output), asdict(output)))


def encoded(
    samples: Array, output: Output, path: str | os.PathLike[str], columns: int = 8, labels: Sequence[str] | None = None
) -> dict[Path, bytes]:
    """{file: content} of samples in the format that the path's suffix names; without a suffix, a folder of files.

    `labels`: a text per sample, shown beside the pictures of a .png, or written beside texts in a .jsonl. Raises
    BundleError E0612.
    """
    if labels is not None:
        return {Path(path): _checked(lambda: _labelled(_samples(samples, output), output, Path(path), columns, labels))}
    formats = FORMATS[output.medium]
    return _checked(lambda: files.encoded(_samples(samples, output), asdict(output), Path(path), columns, formats))


def _labelled(samples: Array, output: Output, path: Path, columns: int, labels: Sequence[str]) -> bytes:
    if path.suffix.lower() == ".jsonl" and output.medium == "text":
        return text.labelled(samples, asdict(output), labels)
    if path.suffix.lower() != ".png" or output.medium not in PICTURES:
        raise ValueError(
            f"labels can be written only beside images in a .png, not beside {output.medium} samples in {path}"
        )
    pictures = PICTURES[output.medium](samples, asdict(output))
    return pixels.png(labelled_grid(pictures, min(columns, len(pictures)), labels))


def grid(pictures: Pixels, columns: int, gap: int = 0) -> Pixels:
    """`pixels.grid`, with BundleError E0612."""
    return _checked(lambda: pixels.grid(pictures, columns, gap))


def png(picture: Pixels) -> bytes:
    """`pixels.png`, with BundleError E0612."""
    return _checked(lambda: pixels.png(picture))


def _samples(samples: Array, output: Output) -> Array:
    samples = np.asarray(samples)
    if samples.shape[1:] != output.shape:
        wanted = ", ".join(map(str, ("B", *output.shape)))
        raise ValueError(f"samples have shape [{wanted}], not {list(samples.shape)}")
    return samples


def _checked(make: Callable[[], _T]) -> _T:
    try:
        return make()
    except pixels.NotFinite as error:
        mend = (
            "try a smaller guidance scale, or a bundle with higher precision, or one with more steps "
            "if it chooses them itself"
        )
        raise BundleError("E0612", str(error), mend) from None
    except ValueError as error:
        raise BundleError("E0612", str(error)) from None
