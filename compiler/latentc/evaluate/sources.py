"""Where samples come from: a bundle that is sampled, data that is read, arrays in memory.

A source hands out samples by row number in chunks, and row i is the same whatever chunk it is in. Whoever spreads work
over processes implements `stream`.

Symbols: N samples.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from latentc.components.dataset import Data
from latentc.datasets import open_dataset
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.pictures import PIXELS, Samples
from latentc_runtime import Pipeline
from latentc_runtime.manifest import Output
from latentc_runtime.request import Request, check_request
from latentc_runtime.sources import Condition, Given, default_given

Array = np.ndarray
Chunk = tuple[Samples, Array | None]  # samples, and their labels i64[N] if they have any


class Source(ABC):
    """Samples by row number. `name`: what they are, in words. `size`: how many there are.

    `judged_by`: the features that suit such data, if that is known. `class_names`: empty if they are not known.
    """

    name: str
    size: int
    judged_by: str | None = None
    class_names: tuple[str, ...] = ()

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


class Generated(Source):
    """The samples of a bundle: sample i has seed `seed` + i, and classes take turns.

    `settings` are the same for all samples; other conditions are random by the seed. Raises BundleError E0608, E0609.
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
    ) -> None:
        self.pipe, self.size, self.seed, self.batch = pipe, count, seed, batch
        self.name = f"{count} samples of {pipe.manifest.name}"
        self.entry = pipe.program(program, steps)
        self.conditions = pipe.manifest.conditions_of(self.entry)
        self.class_names = next((c.names for c in self.conditions if c.form == "label"), ())
        self.settings = dict(settings or {})
        self._request(0, 1)  # what is wrong with a setting is said before the work begins

    @property
    def identity(self) -> str:
        manifest = (self.pipe.bundle.folder / "manifest.json").read_bytes()
        usual = {setting.name: setting.value for setting in self.pipe.manifest.settings_of(self.entry)}
        settings = sorted({**usual, **self.settings}.items())
        about = (self.entry.name, self.entry.steps, self.seed, settings, self.pipe.device)
        return f"generated {hashlib.sha256(manifest).hexdigest()} {about}"

    def chunk(self, start: int, stop: int) -> Chunk:
        request = self._request(start, stop)
        array = next(iter(self.pipe.run(request, self.batch).values()))
        labels = labels_of(request.given, self.conditions)
        return Samples(array, field_of(self.entry.outputs[0].output)), labels

    def _request(self, start: int, stop: int) -> Request:
        manifest = self.pipe.manifest
        part = default_given(stop - start, self.seed + start, self.conditions, manifest.settings_of(self.entry))
        given: dict[str, Any] = {
            name: {"value": value, "mask": part.masks[name]} if name in part.masks else value
            for name, value in part.conditions.items()
        }
        for condition in self.conditions:
            if condition.form == "label":  # by the row, so that it does not depend on the chunk
                given[condition.name] = np.arange(start, stop) % (condition.classes or 1)
        seeds = part.seeds.tolist()
        return check_request(manifest, self.entry, None, seeds, given, self.settings, None, len(part))


class Real(Source):
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
        self.settings = {**data.settings(), "fields": fields}
        try:
            self.data = open_dataset(self.settings)
        except (ValueError, OSError, ImportError) as error:
            mend = "name what to compare with: `--reference FOLDER`, a spec, or an .npz of images or statistics"
            raise DiagnosticError.of("E0722", f"the {name} cannot be read: {error}", help=mend) from None
        count = self.data.size if most is None else min(most, self.data.size)
        self.index = np.linspace(0, self.data.size - 1, count).round().astype(np.int64)
        self.size = count
        part = "" if count == self.data.size else f" of {self.data.size}"
        self.name = f"{name} ({count}{part} samples)"

    @property
    def identity(self) -> str:
        """Settings, size and the content of some rows; every row of a large data set would take too long."""
        probe = self.rows(np.unique(np.linspace(0, self.size - 1, 32).round().astype(np.int64)))
        labels = b"" if probe[1] is None else probe[1].tobytes()
        content = hashlib.sha256(probe[0].array.tobytes() + labels)
        return f"real {sorted(self.settings.items(), key=str)} {self.size} {content.hexdigest()}"

    def chunk(self, start: int, stop: int) -> Chunk:
        return self.rows(np.arange(start, stop))

    def rows(self, index: Array) -> Chunk:
        """The samples and labels of these rows."""
        try:
            found = self.data.rows(self.index[index])
        except (ValueError, OSError) as error:
            raise DiagnosticError.of("E0722", f"{self.name}: {error}") from None
        return Samples(found[self.modelled], self.field), found.get("y")


class Held(Source):
    """Samples in memory, [N, ...]; pictures u8[N, H, W, C] if no field is given."""

    def __init__(
        self, array: Array, labels: Array | None = None, field: Mapping[str, Any] = PIXELS, name: str = "arrays"
    ) -> None:
        self.array, self.labels, self.field = array, labels, field
        self.size, self.name = len(array), f"{name} ({len(array)} samples)"

    @property
    def identity(self) -> str:
        labels = b"" if self.labels is None else self.labels.tobytes()
        content = hashlib.sha256(self.array.tobytes() + labels).hexdigest()
        return f"held {sorted(self.field.items(), key=str)} {content}"

    def chunk(self, start: int, stop: int) -> Chunk:
        labels = None if self.labels is None else self.labels[start:stop]
        return Samples(self.array[start:stop], self.field), labels


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


def pictures_from_npz(file: Path, arrays: Mapping[str, Array]) -> Held:
    """The pictures of an .npz of ADM's evaluation: `arr_0`, and labels in `arr_1`. DiagnosticError E0722."""
    pictures = arrays["arr_0"]
    if pictures.ndim != 4 or pictures.dtype != np.uint8 or pictures.shape[3] not in (1, 3) or not len(pictures):
        message = f"`arr_0` of {file} is {pictures.dtype}{list(pictures.shape)}, not pictures u8[N, H, W, C]"
        raise DiagnosticError.of("E0722", message, help="write pixels from 0 to 255, channels last")
    labels = arrays.get("arr_1")
    if labels is not None and labels.shape != (len(pictures),):
        labels = None
    return Held(pictures, None if labels is None else labels.astype(np.int64), name=file.name)


__all__ = ["Chunk", "Generated", "Held", "Real", "Source", "field_of", "labels_of", "pictures_from_npz"]
