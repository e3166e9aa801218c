"""The contract of feature extractors.

Symbols: N samples, F features, K classes, S spatial features.
"""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.pictures import Samples, View
from latentc_runtime.hashes import HashCache
from latentc_runtime.npy import DAMAGE

Array = np.ndarray
CODE = 1 << 26  # bytes of the code in a TorchScript file


@dataclass(frozen=True)
class Features:
    """Outputs of an extractor: features f32[N, F]; of a classifier also logits f32[N, K].

    `spatial`: features f32[N, S] that keep their place in the picture, for sFID.
    """

    features: Array
    logits: Array | None = None
    spatial: Array | None = None

    def arrays(self) -> dict[str, Array]:
        """Those that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def __len__(self) -> int:
        return len(self.features)


def joined(parts: list[Features]) -> Features:
    """The features of all parts, in order."""
    names = parts[0].arrays()
    return Features(**{name: np.concatenate([p.arrays()[name] for p in parts]) for name in names})


class Extractor(ABC):
    """Finds features in samples, the same for a sample whatever else is in the batch.

    `name`: what it is called on the command line and in results. `view`: the form of samples that it takes.
    `classifies`: its logits are scores of the classes of the data, so they judge which class a sample shows.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    view: ClassVar[View] = "pixels"
    classifies: bool = False

    @property
    def frechet(self) -> str:
        """The name of the Fréchet distance between its features; only Inception's is `fid`."""
        return f"fd_{self.name}"

    @property
    @abstractmethod
    def identity(self) -> str:
        """A text that differs whenever features do, for caches."""

    @abstractmethod
    def extract(self, samples: Array) -> Features:
        """The features of samples in the form of `view`."""

    def __call__(self, samples: Samples) -> Features:
        """The features of samples. DiagnosticError E0720 if it cannot read samples like these."""
        if self.view != "vectors" and not samples.are_images:
            message = f"features `{self.name}` need images, but the samples are {samples.field['medium']}"
            raise DiagnosticError.of("E0720", message, help="use `--features principal`, which works with any arrays")
        try:
            return self.extract(samples.seen_as(self.view))
        except ValueError as error:
            message = f"features `{self.name}` cannot be computed: {error}"
            raise DiagnosticError.of("E0720", message, help=self.takes()) from error

    def takes(self) -> str | None:
        """The samples that it takes, in words, for messages."""
        return None


def file_identity(file: Path) -> str:
    """The sha256 of a file that a user named. DiagnosticError E0401, E0402, E0721 (an archive that is compressed)."""
    if not file.is_file():
        raise DiagnosticError.of("E0401", f"no such file: {file}", help="give `--features NAME=FILE`")
    _refuse_compressed(file)
    cache = HashCache()
    try:
        found = cache.hash(file).sha256
    except OSError as error:
        raise DiagnosticError.of("E0402", f"cannot read {file}: {error.strerror or error}") from error
    cache.save()
    return found


def _refuse_compressed(file: Path) -> None:
    """DiagnosticError E0721 for a zip whose entries grow when they are unpacked, as those of no library do.

    PyTorch compresses the code of TorchScript, but never tensors.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
    except DAMAGE as error:
        raise unusable(file, "is damaged", error) from None
    if unpacked > file.stat().st_size + CODE:
        grows = ValueError(f"it is compressed, and would take {unpacked} bytes")
        raise unusable(file, "does not hold weights as PyTorch writes them", grows)


def unusable(file: Path, what: str, error: Exception, mend: str | None = None) -> DiagnosticError:
    """The diagnostic for a file of a network that a library cannot open or run; its errors are of many kinds."""
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return DiagnosticError.of("E0721", f"{file} {what}: {reason}", help=mend)
