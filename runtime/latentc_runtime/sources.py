"""Requests, and the inputs of programs: a request's conditions and settings, and random numbers from its seeds.

Symbols: B batch, N rows of a per-step input, flattened over nested loops.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.distributions import DISTRIBUTIONS, draw
from latentc_runtime.noise import integers, normals

Array = NDArray[Any]
Dtype = Literal["f32", "f16", "f64", "i32", "i64", "bool"]
NUMPY: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "bool": np.bool_,
}


class RequestError(ValueError):
    """A request that does not fit the program: the message and the remedy."""

    def __init__(self, message: str, help: str) -> None:
        super().__init__(message, help)
        self.message, self.help = message, help


@dataclass(frozen=True)
class ConditionSource:
    """The value of a condition, [B, *shape], or its mask, [B, length]."""

    kind: Literal["condition"] = field(default="condition", kw_only=True)
    condition: str
    part: Literal["value", "mask"] = "value"


@dataclass(frozen=True)
class SettingSource:
    """A number that a request may give, [B]: the guidance scale, truncation, temperature."""

    kind: Literal["setting"] = field(default="setting", kw_only=True)
    setting: str


@dataclass(frozen=True)
class RandomSource:
    """Random numbers of a stream, [B, ...]; with `rows` N of them [N, B, ...], row i drawn at index i.

    `distribution` is a row of `distributions.DISTRIBUTIONS`. Its parameters are numbers (`parameters`), or settings of
    the request by name (`settings`: {parameter: setting}).
    """

    kind: Literal["random"] = field(default="random", kw_only=True)
    distribution: str
    stream: str
    rows: int | None = None
    parameters: dict[str, float | tuple[float, ...]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    # region checked

    def __post_init__(self) -> None:
        wanted = DISTRIBUTIONS[self.distribution].parameters if self.distribution in DISTRIBUTIONS else ()
        if self.distribution not in DISTRIBUTIONS or {*self.parameters, *self.settings} != set(wanted):
            given = ", ".join((*self.parameters, *self.settings)) or "nothing"
            raise ValueError(f"distribution `{self.distribution}` takes {', '.join(wanted) or 'nothing'}, not {given}")

    # endregion


Source = ConditionSource | SettingSource | RandomSource


@dataclass(frozen=True)
class Input:
    """An input of a program; "B" in `shape` is the batch: ["B", ...], or [N, "B", ...] per step."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]
    source: Source

    @property
    def rows(self) -> int | None:
        """N for a per-step input of N rows, None for other inputs."""
        return self.source.rows if isinstance(self.source, RandomSource) else None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample (of one row)."""
        return tuple(int(d) for d in self.shape[1 if self.rows is None else 2 :])


@dataclass(frozen=True)
class Condition:
    """A condition that a request gives for each sample.

    form `label`: one of `classes`, as an index i64[B]. `names` of the classes in order; a name may list synonyms
    separated by commas. Empty if unknown.
    """

    name: str
    form: Literal["label", "array", "tokens"]
    # region conditions
    # `tokens`: integers below `vocabulary`, i64[B, L]. `array`: numbers [B, *shape].
    shape: tuple[int, ...] = ()
    dtype: Dtype = "i64"
    axes: tuple[str, ...] = ()  # names of the axes of `shape`
    # endregion
    classes: int | None = None
    # region conditions
    vocabulary: int | None = None
    encoding: Literal["index", "one_hot"] = "index"  # one_hot: labels as f32[B, classes], possibly probabilities
    # Samples may be shorter than `shape[0]`; they are padded (tokens with `pad`, arrays with 0), and the program takes
    # a mask [B, L] of the real entries. Tokens `pad` at the end of a sample are padding as well, unless the request
    # gives a mask or they stand for characters.
    mask: bool = False
    pad: int = 0
    default: Any = None  # a number, or nested lists of `shape`; None if the condition is required
    # endregion
    names: tuple[str, ...] = ()
    # region conditions
    # The k nearest neighbours [k, D] of a query in an index, which a request may give instead. `queries`: conditions of
    # the bundle, each of which program `query_NAME` encodes as such a query.
    retrieved: bool = False
    queries: tuple[str, ...] = ()
    # Tokens of `text` may be given as text, by the fields below, as `texts` says.
    medium: Literal["array", "text"] = "array"
    tokenizer: str | None = None  # a file
    alphabet: str | None = None
    start: int | None = None
    end: int | None = None
    cleaning: Literal["captions", "lower"] | None = None

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def text(self) -> dict[str, Any]:
        """How its tokens encode text, as `texts` takes it."""
        settings = {"tokenizer": self.tokenizer, "alphabet": self.alphabet, "start": self.start, "end": self.end}
        return {"classes": self.vocabulary, "cleaning": self.cleaning, "medium": self.medium, **settings}

    # endregion


# region conditions
class Retriever(Protocol):
    """The index that finds neighbours for a condition; see `retrieval.Index`."""

    def given(self, condition: Condition, value: Any) -> Any: ...

    def drawn(self, condition: Condition, seeds: NDArray[np.uint64]) -> Array: ...


# endregion
@dataclass(frozen=True)
class Setting:
    """A number that a request may give, for all samples or per sample; otherwise it is `default`.

    It is between `low` and `high` (null: no bound), inclusive if `closed`. If `unlimited`, infinity is allowed, and a
    null default means infinity. `above`: another setting, which it must be greater than in every sample of a program
    that takes both.
    """

    name: str
    default: float | None
    low: float | None = None
    high: float | None = None
    closed: bool = True
    unlimited: bool = False
    above: str | None = None

    @property
    def value(self) -> float:
        """The default as a number."""
        return math.inf if self.default is None else self.default

    def allows(self, values: ArrayLike) -> NDArray[np.bool_]:
        """True for each value within the bounds."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        found = np.asarray(values, np.float64)
        fits = (low <= found) & (found <= high) & (self.unlimited | (np.abs(found) <= np.finfo(np.float32).max))
        return np.asarray(fits if self.closed else fits & (found != low) & ((found != high) | np.isinf(high)))

    @property
    def range(self) -> str:
        """The allowed values and the default, in words."""
        least = None if self.low is None else f"{'from' if self.closed else 'above'} {self.low:g}"
        most = None if self.high is None else f"{'to' if self.closed else 'below'} {self.high:g}"
        endless = "inf for none" if self.unlimited else None
        greater = None if self.above is None else f"greater than `{self.above}`"
        words = (" ".join(filter(None, (least, most))), greater, endless, f"default {self.value:g}")
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Given:
    """A checked request, one row per sample: seeds u64[B], values and masks by condition, settings f64[B] by name."""

    seeds: NDArray[np.uint64]
    conditions: Mapping[str, Array] = field(default_factory=dict)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    settings: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.seeds)

    def part(self, start: int, stop: int) -> Given:
        """Samples start to stop - 1 only."""
        rows = slice(start, stop)
        return Given(self.seeds[rows], *({n: a[rows] for n, a in group.items()} for group in self._groups()))

    def arguments(self) -> dict[str, Any]:
        """The request as keyword arguments of `Pipeline.sample`."""
        return {"seeds": self.seeds, **_arguments(self.conditions, self.masks), "settings": dict(self.settings)}

    def _groups(self) -> tuple[Mapping[str, Array], ...]:
        return self.conditions, self.masks, self.settings


def joined(parts: Sequence[Given]) -> Given:
    """Several requests to one program as one request."""
    groups = zip(*(part._groups() for part in parts), strict=True)
    columns = ({name: np.concatenate([group[name] for group in same]) for name in same[0]} for same in groups)
    return Given(np.concatenate([part.seeds for part in parts]), *columns)


def input_array(entry: Input, given: Given, index: int | Sequence[int] | None = None) -> Array:
    """One input of a program, [B, ...]; for a per-step input its rows `index` (default: all), [N, B, ...].

    The compiler declares inputs, the manifest stores them, and the runtime, verification, calibration and Triton all
    call this function. Emitted projects have it as code: `emit.inputs`.
    """
    made: Array
    match entry.source:
        case ConditionSource(condition, "value"):
            made = given.conditions[condition]
        case ConditionSource(condition):
            made = given.masks[condition]
        case SettingSource(setting):
            made = given.settings[setting]
        case RandomSource(distribution, stream, rows, parameters, settings):
            if index is None:
                index = 0 if rows is None else range(rows)
            all_parameters = {**parameters, **{name: given.settings[setting] for name, setting in settings.items()}}
            made = draw(distribution, given.seeds, stream, entry.sample_shape, index, **all_parameters)
    return np.ascontiguousarray(made, NUMPY[entry.dtype])


def needed(inputs: Iterable[Input]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the conditions and of the settings that a program's inputs come from, each once."""
    conditions: dict[str, None] = {}
    settings: dict[str, None] = {}
    for source in (entry.source for entry in inputs):
        match source:
            case ConditionSource(condition):
                conditions[condition] = None
            case SettingSource(setting):
                settings[setting] = None
            case RandomSource():
                settings |= dict.fromkeys(source.settings.values())
    return tuple(conditions), tuple(settings)


def arguments_from_inputs(inputs: Iterable[Input], arrays: Mapping[str, Array]) -> dict[str, Any]:
    """A program's inputs by name as keywords of `Pipeline.sample`: the inverse of `input_array`."""
    values: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    settings: dict[str, Array] = {}
    random: dict[str, Array] = {}
    for entry in inputs:
        match entry.source:
            case ConditionSource(condition, part):
                (values if part == "value" else masks)[condition] = arrays[entry.name]
            case SettingSource(setting):
                settings[setting] = arrays[entry.name]
            case RandomSource():
                random[entry.name] = arrays[entry.name]
    return {**_arguments(values, masks), "settings": settings, "noise": random}


def _arguments(values: Mapping[str, Array], masks: Mapping[str, Array]) -> dict[str, Any]:
    pairs = {name: {"value": value, "mask": masks[name]} if name in masks else value for name, value in values.items()}
    return {"conditions": pairs}


def default_given(
    count: int,
    seed: int,
    conditions: Sequence[Condition],
    settings: Sequence[Setting],
    classes: Sequence[int] | None = None,
    # region conditions
    indexes: Mapping[str, Retriever] | None = None,
    # endregion
) -> Given:
    """A request without user input: sample i has seed `seed` + i, and settings have their defaults.

    Labels are `classes`, by default cycling through all classes. Neighbours are those of entries drawn from the index.
    Tokens and arrays without a default are random. For calibration, verification, timing and warm-up.
    """
    seeds = np.arange(count, dtype=np.uint64) + np.uint64(seed)
    values, masks = {c.name: _default_value(c, seeds, classes) for c in conditions}, dict[str, Array]()
    # region conditions
    found = indexes or {}
    values |= {c.name: found[c.name].drawn(c, seeds) for c in conditions if c.name in found}
    masks = {c.name: np.ones((count, c.shape[0]), np.bool_) for c in conditions if c.mask}
    # endregion
    return Given(seeds, values, masks, {s.name: np.full(count, s.value) for s in settings})


def _default_value(condition: Condition, seeds: NDArray[np.uint64], classes: Sequence[int] | None) -> Array:
    # region conditions
    if condition.form != "label":
        return _default_array(condition, seeds)
    # endregion
    labels = np.arange(len(seeds)) % (condition.classes or 1) if classes is None else np.asarray(classes, np.int64)
    # region conditions
    if condition.encoding == "one_hot":
        return one_hot(labels, condition.classes or 1)
    # endregion
    return labels


def _default_array(condition: Condition, seeds: NDArray[np.uint64]) -> Array:
    shape, stream = condition.shape, f"condition {condition.name}"
    if condition.default is not None:
        return np.broadcast_to(np.asarray(condition.default, NUMPY[condition.dtype]), (len(seeds), *shape))
    if condition.form == "tokens":
        return integers(seeds, stream, shape, 0, condition.vocabulary or 1)
    return normals(seeds, stream, shape).astype(NUMPY[condition.dtype])


def one_hot(classes: Array, count: int) -> Array:
    """Rows f32[B, count] with 1 at each class."""
    rows = np.zeros((*np.shape(classes), count), np.float32)
    np.put_along_axis(rows, np.asarray(classes)[..., None], 1.0, -1)
    return rows


__all__ = [
    "NUMPY",
    "Condition",
    "ConditionSource",
    "Dtype",
    "Given",
    "Input",
    "RandomSource",
    "RequestError",
    "Retriever",
    "Setting",
    "SettingSource",
    "Source",
    "arguments_from_inputs",
    "default_given",
    "input_array",
    "joined",
    "needed",
    "one_hot",
]
