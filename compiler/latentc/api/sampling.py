"""Samples of a bundle: a few in memory, or a set of any size written as a stream."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import runtime_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike

    from latentc.samples.sets import Format, SampleSet
    from latentc_runtime.manifest import Manifest, Output, ProgramEntry
    from latentc_runtime.pipeline import Indexes
    from latentc_runtime.retrieval import EncodingIndex, Index
    from latentc_runtime.sources import Condition, Given


def sample(
    bundle: Path | str,
    classes: Sequence[int | str] | str | None = None,
    per_class: int = 1,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    truncation: float | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    noise: Mapping[str, ArrayLike] | Path | str | None = None,
    count: int | None = None,
    program: str | None = None,
    steps: int | None = None,
    size: int | Sequence[int] | str | None = None,
    batch: int | None = None,
    device: str = "auto",
    index: Indexes = None,
    backend: Literal["engine", "oracle", "torch"] = "engine",
    output: Path | str | None = None,
    labels: bool = False,
    raw: Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Samples of a bundle, [B, ...]: `per_class` of each class in turn, of seeds `seed` and up.

    `classes`: numbers and names, or a text such as "0-9,tabby" or "all" (the default if samples have a class).
    `given`: the other conditions by name, arrays or files of them (.npy, or .npz with `value` and `mask`; with `query`
    or `class` for neighbours, which are searched in the folder `index`, see `latentc_runtime.load`; images, and sounds
    as .wav). `settings`:
    numbers by name; `guidance` and `truncation` are short for two. `noise`: arrays, or an .npz file of them, in
    place of what the seeds give. `count`: the number of samples, classes in turn. `program`: one of the bundle's.
    `size`: points per axis of the grid that a program of any number of rows computes: 128, [96, 128] or "96x128".
    `backend`: the bundle's engine, or its spec and weights by the float64 oracle or the emitted PyTorch, which take the
    same noise. `output` is what to write: a file whose suffix names a format of the samples' medium (a grid has a row
    per class), or a folder. `labels`: the names of the classes beside the pictures of a .png. `raw` is an .npz file for
    the outputs as they are, by name (`samples`). Raises DiagnosticError: E0401 to E0403, E0601 to E0613, E0704, and
    E0412 if a file cannot be written.
    """
    from latentc.files.named import open_arrays, write_arrays, write_files
    from latentc.measure.memory import available_memory
    from latentc_runtime import load
    from latentc_runtime.media import encoded
    from latentc_runtime.request import check_request

    check_files(output, raw)
    noise = open_arrays(noise) if isinstance(noise, str | Path) else noise
    values, asked = given_conditions(given), given_settings(settings, guidance=guidance, truncation=truncation)
    with runtime_errors():
        pipe = load(bundle, device, index=index)
        entry = pipe.program(program, steps)
        values = with_size(values, size, entry, pipe.manifest)
        values = with_sounds(values, pipe.manifest.conditions_of(entry), entry.outputs[0].output)
        values = with_pictures(values, pipe.manifest.conditions_of(entry))
        wanted = given_classes(pipe.manifest.conditions_of(entry), classes, per_class, count, values, pipe.indexes)
        made = entry.outputs[0].output
        # Memory per sample: the sample itself, its picture and what the runtime keeps. Refuse here, before the system
        # kills the process.
        number = len(wanted) if wanted is not None else count or 1
        if number * (math.prod(made.shape) * 16 + 256) > available_memory():
            raise MemoryError
        request = check_request(pipe.manifest, entry, wanted, seed, values, asked, noise, count, indexes=pipe.indexes)
        made = request.outputs[0].output
        if backend == "engine":
            outputs = pipe.run(request, batch, progress)
        else:
            from latentc.measure.subject import open_subject

            outputs = open_subject(bundle, device).run_request(request, backend)
        samples = next(iter(outputs.values()))
        # Done before anything is written, so that a mistake leaves no file behind.
        titles = _titles(pipe.manifest.conditions_of(entry), request.given) if labels else None
        columns = per_class if titles is None or per_class > 1 else 8  # captions below pictures of different classes
        files = {} if output is None else encoded(samples, made, output, columns, titles)
    if raw is not None:
        write_arrays(raw, outputs)
    write_files(files)
    return samples


def sample_set(
    bundle: Path | str,
    output: Path | str,
    format: Format = "folder",
    classes: Sequence[int | str] | str | None = None,
    per_class: int = 1,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
    guidance: float | None = None,
    truncation: float | None = None,
    settings: Mapping[str, float] | None = None,
    count: int | None = None,
    program: str | None = None,
    steps: int | None = None,
    batch: int | None = None,
    chunk: int | None = None,
    shard: int | None = None,
    device: str = "auto",
    index: Indexes = None,
    workers: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSet:
    """Write samples of a bundle to `output` in chunks, with their seeds and conditions; see `latentc.samples`.

    `format`: "folder" (a PNG per sample), "npz" (ADM's), "webdataset" or "parquet". A run that was interrupted
    continues, and a complete set is left untouched. `chunk`: samples drawn at once; `shard`: samples per file of the
    last two formats. `workers`: a number of processes ("4"), "ray" or "ray:ADDRESS"; the samples are the same. The rest
    is as for `sample`. Raises DiagnosticError: E0401 to E0403, E0412, E0601 to E0612, E0704, E0706, E0726, E0727, and
    E0741, E0742 of workers.
    """
    import numpy as np

    from latentc.samples.job import Job
    from latentc.samples.sets import SHARD, write
    from latentc.samples.workers import executor_of
    from latentc_runtime.bundle import open_bundle
    from latentc_runtime.conditions import per_sample
    from latentc_runtime.pipeline import Pipeline, backend_of, indexes_of
    from latentc_runtime.request import program_entry

    values, asked = given_conditions(given), given_settings(settings, guidance=guidance, truncation=truncation)
    with runtime_errors():
        opened = open_bundle(bundle)
        manifest = opened.manifest
        found = indexes_of(opened, index)
        indexes: Mapping[str, Index | EncodingIndex] = found
        entry = program_entry(manifest, program, steps)
        if entry.chunk is not None:
            message = f"samples of `{entry.name}` have any number of rows, but those of a set have one shape"
            raise DiagnosticError.of("E0704", message, help="write them to a file: leave `--as` out")
        conditions = manifest.conditions_of(entry)
        values = with_pictures(with_sounds(values, conditions, entry.outputs[0].output), conditions)
        wanted = given_classes(conditions, classes, per_class, count, values, indexes)
        if wanted is not None and not any(c.form == "label" for c in conditions):
            values, wanted = {**values, next(iter(indexes)): {"class": wanted}}, None
        # Searched once for all samples, so that each part of the samples gets its own neighbours.
        searched = [c for c in conditions if c.name in indexes and c.name in values]
        if any(c.queries for c in searched):  # the engine encodes images and texts
            indexes = Pipeline(opened, backend_of(opened, device), found).indexes
        values |= {c.name: indexes[c.name].given(c, values[c.name]) for c in searched}
        free = [c.name for c in conditions if c.form == "label" and c.name not in values]
        if wanted is not None and len(free) != 1:
            message = f"`classes` could mean any of {', '.join(free)}" if free else "the class is given twice"
            raise DiagnosticError.of("E0704", message, help="give each condition once, by its name")
        shared = [c for c in conditions if c.name in values]
        several = [len(_value(values[c.name])) for c in shared if per_sample(c, values[c.name])]
        number = len(wanted) if wanted is not None else count if count is not None else max(several, default=1)
        job = Job(
            Path(bundle),
            number,
            seed,
            free[0] if wanted is not None else None,
            None if wanted is None else np.array(wanted, np.int64),
            values,
            asked,
            program,
            steps,
            batch,
            device,
            index=index,
        )
        return write(
            job,
            Path(output),
            format,
            executor=executor_of(workers),
            chunk=chunk,
            shard=shard or SHARD,
            progress=progress,
        )


def given_conditions(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Conditions by name, files of them read; a text that is no file and not called like one stands for itself.

    Image and sound files stay paths, for `with_pictures` and `with_sounds`. DiagnosticError E0401 to E0403, E0408.
    """
    from latentc.datasets.image_files import SUFFIXES
    from latentc.files.named import CONDITION_FILES, read_condition

    found = dict(given or {})
    for name, value in found.items():
        if isinstance(value, str | Path):
            # Path.is_file raises for long texts.
            is_file = os.path.isfile(value) or Path(value).suffix in CONDITION_FILES  # noqa: PTH113
            medium = is_file and Path(value).suffix.lower() in {*SUFFIXES, SOUND}
            found[name] = Path(value) if medium else read_condition(value, name) if is_file else str(value)
    return found


def with_size(
    values: Mapping[str, Any], size: int | Sequence[int] | str | None, entry: ProgramEntry, manifest: Manifest
) -> dict[str, Any]:
    """Conditions with the grid of `size` points per axis that a program computes. DiagnosticError E0704."""
    if size is None:
        return dict(values)
    if entry.chunk is None or entry.chunk.grid is None:
        able = [p.name for p in manifest.programs if p.chunk is not None and p.chunk.grid is not None]
        message = f"samples of `{entry.name}` have one size"
        mend = f"use a program of any size: {', '.join(able)}" if able else "leave `size` out"
        raise DiagnosticError.of("E0704", message, help=mend)
    name = entry.chunk.conditions[0]
    if name in values:
        message = f"both `size` and `{name}` say which rows `{entry.name}` computes"
        raise DiagnosticError.of("E0704", message, help="give one of them")
    return {**values, name: size}


SOUND = ".wav"
"""The suffix of sound files."""


def with_sounds(values: Mapping[str, Any], conditions: Sequence[Condition], made: Output) -> dict[str, Any]:
    """Conditions with sound files as arrays f32[C, T] in the range of the samples `made`, cut or padded with silence.

    DiagnosticError E0403.
    """
    known = {one.name: one for one in conditions}
    return {
        name: _sound(value, name, known.get(name), made)
        if isinstance(value, Path) and value.suffix.lower() == SOUND
        else value
        for name, value in values.items()
    }


def _sound(path: Path, name: str, condition: Condition | None, made: Output) -> Any:
    from latentc.datasets.audio_folder import sound_from_file

    if condition is None or condition.axes != ("channel", "time") or made.rate is None:
        message = f"{path} is a sound, but condition `{name}` takes none"
        raise DiagnosticError.of("E0403", message, help="give an .npy or .npz file")
    channels, length = condition.shape
    low, high = made.range or (-1.0, 1.0)
    try:
        sound = sound_from_file(path, made.rate, length, channels)
    except (OSError, ValueError) as error:
        mend = f"give a PCM WAV file of {made.rate:g} samples per second"
        raise DiagnosticError.of("E0403", str(error), help=mend) from None
    return (sound + 1) * ((high - low) / 2) + low


def with_pictures(values: Mapping[str, Any], conditions: Sequence[Condition]) -> dict[str, Any]:
    """Conditions with the centres of image files as arrays f32[C, H, W] in [-1, 1], resized. DiagnosticError E0403."""
    shapes = {one.name: one.shape for one in conditions}
    return {
        name: _picture(value, name, shapes.get(name, ())) if isinstance(value, Path) else value
        for name, value in values.items()
    }


def _picture(path: Path, name: str, shape: tuple[int, ...]) -> Any:
    from latentc.datasets.image_files import picture_from_file

    if len(shape) != 3 or shape[0] not in (1, 3):
        message = f"{path} is an image, but condition `{name}` is none"
        raise DiagnosticError.of("E0403", message, help="give an .npy or .npz file")
    channels, rows, columns = shape
    import numpy as np
    from PIL import ImageOps

    try:
        picture = picture_from_file(path, path, "L" if channels == 1 else "RGB")
    except (OSError, ValueError) as error:
        raise DiagnosticError.of("E0403", str(error)) from None
    pixels = np.asarray(ImageOps.fit(picture, (columns, rows)), np.float32) / 127.5 - 1
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def check_files(output: Path | str | None, raw: Path | str | None) -> None:
    """DiagnosticError E0412 if pictures and raw samples are to be the same file."""
    if output is not None and raw is not None and Path(output).absolute() == Path(raw).absolute():
        message = f"images and arrays would be written to the same file {output}"
        raise DiagnosticError.of("E0412", message, help="give `--raw` another file, such as samples.npz")


def given_settings(settings: Mapping[str, Any] | None, **short: float | None) -> dict[str, Any]:
    """Settings by name, those with an argument of their own included. DiagnosticError E0608: one is given twice."""
    from latentc_runtime.request import all_settings

    with runtime_errors():
        return all_settings(settings, **short)


def _value(given: Any) -> Any:
    return given["value"] if isinstance(given, Mapping) else given


def _titles(conditions: Sequence[Condition], given: Given) -> list[str]:
    """How the class of each sample is shown: names of all its labels. DiagnosticError E0704."""
    from latentc_runtime.class_names import titles

    columns = []
    for condition in (c for c in conditions if c.form == "label"):
        labels = given.conditions[condition.name]
        numbers = labels if condition.encoding == "index" else labels.argmax(-1)
        columns.append(titles(condition.names, numbers.tolist()))
    if not columns:
        raise DiagnosticError.of("E0704", "samples of this program have no class to show", help="leave `labels` out")
    return [", ".join(row) for row in zip(*columns, strict=True)]


def given_classes(
    conditions: Sequence[Condition],
    classes: Sequence[int | str] | str | None,
    per_class: int,
    count: int | None,
    given: Mapping[str, Any],
    indexes: Mapping[str, Index | EncodingIndex],
) -> list[int] | None:
    """The class of each sample; None if nobody asks for one. DiagnosticError E0704."""
    from latentc.api.ranges import classes_from_text
    from latentc_runtime.class_names import class_from_name
    from latentc_runtime.request_checks import MOST_SAMPLES

    labels = [c for c in conditions if c.form == "label" and c.name not in given]
    if classes is None and not (len(labels) == 1 and labels[0].required):
        return None
    searched = [] if labels or given else [len(i.queries) for i in indexes.values() if i.queries is not None]
    if classes is not None and not searched and not any(c.form == "label" for c in conditions):
        raise DiagnosticError.of("E0704", "samples of this program have no class", help="leave `classes` out")
    known, names = (labels[0].classes or 1, labels[0].names) if labels else (searched[0] if searched else 1, ())
    text = "all" if classes is None else classes
    if isinstance(text, str):
        chosen = classes_from_text(text, known, names)
    else:
        chosen = [class_from_name(one, names) if isinstance(one, str) else one for one in text]
    if (number := len(chosen) * per_class if count is None else count) > MOST_SAMPLES:
        message = f"{number} samples in one request; at most {MOST_SAMPLES}"
        raise DiagnosticError.of("E0704", message, help="split them into several requests")
    if count is not None:
        return [chosen[i % len(chosen)] for i in range(count)] if chosen else []
    return [number for number in chosen for _ in range(per_class)]
