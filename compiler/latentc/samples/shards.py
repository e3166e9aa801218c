"""Sets of several files with a fixed number of samples each, written one after the other.

A file appears when it is complete, so an interrupted set continues after its last complete file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from latentc.diagnostics import DiagnosticError, mend_of_writing
from latentc.samples.job import Job
from latentc.samples.sets import Samples, begin_folder, names_of

Array = np.ndarray


class ShardWriter(ABC):
    """Cuts chunks at the ends of files; a format opens, fills and closes each."""

    SUFFIX: str

    def __init__(self, path: Path, about: Mapping[str, Any], job: Job, conditions: Mapping[str, Array]) -> None:
        begin_folder(path, about, conditions)
        self.path, self.about, self.count, self.shard = path, about, job.count, int(about["shard"])
        self.names, self.medium = names_of(about), about["output"]["medium"]
        complete = 0
        while complete * self.shard < job.count and self._name(complete).is_file():
            complete += 1
        self.written = min(complete * self.shard, job.count)
        self.temporary: Path | None = None

    def _name(self, index: int) -> Path:
        return self.path / f"{index:06d}{self.SUFFIX}"

    def write(self, samples: Samples) -> None:
        stop = samples.start + len(samples.arrays)
        at = samples.start
        while at < stop:
            end = min((at // self.shard + 1) * self.shard, stop)
            rows = slice(at - samples.start, end - samples.start)
            seeds, labels = (None if a is None else a[rows] for a in (samples.seeds, samples.labels))
            self._write_part(Samples(at, samples.arrays[rows], seeds, labels))
            at = end

    def _write_part(self, samples: Samples) -> None:
        """Samples that belong to one file."""
        final = self._name(samples.start // self.shard)
        try:
            if self.temporary is None:
                self.temporary = final.with_name(f".{final.name}.tmp")
                self.open(self.temporary)
            self.add(samples)
            end = samples.start + len(samples.arrays)
            if end % self.shard == 0 or end == self.count:
                self.finish()
                self.temporary.replace(final)
                self.temporary = None
        except OSError as error:
            message = f"cannot write {final}: {error.strerror or error}"
            raise DiagnosticError.of("E0412", message, help=mend_of_writing(error)) from error

    def close(self) -> None:  # noqa: B027 (not abstract: no format has anything left to do)
        """Nothing is left to do: the last file was ended with its last sample."""

    def abandon(self) -> None:
        if self.temporary is not None:
            self.finish()
            self.temporary.unlink(missing_ok=True)

    @abstractmethod
    def open(self, path: Path) -> None:
        """Begins a file."""

    @abstractmethod
    def add(self, samples: Samples) -> None:
        """Appends samples to it."""

    @abstractmethod
    def finish(self) -> None:
        """Ends it."""
