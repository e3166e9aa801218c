"""A bundle ready to sample."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from latentc_runtime.backends import Array, Backend, Engine, open_backend
from latentc_runtime.bundle import Bundle, open_bundle
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import NUMPY, EngineCall, Manifest, NormalSource, SamplerEntry, Statement, UniformSource
from latentc_runtime.media import encoded, images
from latentc_runtime.media.pixels import Pixels
from latentc_runtime.program import first_steps, run_program, ticks
from latentc_runtime.request import Request, check_request, sampler_entry

Progress = Callable[[int, int], None]


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    verify: bool = True,
    threads: int | None = None,
    engine: str | None = None,
    batch: int | None = None,
) -> Pipeline:
    """Open the bundle in the folder `path` and the engine of its default sampler.

    `device`: "cpu", "cuda", "tensorrt", or "auto" for a GPU that works, else the CPU. `verify`: compare the
    sha256 of every file. `threads`: CPU threads of one engine run. `engine`: "onnxruntime", "openvino", … in place
    of the one that the bundle was compiled for. `batch`: warm up for requests of that many samples, see
    `Pipeline.warm_up`. Raises BundleError (E0601 to E0608, E0611).
    """
    bundle = open_bundle(path, verify)
    pipeline = Pipeline(bundle, backend_of(bundle, device, threads, engine))
    pipeline.open_engines()
    if batch is not None:
        pipeline.warm_up(batch)
    return pipeline


def backend_of(bundle: Bundle, device: str = "auto", threads: int | None = None, engine: str | None = None) -> Backend:
    """The backend that a bundle was compiled for, or `engine` in its place. BundleError E0606."""
    manifest = bundle.manifest
    return open_backend(device, threads, engine or manifest.engine, manifest.precision, manifest.plans)


class Pipeline:
    """A bundle and the backend that runs it, for any number of threads. Get one with `load`."""

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self._engines: dict[str, Engine] = {}
        # Again by the thread that has it: `progress` may sample as well.
        self._turn = nullcontext() if backend.concurrent else threading.RLock()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @property
    def device(self) -> str:
        """The device that engines run on."""
        return self.backend.device

    @property
    def steps(self) -> tuple[int, ...]:
        """The step counts that can be asked for, the default first."""
        return tuple(entry.steps for entry in self.manifest.samplers)

    def sampler(self, steps: int | None = None) -> SamplerEntry:
        """The sampler of that many steps, or the default one. BundleError E0609 where there is none."""
        return sampler_entry(self.manifest, steps)

    def sample(
        self,
        classes: ArrayLike,
        seeds: ArrayLike = 0,
        guidance: ArrayLike | None = None,
        steps: int | None = None,
        noise: Mapping[str, ArrayLike] | None = None,
        progress: Progress | None = None,
        batch: int | None = None,
        truncation: ArrayLike | None = None,
    ) -> Array:
        """Samples of the given classes: f32[B, C, H, W] or i64[B, T], as `manifest.output` says.

        `classes`: int[B]. `seeds`: int[B] in [0, 2^64), or one s for s, s + 1, ...; a sample depends on its own
        seed, class and scale alone. `guidance`: the scale, one or f32[B]. `noise`: arrays in place of what the
        seeds give, by input name ("x": f32[B, ...]; per step f32[N, B, ...]). `batch`: the most samples to run
        at once; more are split. `progress(done, total)` is called from (0, total) to (total, total), per step
        where the host drives the loop, else per batch; an exception it raises ends sampling. `truncation`: of a
        generator, the bound of its noise's magnitude, one or f64[B]; inf for none.
        Raises BundleError E0607 to E0610.
        """
        entry = self.sampler(steps)
        request = check_request(self.manifest, entry, classes, seeds, guidance, noise, truncation)
        count = len(request.classes)
        size = _batch_size(count, entry, batch)
        starts = range(0, count, size)
        total, done = len(starts) * ticks(entry.program), 0

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        if progress is not None:
            progress(0, total)
        output = self.manifest.output
        samples = np.empty((count, *output.shape), NUMPY[output.dtype])
        for start in starts:
            part = request.part(start, min(count, start + size))
            with self._turn:  # what a run gives may be written again by the next
                samples[start : start + size] = self._run(part, tick)
        return samples

    def noise(self, seeds: ArrayLike, count: int, steps: int | None = None) -> dict[str, Array]:
        """All noise of `count` samples, as `sample` makes it from the seeds and takes it as `noise`.

        Raises BundleError E0608 or E0609.
        """
        entry = self.sampler(steps)
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 0:
            raise BundleError("E0608", f"`count` is a number of samples, not {count!r}", "give 0 or more")
        request = check_request(self.manifest, entry, np.zeros(count, np.int64), seeds, None, None)
        made = (i for i in entry.inputs if isinstance(i.source, NormalSource | UniformSource))
        return {i.name: request.array(i) for i in made}

    def images(self, samples: Array) -> Pixels:
        """Samples as pictures u8[B, H, W, C]. BundleError E0612 if they are not images."""
        return images(samples, self.manifest.output)

    def files(self, samples: Array, path: str | os.PathLike[str], columns: int = 8) -> dict[Path, bytes]:
        """{file: content} of samples in the format that `path` names: .png, .wav, .gif, .txt, .npz, or a folder.

        Raises BundleError E0612 if samples of this medium have no such format.
        """
        return encoded(samples, self.manifest.output, path, columns)

    def open_engines(self, steps: int | None = None) -> None:
        """Open the engines of a sampler now rather than at its first use. BundleError E0606 or E0607."""
        for file in _files(self.sampler(steps).program):
            self._engine(file)

    def warm_up(self, batch: int = 1, steps: int | None = None) -> None:
        """Do now what the first request of `batch` samples would wait for, such as compiling for that batch.

        Runs a sampler on class 0 and seed 0 and drops what it gives; where the host drives the loop, one step.
        Raises BundleError E0606 to E0609.
        """
        entry = self.sampler(steps)
        size = _batch_size(batch, entry, batch)
        entry = replace(entry, program=first_steps(entry.program))
        request = check_request(self.manifest, entry, np.zeros(size, np.int64), 0, None, None)
        with self._turn:
            self._run(request, lambda: None)

    def _engine(self, file: str) -> Engine:
        if file not in self._engines:
            path, external = self.bundle.path(file), self.bundle.external_files()
            engine = self.backend.engine(path, external)
            self.bundle.check_same()  # after: else another bundle's engine could be opened in between
            self._engines[file] = engine
        return self._engines[file]

    def _run(self, request: Request, tick: Callable[[], None]) -> Array:
        program = request.entry.program
        for file in _files(program):
            self._engine(file)  # before values: opening one may settle which device "auto" is
        variables = {name: self.backend.value(array) for name, array in request.variables().items()}
        result = self.backend.array(run_program(program, variables, self._engine, request.row, tick))
        expected = (len(request.classes), *self.manifest.output.shape)
        if result.shape != expected:
            raise BundleError(
                "E0607",
                f"the engine gave samples of shape {list(result.shape)} where the manifest says {list(expected)}",
                "compile the bundle again with `latentc compile`",
            )
        return result


def _files(program: tuple[Statement, ...]) -> list[str]:
    """The engine files of a program, each once."""
    files: list[str] = []
    for s in program:
        files += [s.file] if isinstance(s, EngineCall) else _files(s.body)
    return list(dict.fromkeys(files))


def _batch_size(count: int, entry: SamplerEntry, batch: int | None) -> int:
    if batch is not None and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise BundleError("E0608", f"a batch has 1 or more samples, not {batch!r}", "leave `batch` out")
    return min(size for size in (max(count, 1), entry.max_batch, batch) if size is not None)
