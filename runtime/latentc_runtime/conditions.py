"""Checks a request's conditions, settings and seeds, and expands them to one row per sample.

Symbols: B batch (requested samples), L largest length of a condition with a mask.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from latentc_runtime.class_names import class_from_name, classes_from_text, shown
from latentc_runtime.noise import seed_words
from latentc_runtime.request_checks import (
    MOST_SAMPLES,
    VALUE,
    Read,
    check_size,
    described,
    in_one_request,
    listed,
    numbers,
)
from latentc_runtime.sources import NUMPY, Array, Condition, Given, RequestError, Retriever, Setting, one_hot


def checked_given(
    conditions: Sequence[Condition],
    settings: Sequence[Setting],
    *,
    classes: ArrayLike | Sequence[int | str] | None = None,
    given: Mapping[str, Any] | None = None,
    asked: Mapping[str, ArrayLike] | None = None,
    seeds: ArrayLike = 0,
    count: int | None = None,
    most: int = MOST_SAMPLES,
    indexes: Mapping[str, Retriever] | None = None,
) -> Given:
    """A checked request to a program with these conditions and settings; every array has one row per sample.

    `classes`: short for the only condition of form label; numbers, names, a text that lists both, or with `count` one
    number for all samples. `given`: values by condition, one for all samples or one per sample; {"value": …, "mask": …}
    to give a mask. `asked`: settings by name.
    `count`: the number of samples, by default that of the conditions given per sample, otherwise that of the seeds.
    `most`: the largest number of samples; a larger one is refused before memory is allocated for it. `indexes`: of
    conditions that are neighbours; they find those of a query, and of drawn entries if a request gives nothing. Raises
    RequestError.
    """
    found = indexes or {}
    values = _with_classes(conditions, dict(given or {}), classes, count, [*found])
    known = {c.name: c for c in conditions}
    for name in values:
        if name not in known:
            raise RequestError(f"no condition `{name}`", listed("conditions", map(described, conditions)))
    searched = [c for c in conditions if c.name in found and c.name in values]
    values |= {c.name: found[c.name].given(c, values[c.name]) for c in searched}
    missing = [c for c in conditions if c.required and c.name not in values and c.name not in found]
    if missing:
        raise RequestError(f"the condition `{missing[0].name}` is missing", described(missing[0]))
    read = {c.name: _read(c, values[c.name], most) for c in conditions if c.name in values}
    number = _number([len(value) for value, _, single in read.values() if not single], seeds, count, most)
    rows: dict[str, Array] = {}
    masks: dict[str, Array] = {}
    words = _seeds(seeds, number)
    for condition in conditions:
        if condition.name in found and condition.name not in values:
            rows[condition.name] = found[condition.name].drawn(condition, words)
            continue
        value, mask, _ = read.get(condition.name) or _default(condition)
        rows[condition.name] = _repeated(condition, value, number)
        if condition.mask:
            masks[condition.name] = _repeated(condition, mask, number)
    return Given(words, rows, masks, _settings(settings, dict(asked or {}), number))


def per_sample(condition: Condition, value: Any) -> bool:
    """True if a value is one per sample, False if it is one for all samples."""
    if isinstance(value, Mapping):
        value = value.get(VALUE)
    if condition.form == "label":
        soft = condition.encoding == "one_hot" and np.asarray(value).dtype.kind == "f"
        return not isinstance(value, str) and np.ndim(value) > soft
    from latentc_runtime.condition_arrays import parts_of

    return isinstance(parts_of(condition, value), list)


def request_name(condition: Condition, conditions: Sequence[Condition]) -> str:
    """The name under which Triton takes a condition: `classes` for the only label."""
    labels = [c for c in conditions if c.form == "label"]
    return "classes" if labels == [condition] else condition.name


# ---- conditions


def _with_classes(
    conditions: Sequence[Condition], given: dict[str, Any], classes: Any, count: int | None, indexed: Sequence[str]
) -> dict[str, Any]:
    """`given` with `classes` under the name of their condition: the label, else the one whose index knows classes."""
    if classes is None:
        return given
    labels = [c.name for c in conditions if c.form == "label"]
    if not labels and len(indexed) == 1 and indexed[0] not in given:
        return {**given, indexed[0]: {"class": classes}}
    if not labels:
        takes = "; ".join(map(described, conditions)) or "`count` must say how many samples to make"
        raise RequestError("samples of this program have no class", f"leave it out; {takes}")
    if len(labels) > 1:
        mend = f'name it: `conditions={{"{labels[0]}": …}}`'
        raise RequestError(f"`classes` could be any of {', '.join(labels)}", mend)
    if labels[0] in given:
        raise RequestError(f"`classes` and the condition `{labels[0]}` are the same", "give one of them")
    if count is None and not isinstance(classes, str) and np.ndim(numbers("classes", classes)) == 0:
        mend = f"give one class per sample, [{classes!r}], or `count` as well"
        raise RequestError(f"`classes` must be a list of integers, not {classes!r}", mend)
    return {**given, labels[0]: classes}


def _read(condition: Condition, given: Any, most: int) -> Read:
    """The checked values of a condition, of at most `most` samples."""
    if condition.form == "label":
        soft = condition.encoding == "one_hot"
        check_size(condition, given, 1 + soft, most * (condition.classes or 1 if soft else 1))
        return _labels(condition, numbers(condition.name, _numbered(condition, given, most)), most)
    from latentc_runtime.condition_arrays import read_array  # which programs of classes alone do without

    return read_array(condition, given, most)


def _numbered(condition: Condition, given: Any, most: int) -> Any:
    """Labels with class numbers in place of names; a text lists classes as `--class` does."""
    if isinstance(given, str):
        return classes_from_text(given, condition.classes or 1, condition.names, most)
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        given = np.atleast_1d(given).tolist()
    if isinstance(given, Sequence) and any(isinstance(one, str) for one in given):
        in_one_request(len(given), most)
        return [_number_of(condition, one) if isinstance(one, str) else one for one in given]
    return given


def _number_of(condition: Condition, name: str) -> int:
    """The class that a text names; digits are a number unless a class is called so."""
    if name.isascii() and name.isdigit() and len(name) < 10 and name not in condition.names:
        return int(name)
    if not condition.names:
        mend = f"give integers, since this model has no class names: {described(condition)}"
        raise RequestError(f"`{shown(name)}` is not a class", mend)
    return class_from_name(name, condition.names)


def _labels(condition: Condition, array: Array, most: int) -> Read:
    count, name = condition.classes or 1, condition.name
    mend = described(condition)
    soft = array.dtype.kind == "f" and array.ndim in (1, 2) and array.size > 0
    if soft and condition.encoding == "one_hot":
        rows = np.atleast_2d(array).astype(np.float32)
        in_one_request(len(rows), most)
        if rows.shape[1] != count:
            raise RequestError(f"`{name}` gives probabilities of {rows.shape[1]} classes, not {count}", mend)
        if not (rows >= 0).all() or (rows.sum(axis=1) > 1 + 1e-3).any():  # false for nan
            raise RequestError(f"`{name}` has a row that is not a probability distribution over classes", mend)
        return rows, np.ones((len(rows), 0), np.bool_), array.ndim == 1
    empty = array.ndim == 1 and array.size == 0
    if array.ndim > 1 or (array.dtype.kind not in "iu" and not empty):
        what = f"{array.dtype} of shape {list(array.shape)}"
        raise RequestError(f"`{name}` must be a list of integers, one per sample, not {what}", mend)
    labels = np.atleast_1d(array).astype(np.int64)
    outside = labels[(labels < 0) | (labels >= count)]
    if outside.size:
        raise RequestError(f"no class {outside[0]}", mend)
    in_one_request(len(labels), most)
    made = labels if condition.encoding == "index" else one_hot(labels, count)
    return made, np.ones((len(labels), 0), np.bool_), array.ndim == 0


def _default(condition: Condition) -> Read:
    value = np.broadcast_to(np.asarray(condition.default, NUMPY[condition.dtype]), condition.shape)
    if condition.form == "label" and condition.encoding == "one_hot" and np.ndim(condition.default) == 0:
        value = one_hot(np.asarray(condition.default), condition.classes or 1)
    return value[None], np.ones((1, *condition.shape[:1]), np.bool_), True


# ---- numbers of samples


def _number(lengths: Sequence[int], seeds: ArrayLike, count: int | None, most: int) -> int:
    """The number of requested samples."""
    if isinstance(seeds, Sequence):
        in_one_request(len(seeds), most)
    if count is not None:
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 0:
            raise RequestError(f"`count` must be a number of samples, not {count!r}", "give 0 or more")
        return in_one_request(int(count), most)
    several = [n for n in lengths if n != 1]
    if several:
        return several[0]
    if np.ndim(_objects(seeds)) == 1:
        return len(_objects(seeds))
    return 1


def _objects(values: Any) -> Any:
    """Seeds as an array of Python integers: numpy would turn a mix with integers from 2^63 on into floats."""
    return np.asarray(values, object) if isinstance(values, Sequence | np.ndarray | range) else values


def _repeated(condition: Condition, rows: Array, count: int) -> Array:
    if len(rows) == count:
        return rows
    if len(rows) == 1:
        return np.repeat(rows, count, axis=0)
    message = f"{len(rows)} values of `{condition.name}` for {count} samples"
    raise RequestError(message, "give one for all samples, or one per sample")


def _seeds(seeds: ArrayLike, count: int) -> NDArray[np.uint64]:
    mend = "give one integer from 0 to 2^64 - 1 per sample, or a single one: sample i then has seed + i"
    values: Any = seeds
    if isinstance(seeds, int | np.integer) and not isinstance(seeds, bool):
        values = range(int(seeds), int(seeds) + count)
    elif (
        isinstance(seeds, str | bytes) or not isinstance(seeds, Sequence | np.ndarray) or np.ndim(_objects(seeds)) != 1
    ):
        raise RequestError("seeds must be an integer or a list of integers", mend)
    if len(values) != count:
        raise RequestError(f"{len(values)} seeds for {count} samples", mend)
    try:
        return seed_words(values)
    except ValueError as error:
        raise RequestError(str(error), mend) from None


# ---- settings


def _settings(settings: Sequence[Setting], asked: dict[str, ArrayLike], count: int) -> dict[str, Array]:
    known = {s.name for s in settings}
    for name in asked:
        if name not in known:
            mend = listed("settings", (f"`{s.name}`, {s.range}" for s in settings))
            raise RequestError(f"no setting `{name}`", mend)
    found = {s.name: _setting(s, asked.get(s.name), count) for s in settings}
    for setting in settings:
        if setting.above in found:
            _check_above(setting, found[setting.name], found[setting.above])
    return found


def _setting(setting: Setting, asked: ArrayLike | None, count: int) -> Array:
    name = setting.name
    mend = f"give one number for all samples, or one per sample: {setting.range}"
    values = numbers(name, setting.value if asked is None else asked)
    if values.dtype.kind not in "iuf" or values.ndim > 1:
        what = f"{values.dtype} of shape {list(values.shape)}"
        raise RequestError(f"`{name}` must be a number or a list of numbers, not {what}", mend)
    if values.ndim == 1 and len(values) != count:
        raise RequestError(f"{len(values)} values of `{name}` for {count} samples", mend)
    values = values.astype(np.float64)
    largest = np.inf if setting.unlimited else float(np.finfo(np.float32).max)
    if not (np.abs(values) <= largest).all():
        raise RequestError(f"`{name}` is not a finite float32 number", mend)
    fits = setting.allows(values)
    if not fits.all():
        raise RequestError(f"`{name}` {float(values[~fits].flat[0]):g} is out of range", mend)
    return np.broadcast_to(values, (count,))


def _check_above(setting: Setting, values: Array, least: Array) -> None:
    """RequestError for a value [B] of a setting that is not greater than that of the setting it is above."""
    fits = values > least
    if not fits.all():
        value, limit = float(values[~fits][0]), float(least[~fits][0])
        message = f"`{setting.name}` {value:g} is not greater than `{setting.above}` {limit:g}"
        raise RequestError(message, f"`{setting.name}` takes a number {setting.range}")


__all__ = ["RequestError", "checked_given", "described", "per_sample", "request_name"]
