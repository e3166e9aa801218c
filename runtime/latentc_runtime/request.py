"""What a caller asks of a sampler, checked against the manifest, and the inputs that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime import noise as streams
from latentc_runtime.backends import Array
from latentc_runtime.distributions import draw
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import (
    NUMPY,
    ClassesSource,
    GuidanceSource,
    Input,
    Manifest,
    NormalSource,
    SamplerEntry,
    UniformSource,
)
from latentc_runtime.program import Variables, variables_read

# Values of a per-step input made at once: rows of small noise come several at a time, because a call costs more
# than they do, and rows of large noise one by one, because all steps of it would not fit in memory.
AHEAD = 1 << 18


@dataclass(frozen=True)
class Request:
    """A checked request: classes i64[B], seeds u64[B], guidance f32[B] or None, given noise by input name.

    `truncation`: bounds of the noise f64[B], where the sampler takes them.
    """

    entry: SamplerEntry
    classes: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    guidance: NDArray[np.float32] | None
    noise: dict[str, Array]
    truncation: NDArray[np.float64] | None = None
    _ahead: dict[str, tuple[int, Array]] = field(default_factory=dict, init=False)  # rows made: the first's index

    def part(self, start: int, stop: int) -> Request:
        """The request of samples start..stop alone."""
        rows = slice(start, stop)
        per_step = {entry.name for entry in self.entry.inputs if entry.per_step is not None}
        return replace(
            self,
            classes=self.classes[rows],
            seeds=self.seeds[rows],
            guidance=None if self.guidance is None else self.guidance[rows],
            truncation=None if self.truncation is None else self.truncation[rows],
            noise={name: a[:, rows] if name in per_step else a[rows] for name, a in self.noise.items()},
        )

    def variables(self) -> Variables:
        """Inputs by name as the program starts; those that only loops take row by row are left to `row`."""
        read = variables_read(self.entry.program)
        inputs = (i for i in self.entry.inputs if i.per_step is None or i.name in read)
        return {entry.name: self.array(entry) for entry in inputs}

    def array(self, entry: Input) -> Array:
        """The whole of one input, [B, ...] or [N, B, ...]."""
        if entry.name in self.noise:
            return self.noise[entry.name]
        return self._made(entry, 0 if entry.per_step is None else range(entry.per_step))

    def row(self, name: str, index: int) -> Array:
        """Row `index` of a per-step input, [B, ...]."""
        if name in self.noise:
            return np.ascontiguousarray(self.noise[name][index])
        first, rows = self._ahead.get(name, (0, None))
        if rows is None or not first <= index < first + len(rows):
            entry = next(i for i in self.entry.inputs if i.name == name)
            assert entry.per_step is not None, "the manifest was checked: loops take rows of per-step inputs"
            size = len(self.seeds) * math.prod(entry.sample_shape)
            first, last = index, min(entry.per_step, index + max(1, AHEAD // max(size, 1)))
            rows = self._made(entry, range(first, last))
            self._ahead[name] = first, rows
        row: Array = rows[index - first]
        return row

    def _made(self, entry: Input, index: int | Sequence[int]) -> Array:
        made: Array
        match entry.source:
            case ClassesSource():
                made = self.classes
            case GuidanceSource():
                assert self.guidance is not None, "the manifest was checked: this input comes with a default"
                made = self.guidance
            case NormalSource(stream=stream, truncated=True):
                assert self.truncation is not None, "the manifest was checked: a truncation comes with truncated noise"
                made = draw("truncated_normal", self.seeds, stream, entry.sample_shape, bound=self.truncation)
            case NormalSource(stream=stream):
                made = streams.normals(self.seeds, stream, entry.sample_shape, index)
            case UniformSource(stream=stream):
                made = streams.uniforms(self.seeds, stream, entry.sample_shape, index)
        return np.ascontiguousarray(made, NUMPY[entry.dtype])


def sampler_entry(manifest: Manifest, steps: int | None = None) -> SamplerEntry:
    """The sampler of that many steps, or the default one. BundleError E0609 where there is none."""
    for entry in manifest.samplers:
        if steps is None or entry.steps == steps:
            return entry
    held = ", ".join(str(count) for count in sorted(entry.steps for entry in manifest.samplers))
    raise BundleError(
        "E0609",
        f"this bundle samples in {held} steps, not in {steps}",
        f"ask for one of these, or compile another with `latentc compile SPEC --set sampler.steps={steps}`",
    )


def check_request(
    manifest: Manifest,
    entry: SamplerEntry,
    classes: ArrayLike,
    seeds: ArrayLike,
    guidance: ArrayLike | None,
    noise: Mapping[str, ArrayLike] | None,
    truncation: ArrayLike | None = None,
) -> Request:
    """A Request from what a caller gave. BundleError E0608 or E0610 says what does not fit."""
    checked = _checked_classes(classes, manifest)
    count = len(checked)
    return Request(
        entry,
        checked,
        _checked_seeds(seeds, count),
        _checked_guidance(guidance, count, entry),
        {name: _checked_noise(name, array, count, entry) for name, array in (noise or {}).items()},
        _checked_truncation(truncation, count, entry),
    )


def _checked_classes(classes: ArrayLike, manifest: Manifest) -> NDArray[np.int64]:
    array = _array(classes, "classes")
    known = max(manifest.classes, 1)
    mend = f"{manifest.name} has classes 0 to {known - 1}"
    if array.size == 0 and array.ndim == 1:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise BundleError("E0608", f"classes are a list of whole numbers, not {_kind(array)}", mend)
    outside = array[(array < 0) | (array >= known)]
    if outside.size:
        raise BundleError("E0608", f"there is no class {outside[0]}", mend)
    return array.astype(np.int64)


def _checked_seeds(seeds: ArrayLike, count: int) -> NDArray[np.uint64]:
    mend = "give one whole number from 0 to 2^64 - 1 a sample, or one number: sample i then has seed + i"
    values: Any = seeds
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        values = range(int(seeds), int(seeds) + count)
    elif isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence | np.ndarray) or np.ndim(seeds) != 1:
        raise BundleError("E0608", "seeds are one whole number or a list of them", mend)
    if len(values) != count:
        raise BundleError("E0608", f"there are {len(values)} seeds for {count} samples", mend)
    try:
        return streams.seed_words(values)
    except ValueError as error:
        raise BundleError("E0608", str(error), mend) from None


def _checked_guidance(guidance: ArrayLike | None, count: int, entry: SamplerEntry) -> NDArray[np.float32] | None:
    if entry.guidance is None:
        if guidance is not None:
            raise BundleError(
                "E0608",
                "this bundle samples without guidance, so it takes no scale",
                "leave `guidance` out, or compile with `sampler.guidance` in the spec",
            )
        return None
    scale = _array(entry.guidance.default if guidance is None else guidance, "guidance")
    mend = f"give one finite number for all, or one a sample; the default is {entry.guidance.default:g}"
    if scale.dtype.kind not in "iuf" or scale.ndim > 1:
        raise BundleError("E0608", f"guidance is a number or a list of them, not {_kind(scale)}", mend)
    if scale.ndim == 1 and len(scale) != count:
        raise BundleError("E0608", f"there are {len(scale)} guidance scales for {count} samples", mend)
    with np.errstate(over="ignore"):
        scale = scale.astype(np.float32)
    if not np.isfinite(scale).all():
        raise BundleError("E0608", "a guidance scale is not a finite float32 number", mend)
    return np.broadcast_to(scale, (count,))


def _checked_truncation(truncation: ArrayLike | None, count: int, entry: SamplerEntry) -> NDArray[np.float64] | None:
    if entry.truncation is None:
        if truncation is not None:
            mend = "leave `truncation` out: it is for generators"
            raise BundleError("E0608", "the noise of this bundle's sampler is not truncated", mend)
        return None
    default = math.inf if entry.truncation.default is None else entry.truncation.default
    bounds = _array(default if truncation is None else truncation, "truncation")
    mend = f"give one number above 0 for all, or one a sample; inf is no bound, and the default is {default:g}"
    if bounds.dtype.kind not in "iuf" or bounds.ndim > 1:
        raise BundleError("E0608", f"truncation is a number or a list of them, not {_kind(bounds)}", mend)
    if bounds.ndim == 1 and len(bounds) != count:
        raise BundleError("E0608", f"there are {len(bounds)} truncations for {count} samples", mend)
    bounds = bounds.astype(np.float64)
    if not (bounds > 0).all():
        raise BundleError("E0608", "a truncation is above 0", mend)
    return np.broadcast_to(bounds, (count,))


def _checked_noise(name: str, given: ArrayLike, count: int, entry: SamplerEntry) -> Array:
    inputs = {i.name: i for i in entry.inputs if isinstance(i.source, NormalSource | UniformSource)}
    shapes = ", ".join(f"{i.name} {_shape(i, count)}" for i in inputs.values()) or "none"
    mend = f"this sampler takes, for {count} samples: {shapes}"
    if name not in inputs:
        raise BundleError("E0610", f"there is no noise input `{name}`", mend)
    array, wanted = _array(given, name), inputs[name]
    if array.dtype.kind != "f":
        raise BundleError("E0610", f"noise `{name}` has type {array.dtype}, not a floating-point one", mend)
    if list(array.shape) != _shape(wanted, count):
        raise BundleError("E0610", f"noise `{name}` has shape {list(array.shape)}", mend)
    with np.errstate(over="ignore"):
        array = array.astype(NUMPY[wanted.dtype])
    if not np.isfinite(array).all():
        raise BundleError("E0610", f"noise `{name}` holds values that are not finite numbers", mend)
    if isinstance(wanted.source, UniformSource) and array.size and not 0 <= array.min() <= array.max() <= 1:
        raise BundleError("E0610", f"noise `{name}` is uniform: its values lie in [0, 1]", mend)
    return array


def _shape(entry: Input, count: int) -> list[int]:
    return [count if d == "B" else int(d) for d in entry.shape]


def _array(value: ArrayLike, name: str) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise BundleError("E0608", f"`{name}` is not an array of numbers", "give a number, list or array") from None


def _kind(array: Array) -> str:
    return f"{array.dtype} of shape {list(array.shape)}"
