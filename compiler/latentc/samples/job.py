"""A sampling job, and the process that samples it, chunk by chunk.

Symbols: N samples of the whole set, n samples of a chunk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime import BundleError, Pipeline, load
from latentc_runtime.conditions import per_sample
from latentc_runtime.manifest import Manifest, Output, ProgramEntry
from latentc_runtime.media import images
from latentc_runtime.pipeline import Indexes
from latentc_runtime.request import Request, check_request
from latentc_runtime.sources import NUMPY, Condition, Retriever

Array = np.ndarray


@dataclass(frozen=True)
class Job:
    """A set of samples to draw: plain data, which can be sent to another process.

    `labels` i64[N] are of the condition `label`. `given`: values of the other conditions by name, one for all samples
    or one per sample. `settings`: numbers by name. `batch`: samples per engine run.
    `index`: where neighbours are searched, see `latentc_runtime.load`.
    """

    bundle: Path
    count: int
    seed: int = 0
    label: str | None = None
    labels: Array | None = None
    given: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, float] = field(default_factory=dict)
    program: str | None = None
    steps: int | None = None
    batch: int | None = None
    device: str = "auto"
    threads: int | None = None
    index: Indexes = None

    def chunks(self, size: int, first: int = 0) -> list[range]:
        """Sample numbers from `first` on, in ranges of at most `size`."""
        return [range(at, min(at + size, self.count)) for at in range(first, self.count, size)]

    @property
    def seeds(self) -> Array:
        """The seed of each sample, u64[N]."""
        return np.arange(self.count, dtype=np.uint64) + np.uint64(self.seed)

    def request(
        self, manifest: Manifest, entry: ProgramEntry, rows: range, indexes: Mapping[str, Retriever] | None = None
    ) -> Request:
        """The checked request for these samples; `indexes` find neighbours. BundleError E0608."""
        given = {c.name: _rows(c, self.given[c.name], rows) for c in manifest.conditions if c.name in self.given}
        given |= {name: value for name, value in self.given.items() if name not in given}  # refused by name
        if self.label is not None and self.labels is not None:
            given[self.label] = self.labels[rows.start : rows.stop]
        seed = self.seed + rows.start
        return check_request(manifest, entry, None, seed, given, self.settings, None, len(rows), indexes=indexes)


def _rows(condition: Condition, value: Any, rows: range) -> Any:
    """The values of a condition for these samples."""
    if isinstance(value, Mapping):
        single = "value" in value and not per_sample(condition, value["value"])
        return {k: v if single or np.ndim(v) == 0 else v[rows.start : rows.stop] for k, v in value.items()}
    return value[rows.start : rows.stop] if per_sample(condition, value) else value


class Worker:
    """Draws samples of a job by their numbers. Raises BundleError."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pipe: Pipeline = load(job.bundle, job.device, threads=job.threads, index=job.index)
        self.entry = self.pipe.program(job.program, job.steps)
        self.output = self.entry.outputs[0].output

    def __call__(self, rows: range) -> Array:
        """Samples of these numbers: pictures u8[n, H, W, C] if they are images, otherwise as the program gives them."""
        request = self.job.request(self.pipe.manifest, self.entry, rows, self.pipe.indexes)
        samples = next(iter(self.pipe.run(request, self.job.batch).values()))
        return as_stored(samples, self.output, rows.start)


def as_stored(samples: Array, output: Output, first: int = 0) -> Array:
    """Samples as sets hold them: pictures if they are images. BundleError E0612."""
    if output.medium != "image":
        return samples
    try:
        return images(samples, output)
    except BundleError as error:
        message = f"among samples {first} to {first + len(samples) - 1}: {error.message}"
        raise BundleError(error.code, message, error.help) from None


def stored_type(output: Output) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of one sample as sets hold it."""
    empty = as_stored(np.zeros((1, *output.shape), NUMPY[output.dtype]), output)
    return empty.shape[1:], empty.dtype


Executor = Callable[[Job, Sequence[range]], Iterable[tuple[range, Array]]]
"""Yields the samples of each range of numbers once, in any order."""


def in_process(job: Job, chunks: Sequence[range]) -> Iterator[tuple[range, Array]]:
    """Draws chunk after chunk in this process."""
    worker = Worker(job)
    for rows in chunks:
        yield rows, worker(rows)


def ordered(results: Iterable[tuple[range, Array]], first: int = 0) -> Iterator[tuple[range, Array]]:
    """Results in the order of their numbers; those that come early wait."""
    waiting: dict[int, tuple[range, Array]] = {}
    for result in results:
        waiting[result[0].start] = result
        while first in waiting:
            rows, array = waiting.pop(first)
            yield rows, array
            first = rows.stop


def about_job(job: Job, manifest: Manifest, entry: ProgramEntry) -> dict[str, Any]:
    """The identity of a job's samples, as plain data; a set can only be continued by the same job."""
    output = entry.outputs[0].output
    shape, dtype = stored_type(output)
    labels = next((c for c in manifest.conditions if c.name == job.label), None)
    return {
        "model": manifest.name,
        "spec_sha256": manifest.spec_sha256,
        "made_from": manifest.made_from,
        "precision": manifest.precision,
        "program": entry.name,
        "steps": entry.steps,
        "count": job.count,
        "seed": job.seed,
        "settings": {s.name: float(job.settings.get(s.name, s.value)) for s in manifest.settings_of(entry)},
        "labels_sha256": None if job.labels is None else hashlib.sha256(job.labels.tobytes()).hexdigest(),
        "given_sha256": _digest(job.given) if job.given else None,
        "classes": None if labels is None else labels.classes,
        "class_names": [] if labels is None else list(labels.names),
        "shape": list(shape),
        "dtype": dtype.name,
        "output": json.loads(json.dumps(asdict(output))),
    }


def _digest(given: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(given_arrays(given).items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def given_arrays(given: Mapping[str, Any]) -> dict[str, Array]:
    """Values of conditions as arrays of a file; masks are called NAME_mask, lists of unequal lengths are numbered."""
    found: dict[str, Array] = {}
    for name, value in given.items():
        parts = {"": value["value"], "_mask": value.get("mask")} if isinstance(value, Mapping) else {"": value}
        for suffix, part in parts.items():
            if part is None:
                continue
            try:
                found[name + suffix] = np.asarray(part)
            except ValueError:  # of different lengths
                found |= {f"{name}{suffix}.{i}": np.asarray(one) for i, one in enumerate(part)}
    return found
