"""A request to a program, checked against the manifest, and the program inputs that follow from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from latentc_runtime.backends import Array
from latentc_runtime.chunks import check_chunks, from_chunks, given_in_chunks, with_rows
from latentc_runtime.conditions import RequestError, checked_given
from latentc_runtime.distributions import DISTRIBUTIONS
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Manifest, ProgramEntry, ProgramOutput
from latentc_runtime.program import Variables, variables_read
from latentc_runtime.request_checks import MOST_SAMPLES
from latentc_runtime.sources import NUMPY, Given, Input, RandomSource, Retriever, input_array, joined

# Largest number of values of a per-step input that are drawn at once: small rows several at a time, because each call
# has a fixed cost, large rows one by one, because all steps may not fit in memory.
AHEAD = 1 << 18


@dataclass(frozen=True)
class Request:
    """A checked request to a program; `noise` {input: array} replaces the noise from the seeds.

    `rows`: of a program of any number of rows, those of each sample; None: those of one chunk. `sides`: of the grid
    that they are.
    """

    entry: ProgramEntry
    given: Given
    noise: dict[str, Array] = field(default_factory=dict)
    rows: int | None = None
    sides: tuple[int, ...] | None = None
    _ahead: dict[str, tuple[int, Array]] = field(default_factory=dict, init=False)  # drawn rows and the first's index

    def __len__(self) -> int:
        return len(self.given)

    def part(self, start: int, stop: int) -> Request:
        """The request for samples start to stop - 1 only."""
        rows = slice(start, stop)
        per_step = {entry.name for entry in self.entry.inputs if entry.rows is not None}
        noise = {name: a[:, rows] if name in per_step else a[rows] for name, a in self.noise.items()}
        return replace(self, given=self.given.part(start, stop), noise=noise)

    @property
    def outputs(self) -> tuple[ProgramOutput, ...]:
        """The program's outputs, with the shape of a sample of this request."""
        if self.entry.chunk is None or self.rows is None:
            return self.entry.outputs
        return tuple(one.with_rows(self.entry.chunk, self.rows, self.sides) for one in self.entry.outputs)

    def in_chunks(self) -> Request:
        """As the engine runs it: of a program of any number of rows, a sample per chunk of them."""
        if self.entry.chunk is None or self.rows is None:
            return self
        given, times = given_in_chunks(self.entry.chunk, self.given, self.rows), self.entry.chunk.count(self.rows)
        per_step = {entry.name for entry in self.entry.inputs if entry.rows is not None}
        noise = {name: np.repeat(a, times, axis=1 if name in per_step else 0) for name, a in self.noise.items()}
        return replace(self, given=given, noise=noise, rows=None, sides=None)

    def from_chunks(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the request, of those of `in_chunks`."""
        if self.rows is None:
            return dict(outputs)
        return {name: from_chunks(array, len(self), self.rows, self.sides) for name, array in outputs.items()}

    def variables(self) -> Variables:
        """Inputs by name at the start of the program, without those that loops only read row by row (see `row`)."""
        read = variables_read(self.entry.program)
        inputs = (i for i in self.entry.inputs if i.rows is None or i.name in read)
        return {entry.name: self.array(entry) for entry in inputs}

    def array(self, entry: Input) -> Array:
        """The whole of one input, [B, ...] or [N, B, ...]."""
        return self.noise[entry.name] if entry.name in self.noise else input_array(entry, self.given)

    def row(self, name: str, index: int) -> Array:
        """Row `index` of a per-step input, [B, ...]."""
        if name in self.noise:
            return np.ascontiguousarray(self.noise[name][index])
        first, rows = self._ahead.get(name, (0, None))
        if rows is None or not first <= index < first + len(rows):
            entry = next(i for i in self.entry.inputs if i.name == name)
            assert entry.rows is not None, "the manifest was checked: loops take rows of per-step inputs"
            size = len(self) * math.prod(entry.sample_shape)
            first, last = index, min(entry.rows, index + max(1, AHEAD // max(size, 1)))
            rows = input_array(entry, self.given, range(first, last))
            self._ahead[name] = first, rows
        row: Array = rows[index - first]
        return row


def joined_requests(requests: Sequence[Request]) -> Request:
    """Requests to one program in one; all must give noise for the same inputs, and as many rows, if there are any."""
    entry = requests[0].entry
    noise = {}
    for name in requests[0].noise:
        axis = next(0 if one.rows is None else 1 for one in entry.inputs if one.name == name)
        noise[name] = np.concatenate([request.noise[name] for request in requests], axis)
    return replace(requests[0], given=joined([request.given for request in requests]), noise=noise)


def program_entry(manifest: Manifest, name: str | None = None, steps: int | None = None) -> ProgramEntry:
    """The program of that name (the default one's) and that many steps (its default). BundleError E0609."""
    name = manifest.programs[0].name if name is None else name
    held = [entry for entry in manifest.programs if entry.name == name]
    if not held:
        names = ", ".join(dict.fromkeys(entry.name for entry in manifest.programs))
        raise BundleError("E0609", f"this bundle has no program `{name}`", f"its programs are: {names}")
    for entry in held:
        if steps is None or entry.steps == steps:
            return entry
    counts = ", ".join(str(count) for count in sorted(entry.steps for entry in held))
    raise BundleError(
        "E0609",
        f"`{name}` of this bundle runs in {counts} steps, not in {steps}",
        f"use one of these, or compile another with `latentc compile SPEC --set sampler.steps={steps}`",
    )


def check_request(
    manifest: Manifest,
    entry: ProgramEntry,
    classes: ArrayLike | Sequence[int | str] | None = None,
    seeds: ArrayLike = 0,
    conditions: Mapping[str, Any] | None = None,
    settings: Mapping[str, ArrayLike] | None = None,
    noise: Mapping[str, ArrayLike] | None = None,
    count: int | None = None,
    most: int = MOST_SAMPLES,
    indexes: Mapping[str, Retriever] | None = None,
) -> Request:
    """The checked request of a caller, for `most` samples at most. Raises BundleError E0608, E0610.

    `indexes` find neighbours for conditions; see `Pipeline.indexes`.
    """
    for what, given_values in (("conditions", conditions), ("settings", settings), ("noise", noise)):
        if given_values is not None and not isinstance(given_values, Mapping):
            message = f"`{what}` must be values by name, not {type(given_values).__name__}"
            raise BundleError("E0608", message, f'give a mapping: {what}={{"NAME": …}}')
    if count is None and classes is None and not conditions and isinstance(seeds, int):
        count = _noise_count(entry, noise or {})
    wanted, rows, sides = manifest.conditions_of(entry), None, None
    try:
        if entry.chunk is not None:
            wanted, conditions, rows, sides = with_rows(entry.chunk, wanted, conditions, most)
        given = checked_given(
            wanted,
            manifest.settings_of(entry),
            classes=classes,
            given=conditions,
            asked=settings,
            seeds=seeds,
            count=count,
            most=most,
            indexes=indexes,
        )
        if entry.chunk is not None and rows is not None:
            check_chunks(entry.chunk, rows, len(given), most)
    except RequestError as error:
        raise BundleError("E0608", error.message, error.help) from None
    checked = {name: _checked_noise(name, a, len(given), entry) for name, a in (noise or {}).items()}
    return Request(entry, given, checked, rows, sides)


def all_settings(settings: Mapping[str, Any] | None, **short: Any) -> dict[str, Any]:
    """Settings by name, with those that a caller gives as arguments of their own (None: not given).

    Raises BundleError E0608 if `settings` is no mapping, or gives one of these, too.
    """
    if settings is not None and not isinstance(settings, Mapping):
        message = f"`settings` must be numbers by name, not {type(settings).__name__}"
        raise BundleError("E0608", message, 'give a mapping: settings={"NAME": 1.0}')
    found = dict(settings or {})
    for name, value in short.items():
        if value is not None and name in found:
            raise BundleError("E0608", f"the setting `{name}` is given twice", f"give `{name}` alone or in `settings`")
        if value is not None:
            found[name] = value
    return found


def _noise_count(entry: ProgramEntry, noise: Mapping[str, ArrayLike]) -> int | None:
    """The number of samples in the given noise; None without noise."""
    for one in entry.inputs:
        axis = 0 if one.rows is None else 1
        if one.name in noise and len(shape := _shape_of(noise[one.name], one.name)) > axis:
            return int(shape[axis])
    return None


def _checked_noise(name: str, given: ArrayLike, count: int, entry: ProgramEntry) -> Array:
    inputs = {i.name: i for i in entry.inputs if isinstance(i.source, RandomSource)}
    shapes = ", ".join(f"{i.name} {_shape(i, count)}" for i in inputs.values()) or "none"
    mend = f"this program takes, for {count} samples: {shapes}"
    if name not in inputs:
        raise BundleError("E0610", f"there is no noise input `{name}`", mend)
    wanted, source = inputs[name], inputs[name].source
    assert isinstance(source, RandomSource)
    row = DISTRIBUTIONS[source.distribution]
    whole = row.dtype == "i64"
    if list(shape := _shape_of(given, name)) != _shape(wanted, count):  # before it is read, if it is in a file
        raise BundleError("E0610", f"noise `{name}` has shape {list(shape)}", mend)
    array = _array(given, name)
    if array.dtype.kind not in ("iu" if whole else "f"):
        kind = "an integer" if whole else "a floating-point"
        raise BundleError("E0610", f"noise `{name}` has type {array.dtype}, not {kind} one", mend)
    with np.errstate(over="ignore"):
        array = array.astype(NUMPY[wanted.dtype])
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise BundleError("E0610", f"noise `{name}` holds values that are not finite numbers", mend)
    low, high = row.bounds(source.parameters)
    if array.size and not low <= array.min() <= array.max() <= high:
        message = (
            f"noise `{name}` has the distribution {source.distribution}: its values must lie in [{low:g}, {high:g}]"
        )
        raise BundleError("E0610", message, mend)
    return array


def _shape(entry: Input, count: int) -> list[int]:
    return [count if d == "B" else int(d) for d in entry.shape]


def _shape_of(value: ArrayLike, name: str) -> tuple[int, ...]:
    shape = getattr(value, "shape", None)
    return shape if isinstance(shape, tuple) else _array(value, name).shape


def _array(value: ArrayLike, name: str) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise BundleError("E0610", f"`{name}` is not an array of numbers", "give an array") from None
