"""Where samples come from: a bundle that is sampled, data that is read, sets of samples in files.

A source hands out samples by row number in chunks, and row i is the same whatever chunk it is in. Whoever spreads work
over processes implements `stream`.

Symbols: N samples.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from latentc.components.dataset import Data
from latentc.datasets import open_dataset
from latentc.datasets.arrays import drawn_rows
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.pictures import PIXELS, Samples
from latentc.samples.job import Executor, Job, as_stored
from latentc.samples.sets import open_set
from latentc_runtime import Pipeline
from latentc_runtime.manifest import Output
from latentc_runtime.sources import Condition, Given, default_given

Array = np.ndarray
CHUNK, VALUES = 256, 1 << 26  # largest numbers of samples and values in a chunk
Chunk = tuple[Samples, Array | None]  # samples, and their labels i64[N] if they have any


def chunk_size(shape: Sequence[int]) -> int:
    """Samples of a chunk: CHUNK, fewer if they are large."""
    return max(1, min(CHUNK, VALUES // math.prod(shape)))


class SampleSource(ABC):
    """Samples by row number. `name`: what they are, in words. `size`: how many there are. `field`: as `Samples` has it.

    `judged_by`: the features that suit such data, if that is known. `class_names`: empty if they are not known.
    `chunk_size`: how many samples to hold at once. `facts`: how they were drawn, in words by subject.
    """

    name: str
    size: int
    field: Mapping[str, Any]
    judged_by: str | None = None
    chunk_size = CHUNK
    class_names: tuple[str, ...] = ()
    facts: Mapping[str, str] = MappingProxyType({})

    @property
    @abstractmethod
    def identity(self) -> str:
        """A text that differs whenever a sample does, for caches; it does not depend on `size`."""

    @abstractmethod
    def chunk(self, start: int, stop: int) -> Chunk:
        """Samples start to stop - 1."""

    def stream(self, parts: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        """The chunks of `parts`, in any order."""
        for part in parts:
            yield part, self.chunk(part.start, part.stop)

    def at(self, index: Sequence[int]) -> Samples:
        """The samples of these rows."""
        runs: list[range] = []
        for i in index:
            if runs and runs[-1].stop == i:
                runs[-1] = range(runs[-1].start, i + 1)
            else:
                runs.append(range(i, i + 1))
        parts = [self.chunk(run.start, run.stop)[0] for run in runs]
        return Samples(np.concatenate([part.array for part in parts]), parts[0].field)


class Generated(SampleSource):
    """The samples of a bundle: sample i has seed `seed` + i, and classes take turns.

    `settings` are the same for all samples; other conditions are random by the seed. `executor` draws chunks elsewhere,
    such as in several processes. Images are pictures u8, as a set of samples in files holds them. Raises BundleError
    E0608, E0609.
    """

    def __init__(
        self,
        pipe: Pipeline,
        count: int,
        seed: int = 0,
        settings: Mapping[str, float] | None = None,
        program: str | None = None,
        steps: int | None = None,
        batch: int | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.pipe, self.size, self.batch, self.executor = pipe, count, batch, executor
        self.name = f"{count} samples of {pipe.manifest.name}, seeds {seed} to {seed + count - 1}"
        self.entry = pipe.program(program, steps)
        self.field = PIXELS if (output := self.entry.outputs[0].output).medium == "image" else field_of(output)
        conditions, held = pipe.manifest.conditions_of(self.entry), pipe.manifest.settings_of(self.entry)
        usual = default_given(count, seed, conditions, held)
        labels = [c for c in conditions if c.form == "label"]
        self.class_names = labels[0].names if len(labels) == 1 else ()
        self.labels = labels_of(usual, conditions)
        given: dict[str, Any] = {
            name: {"value": value, "mask": usual.masks[name]} if name in usual.masks else value
            for name, value in usual.conditions.items()
            if name not in pipe.indexes  # these draw neighbours for each chunk
        }
        asked = dict(settings or {})
        where = (program, steps, batch, pipe.backend.device)
        self.job = Job(pipe.bundle.folder, count, seed, None, None, given, asked, *where)
        self.chunk_size = chunk_size(output.shape)
        self.job.request(pipe.manifest, self.entry, range(1), pipe.indexes)  # reports mistakes now
        self.settings = {**{setting.name: setting.value for setting in held}, **self.job.settings}
        chosen = {
            name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in self.settings.items()
        }
        self.facts = {"program": self.entry.name, "steps": str(self.entry.steps), **chosen}

    @property
    def identity(self) -> str:
        manifest = (self.pipe.bundle.folder / "manifest.json").read_bytes()
        about = (self.entry.name, self.entry.steps, self.job.seed, sorted(self.settings.items()), self.pipe.device)
        return f"generated {hashlib.sha256(manifest).hexdigest()} {about}"

    def chunk(self, start: int, stop: int) -> Chunk:
        request = self.job.request(self.pipe.manifest, self.entry, range(start, stop), self.pipe.indexes)
        array = next(iter(self.pipe.run(request, self.batch).values()))
        return self._made(range(start, stop), as_stored(array, self.entry.outputs[0].output, start))

    def stream(self, parts: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        if self.executor is None or not parts:
            yield from super().stream(parts)
            return
        for rows, array in self.executor(self.job, parts):
            yield rows, self._made(rows, array)

    def _made(self, rows: range, array: Array) -> Chunk:
        labels = None if self.labels is None else self.labels[rows.start : rows.stop]
        return Samples(array, self.field), labels


class Real(SampleSource):
    """The samples of a data set, in the form of `output` if a first stage encodes them. DiagnosticError E0722."""

    def __init__(self, data: Data, output: Output | None = None, name: str = "data", most: int | None = None) -> None:
        if not {"x", "tokens"} & {*data.fields}:
            mend = "add `shape:` to the data, or name a folder of images"
            raise DiagnosticError.of("E0722", f"the {name} declare neither `x` nor `tokens`", help=mend)
        fields = {name: field.model_dump(mode="json", exclude_none=True) for name, field in data.fields.items()}
        modelled = "x" if "x" in fields else "tokens"
        if data.first_stage is not None:
            if output is None or not data.holds_images:
                mend = "name images with `--reference`: a folder, a spec or an .npz"
                raise DiagnosticError.of("E0722", "the data are codes of a first stage, not samples", help=mend)
            made = {key: value for key, value in asdict(output).items() if value is not None}
            fields, modelled = {"x": made, **{k: v for k, v in fields.items() if k == "y"}}, "x"
        self.field, self.modelled, self.judged_by = fields[modelled], modelled, data.judged_by
        self.chunk_size = chunk_size(self.field["shape"])
        fields = {name: field for name, field in fields.items() if name in (modelled, "y", "augment")}
        self.settings = {**data.settings(), "fields": fields}
        try:
            self.data = open_dataset(self.settings)
        except (ValueError, OSError, ImportError) as error:
            mend = "name what to compare with: `--reference FOLDER`, a spec, or an .npz of images or statistics"
            raise DiagnosticError.of("E0722", f"the {name} cannot be read: {error}", help=mend) from None
        whole = most is None or most >= self.data.size
        try:
            labels = None if whole else getattr(self.data, "labels", None)
        except (ValueError, OSError) as error:
            raise DiagnosticError.of("E0722", f"the {name} cannot be read: {error}") from None
        self.index = drawn_rows(labels, self.data.size, self.data.size if most is None else most)
        self.size = len(self.index)
        self.name = f"{name} ({in_words(self.size, self.data.size, labels, 0)})"

    @property
    def identity(self) -> str:
        """Settings, size and the content of some rows; every row of a large data set would take too long."""
        probe = self.rows(np.unique(np.linspace(0, self.size - 1, 32).round().astype(np.int64)))
        labels = b"" if probe[1] is None else probe[1].tobytes()
        content = hashlib.sha256(probe[0].array.tobytes() + labels)
        index = hashlib.sha256(self.index.tobytes()).hexdigest()
        return f"real {sorted(self.settings.items(), key=str)} {index} {content.hexdigest()}"

    def chunk(self, start: int, stop: int) -> Chunk:
        return self.rows(np.arange(start, stop))

    def rows(self, index: Array) -> Chunk:
        """The samples and labels of these rows."""
        try:
            found = self.data.rows(self.index[index])
        except (ValueError, OSError) as error:
            raise DiagnosticError.of("E0722", f"{self.name}: {error}") from None
        return Samples(found[self.modelled], self.field), found.get("y")


def in_words(count: int, size: int, labels: Array | None, seed: int) -> str:
    """Which samples of a set are used."""
    if count == size:
        return f"{count} samples"
    how = "" if labels is None else f"evenly over {len(np.unique(labels))} classes "
    return f"{count} of {size} samples, drawn {how}with seed {seed}"


def field_of(output: Output) -> dict[str, Any]:
    """The properties of a bundle's output as those of a field."""
    return {name: value for name, value in vars(output).items() if value is not None}


def labels_of(given: Given, conditions: Sequence[Condition]) -> Array | None:
    """The class of each sample, i64[N]; None unless samples have one label."""
    labels = [c for c in conditions if c.form == "label" and c.name in given.conditions]
    if len(labels) != 1:
        return None
    values = given.conditions[labels[0].name]
    return values if labels[0].encoding == "index" else values.argmax(-1)


class InFiles(SampleSource):
    """A set of samples in files: a folder of pictures, an .npz as ADM's, WebDataset or parquet. DiagnosticError.

    At most `most` of them, drawn evenly over their classes by `seed`.
    """

    def __init__(self, path: Path, most: int | None = None, seed: int = 0) -> None:
        self.set = open_set(path)
        if not self.set.count:
            raise DiagnosticError.of("E0722", f"{path} holds no samples", help="draw some with `latentc sample`")
        self.class_names = self.set.class_names
        labels = None if most is None or most >= self.set.count else self.set.labels
        self.index = drawn_rows(labels, self.set.count, self.set.count if most is None else most, seed)
        self.size = len(self.index)
        self.name = f"{path.name} ({in_words(self.size, self.set.count, labels, seed)})"
        self.first = next(iter(self.set.chunks(1))).arrays
        self.chunk_size = chunk_size(self.first.shape[1:])
        pictures = self.first.dtype == np.uint8 and self.first.ndim == 4 and self.first.shape[3] in (1, 3)
        self.field = PIXELS if pictures else {"medium": "array", "axes": ()}

    @property
    def identity(self) -> str:
        """Path, size and time of every file, and the rows that are used."""
        path = self.set.path
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        rows = "" if self.size == self.set.count else self.index.tolist()
        return f"files {hashlib.sha256(f'{stats} {rows}'.encode()).hexdigest()}"

    def chunk(self, start: int, stop: int) -> Chunk:
        samples, labels = zip(*(chunk for _, chunk in self.stream([range(start, stop)])), strict=True)
        return samples[0], labels[0]

    def stream(self, parts: Sequence[range]) -> Iterator[tuple[range, Chunk]]:
        """The chunks of `parts`, in one pass over the files."""
        left = sorted(parts, key=lambda part: part.start)
        held: list[Any] = []
        for found in self.set.chunks(rows=self._rows()):
            first, end = found.start, found.start + len(found.arrays)
            while left:
                part = left[0]
                rows = slice(max(part.start - first, 0), max(min(part.stop, end) - first, 0))
                if len(found.arrays[rows]):
                    held.append((found.arrays[rows], None if found.labels is None else found.labels[rows]))
                if end < part.stop:
                    break
                yield left.pop(0), self._joined(held)
                held = []
            if not left:
                return

    def at(self, index: Sequence[int]) -> Samples:
        wanted = set(index)
        found: dict[int, Array] = {}
        for part in self.set.chunks(rows=self._rows()):
            rows = [i for i in range(part.start, part.start + len(part.arrays)) if i in wanted]
            found |= {i: part.arrays[i - part.start] for i in rows}
            if len(found) == len(wanted):
                break
        return Samples(np.stack([found[i] for i in index]), self.field)

    def _rows(self) -> Array | None:
        return None if self.size == self.set.count else self.index

    def _joined(self, parts: Sequence[Any]) -> Chunk:
        labels = [own for _, own in parts if own is not None]
        array = np.concatenate([array for array, _ in parts])
        return Samples(array, self.field), np.concatenate(labels) if len(labels) == len(parts) else None
