"""A bundle ready to sample."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from latentc_runtime.backends import Array, Backend, Engine, open_backend
from latentc_runtime.bundle import Bundle, located, open_bundle
from latentc_runtime.conditions import RequestError, checked_given
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import EngineCall, ProgramEntry, Statement
from latentc_runtime.media import encoded, images
from latentc_runtime.media.pixels import Pixels
from latentc_runtime.memory import check_memory, not_enough
from latentc_runtime.program import Variables, first_steps, run_program, ticks
from latentc_runtime.request import Request, all_settings, check_request, program_entry
from latentc_runtime.retrieval import EncodingIndex, Index, open_index
from latentc_runtime.sources import NUMPY, RandomSource, default_given, input_array

Progress = Callable[[int, int], None]
Watch = Callable[[int, Callable[[], dict[str, Array]]], None]
Indexes = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    verify: bool = True,
    threads: int | None = None,
    engine: str | None = None,
    batch: int | None = None,
    index: Indexes = None,
) -> Pipeline:
    """Open the bundle in the folder `path` and the engine of its default program.

    `device`: "cpu", "cuda", "tensorrt", or "auto" for a working GPU, otherwise the CPU. `verify`: check the sha256 of
    every file. `threads`: CPU threads per engine run. `engine`: "onnxruntime", "openvino", …, by default the one the
    bundle was compiled for. `batch`: warm up for requests of that many samples, see `Pipeline.warm_up`. `index`: the
    folder in which neighbours are searched, if a condition is made of them, or one per condition by name; by default
    the folder NAME.index beside a bundle NAME.latentc, if there is one. Raises BundleError (E0601 to E0608, E0611,
    E0620).
    """
    bundle = open_bundle(path, verify)
    pipeline = Pipeline(bundle, backend_of(bundle, device, threads, engine), indexes_of(bundle, index))
    pipeline.open_engines()
    if batch is not None:
        pipeline.warm_up(batch)
    return pipeline


def backend_of(bundle: Bundle, device: str = "auto", threads: int | None = None, engine: str | None = None) -> Backend:
    """The backend that a bundle was compiled for, or that of `engine`. Raises BundleError E0606."""
    manifest = bundle.manifest
    return open_backend(device, threads, engine or manifest.engine, manifest.precision, manifest.plans)


def indexes_of(bundle: Bundle, index: Indexes = None) -> dict[str, Index]:
    """The opened index of each condition that is made of neighbours; see `load`. Raises BundleError E0620."""
    wanted = {c.name: c for c in bundle.manifest.conditions if c.retrieved}
    if index is None:
        beside = bundle.folder.with_suffix(".index")
        index = dict.fromkeys(wanted, beside) if beside.is_dir() else {}
    elif not isinstance(index, Mapping):
        if len(wanted) != 1:
            mend = f"name them: {', '.join(wanted)}" if wanted else "leave it out"
            raise BundleError("E0620", f"this bundle has {len(wanted)} conditions that could use an index", mend)
        index = dict.fromkeys(wanted, index)
    found = {}
    for name, folder in index.items():
        if name not in wanted:
            raise BundleError("E0620", f"no condition `{name}` uses neighbours", f"known: {', '.join(wanted)}")
        try:
            found[name] = open_index(Path(folder))
        except ValueError as error:
            raise BundleError("E0620", str(error), "write one with `latentc index SPEC -o FOLDER`") from None
        count, size = wanted[name].shape
        if found[name].size != size or len(found[name]) < count:
            held = f"{len(found[name])} embeddings of {found[name].size} numbers"
            message = f"the index {folder} holds {held}; `{name}` is {count} of {size}"
            raise BundleError("E0620", message, "write one with the features that the model was trained with")
    return found


class Pipeline:
    """A bundle and the backend that runs it; thread-safe. Created by `load`."""

    def __init__(self, bundle: Bundle, backend: Backend, indexes: Mapping[str, Index] | None = None) -> None:
        self.bundle = bundle
        self.manifest = located(bundle)  # the bundle's, with paths of tokenizers
        self.backend = backend
        # Index of neighbours for each condition that uses one.
        self.indexes = {name: self._encoding(name, index) for name, index in (indexes or {}).items()}
        self._engines: dict[str, Engine] = {}
        # Reentrant, because `progress` may sample as well.
        self._turn = nullcontext() if backend.concurrent else threading.RLock()

    @property
    def device(self) -> str:
        """The device that engines run on."""
        return self.backend.device

    @property
    def steps(self) -> tuple[int, ...]:
        """The step counts in which the default program can run, the default first."""
        default = self.manifest.programs[0].name
        return tuple(entry.steps for entry in self.manifest.programs if entry.name == default)

    def _encoding(self, name: str, index: Index) -> Index | EncodingIndex:
        """The index of a condition, with the programs that encode queries for it, if there are any."""
        conditions = {c.name: c for c in self.manifest.conditions}
        queries = {one: conditions[one] for one in conditions[name].queries}

        def encode(one: str, value: Any) -> Array:
            return self.sample(conditions={one: value}, program=f"query_{one}")

        return EncodingIndex(index, queries, encode) if queries else index

    def program(self, name: str | None = None, steps: int | None = None) -> ProgramEntry:
        """The program of that name and step count, by default the bundle's default. Raises BundleError E0609."""
        return program_entry(self.manifest, name, steps)

    def sample(
        self,
        classes: ArrayLike | Sequence[int | str] | None = None,
        seeds: ArrayLike = 0,
        *,
        conditions: Mapping[str, Any] | None = None,
        guidance: ArrayLike | None = None,
        truncation: ArrayLike | None = None,
        settings: Mapping[str, ArrayLike] | None = None,
        noise: Mapping[str, ArrayLike] | None = None,
        count: int | None = None,
        program: str | None = None,
        steps: int | None = None,
        batch: int | None = None,
        progress: Progress | None = None,
    ) -> Array:
        """The first output of a program, [B, ...]; for most bundles samples, as `manifest.output` says.

        `classes`: a number or a name per sample ([207, "tabby"]), or a text that lists them ("tabby,0-9"), if samples
        have one label. `conditions`: the others by name, as `manifest.conditions` says:
        one value for all samples, or one per sample; sequences of different lengths are padded, and
        {"value": …, "mask": …} gives a mask. A program with a `chunk` takes any number of rows (points, rays) and gives
        as many, [B, P, …], or takes the sides of a grid of them (128, [96, 128]) and gives [B, channels, *sides].
        `seeds`: int[B] in [0, 2^64), or one s for s, s + 1, ...; a sample depends only on its own seed, conditions and
        settings. `settings`: numbers by name, one for all or f64[B]; `guidance` (the scale) and `truncation` (bound of
        a generator's noise, inf for none) are short for two of them, and given in one of the two ways.
        `noise`: arrays instead of the noise from the seeds, by input name ("x": f32[B, ...]; per step f32[N, B, ...]).
        `count`: the number of samples, if no other argument determines it. `program` and `steps`: which program, by
        default the first. `batch`: the largest number of samples to run at once. `progress(done, total)` is called from
        (0, total) to (total, total), per step if the host drives the loop, otherwise per batch; an exception that it
        raises ends sampling. Raises BundleError E0607 to E0610.
        """
        entry = self.program(program, steps)
        asked = all_settings(settings, guidance=guidance, truncation=truncation)
        request = check_request(
            self.manifest, entry, classes, seeds, conditions, asked, noise, count, indexes=self.indexes
        )
        return next(iter(self.run(request, batch, progress).values()))

    def run(
        self,
        request: Request,
        batch: int | None = None,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> dict[str, Array]:
        """All outputs of a checked request by name, [B, ...]; see `sample`, and `request.check_request`.

        `watch(start, so_far)` is called after each step if the host drives the loop, for the samples from `start` on
        that run together: `so_far()` gives the outputs as if the loop ended now, [b, ...], which are still noisy. An
        engine that decodes them runs once more for it, and the arrays must be read before `watch` returns. A program of
        any number of rows runs one chunk at once by default, and has no `watch`.
        """
        if request.rows is not None:
            return request.from_chunks(self.run(request.in_chunks(), 1 if batch is None else batch, progress))
        entry = request.entry
        count = len(request)
        if progress is not None and not callable(progress):
            message = f"`progress` must be a function of (done, total), not {progress!r}"
            raise BundleError("E0608", message, "give a function, such as `print`")
        size = _batch_size(count, entry, batch)
        starts = range(0, count, size)
        total, done = len(starts) * ticks(entry.program), 0

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        check_memory(entry, count, size)
        if progress is not None:
            progress(0, total)
        try:
            made = {o.name: np.empty((count, *o.output.shape), NUMPY[o.output.dtype]) for o in entry.outputs}
            for start in starts:
                part = request.part(start, min(count, start + size))
                with self._turn:  # the next run may overwrite the results of this one
                    seen = None if watch is None else partial(watch, start)
                    for name, array in self._run(part, tick, seen).items():
                        made[name][start : start + size] = array
        except MemoryError:
            raise not_enough(size) from None
        return made

    def noise(
        self, seeds: ArrayLike, count: int, steps: int | None = None, program: str | None = None
    ) -> dict[str, Array]:
        """All noise of `count` samples with default settings, as `sample` draws it or takes it as `noise`.

        Raises BundleError E0608 or E0609.
        """
        entry = self.program(program, steps)
        try:
            given = checked_given((), self.manifest.settings_of(entry), seeds=seeds, count=count)
        except RequestError as error:
            raise BundleError("E0608", error.message, error.help) from None
        return {i.name: input_array(i, given) for i in entry.inputs if isinstance(i.source, RandomSource)}

    def usual_request(
        self,
        count: int,
        seed: int = 0,
        steps: int | None = None,
        program: str | None = None,
        classes: Sequence[int] | None = None,
    ) -> Request:
        """A request of `count` samples without user input; see `sources.default_given`."""
        entry = self.program(program, steps)
        conditions, settings = self.manifest.conditions_of(entry), self.manifest.settings_of(entry)
        return Request(entry, default_given(count, seed, conditions, settings, classes, self.indexes))

    def images(self, samples: Array) -> Pixels:
        """Samples as pictures u8[B, H, W, C]. BundleError E0612 if they are not images."""
        return images(samples, self.manifest.output)

    def files(self, samples: Array, path: str | os.PathLike[str], columns: int = 8) -> dict[Path, bytes]:
        """{file: content} of samples in the format that `path` names: .png, .wav, .gif, .txt, .npz, or a folder.

        Raises BundleError E0612 if samples of this medium have no such format.
        """
        return encoded(samples, self.manifest.output, path, columns)

    def open_engines(self, steps: int | None = None, program: str | None = None) -> None:
        """Open the engines of a program now instead of at its first use. Raises BundleError E0606 or E0607."""
        for file in _files(self.program(program, steps).program):
            self._engine(file)

    def warm_up(self, batch: int = 1, steps: int | None = None, program: str | None = None) -> None:
        """Do now what the first request of `batch` samples would wait for, such as compiling for that batch size.

        Runs the program once, or one step of it if the host drives the loop, and discards the result.
        Raises BundleError E0606 to E0609.
        """
        size = _batch_size(batch, self.program(program, steps), batch)
        check_memory(self.program(program, steps), size, size)
        try:
            request = self.usual_request(size, 0, steps, program)
            request = replace(request, entry=replace(request.entry, program=first_steps(request.entry.program)))
            with self._turn:
                self._run(request, lambda: None)
        except MemoryError:
            raise not_enough(size) from None

    def _engine(self, file: str) -> Engine:
        if file not in self._engines:
            path, external = self.bundle.path(file), self.bundle.external_files()
            engine = self.backend.engine(path, external)
            self.bundle.check_same()  # afterwards, because the bundle could be replaced while the engine is opened
            self._engines[file] = engine
        return self._engines[file]

    def _run(
        self,
        request: Request,
        tick: Callable[[], None],
        watch: Callable[[Callable[[], dict[str, Array]]], None] | None = None,
    ) -> dict[str, Array]:
        program = request.entry.program
        for file in _files(program):
            self._engine(file)  # before values are created, because opening one may determine the device of "auto"
        variables = {name: self.backend.value(array) for name, array in request.variables().items()}

        def seen(so_far: Callable[[], Variables]) -> None:
            if watch is not None:
                watch(lambda: self._outputs(request, so_far()))

        watched, read = None if watch is None else seen, self.backend.array
        variables = run_program(program, variables, self._engine, request.row, tick, watched, read)
        return self._outputs(request, variables)

    def _outputs(self, request: Request, variables: Variables) -> dict[str, Array]:
        """The outputs of a program as arrays, from its variables at the end. BundleError E0607 if one does not fit."""
        made = {}
        for one in request.entry.outputs:
            result = self.backend.array(variables[one.variable])
            expected = (len(request), *one.output.shape)
            if result.shape != expected:
                raise BundleError(
                    "E0607",
                    f"the engine returned {one.name} of shape {list(result.shape)}, but the manifest says "
                    f"{list(expected)}",
                    "compile the bundle again with `latentc compile`",
                )
            made[one.name] = result
        return made


def _files(program: tuple[Statement, ...]) -> list[str]:
    """The engine files of a program, each once."""
    files: list[str] = []
    for s in program:
        files += [s.file] if isinstance(s, EngineCall) else _files(s.body)
    return list(dict.fromkeys(files))


def _batch_size(count: int, entry: ProgramEntry, batch: int | None) -> int:
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise BundleError("E0608", f"a batch needs at least 1 sample, not {batch!r}", "leave `batch` out")
    return min(size for size in (max(count, 1), entry.max_batch, batch) if size is not None)
