"""Conditions that are arrays or tokens: their values and masks, checked and padded.

Symbols: L largest length of a condition with a mask.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from latentc_runtime.request_checks import MASK, VALUE, Read, check_size, described, in_one_request, numbers
from latentc_runtime.sources import NUMPY, Array, Condition, RequestError


def read_array(condition: Condition, given: Any, most: int) -> Read:
    """The checked values of a condition, of at most `most` samples. Raises RequestError."""
    mask = None
    if isinstance(given, Mapping):
        if condition.retrieved and VALUE not in given:
            message = f"`{condition.name}` is a query, but there is no index to search"
            raise RequestError(message, f"write one with `latentc index`; {described(condition)}")
        if set(given) - {VALUE, MASK} or VALUE not in given:
            raise RequestError(f"condition `{condition.name}` holds {', '.join(given)}", "give `value` and `mask`")
        given, mask = given[VALUE], given.get(MASK)
    if mask is not None and not condition.mask:
        raise RequestError(f"condition `{condition.name}` takes no mask", described(condition))
    check_size(condition, given, 1 + len(condition.shape), most * math.prod(condition.shape))
    check_size(condition, mask, 2, most * math.prod(condition.shape[:1]))
    tokens = _tokens(condition, given)
    padded = tokens is given and mask is None and condition.mask and condition.form == "tokens"
    parts = _parts(condition, tokens)
    single = isinstance(parts, np.ndarray)
    if not single:
        in_one_request(len(parts), most)
    values = np.full((1 if single else len(parts), *condition.shape), condition.pad, NUMPY[condition.dtype])
    masks = np.zeros((len(values), *condition.shape[:1]), np.bool_)
    for row, part in enumerate([parts] if single else parts):
        checked = _checked(condition, part)
        filled = (row, slice(len(checked))) if checked.ndim else (row,)  # a number has no length
        values[filled] = checked
        masks[(row, slice(_words(condition, checked))) if padded else filled] = True
    if mask is not None:
        masks = _given_mask(condition, mask, masks, single)
    return values, masks, single


def parts_of(condition: Condition, given: Any) -> Array | list[Array]:
    """One array for all samples, or a list with one array per sample. Raises RequestError."""
    return _parts(condition, _tokens(condition, given))


def _words(condition: Condition, tokens: Array) -> int:
    """How many of a sample's tokens count: those before its padding, at least one.

    It does not depend on the other samples of the request. If `pad` also ends texts, the first of them counts. A token
    that stands for characters counts, with a warning, because the request may mean either.
    """
    real = tokens != condition.pad
    found = len(real) - int(np.argmax(real[::-1])) if real.any() else 0
    found = max(1, found + (condition.pad == condition.end))
    if found < len(tokens) and condition.medium == "text" and _is_word(condition):
        what = (
            f"condition `{condition.name}` ends in the token {condition.pad}, which pads texts but is also a character"
        )
        warnings.warn(f"{what}: it counts; give a mask if it is padding", stacklevel=2)
        return len(tokens)
    return min(found, len(tokens))


def _is_word(condition: Condition) -> bool:
    from latentc_runtime.texts import is_word  # which only text needs

    return is_word(condition.pad, condition.text)


def _tokens(condition: Condition, given: Any) -> Any:
    """Texts as tokens, or as the number that one spells for a condition of one number; anything else as it is."""
    if isinstance(given, np.ndarray) and given.dtype.kind == "U":
        given = given.tolist()
    several = isinstance(given, Sequence) and not isinstance(given, str | bytes)
    texts = list(given) if several else [given]
    if not texts or not all(isinstance(one, str) for one in texts):
        return given
    if condition.form == "array" and condition.shape in ((), (1,)) and not several:
        with suppress(ValueError):
            return np.full(condition.shape, float(given)) if condition.shape else float(given)
    if condition.medium != "text":
        said = f"condition `{condition.name}` takes numbers, not the text {texts[0]!r:.60}"
        raise RequestError(said, described(condition))
    from latentc_runtime.texts import sample_from_text, tokens_from_text

    convert, (length,) = tokens_from_text if condition.mask else sample_from_text, condition.shape
    try:
        tokens = [np.array(convert(one, condition.text, length), np.int64) for one in texts]
    except ValueError as error:
        raise RequestError(f"condition `{condition.name}`: {error}", described(condition)) from None
    if empty := [one for one, made in zip(texts, tokens, strict=True) if not made.size]:
        raise RequestError(f"condition `{condition.name}`: {empty[0]!r} has no tokens", described(condition))
    return tokens if several else tokens[0]


def _parts(condition: Condition, given: Any) -> Array | list[Array]:
    """One array for all samples, or a list with one array per sample, possibly of different lengths."""
    rank = len(condition.shape)
    try:
        array = np.asarray(given)
    except ValueError:  # of different lengths
        return [numbers(condition.name, one) for one in given]
    if array.dtype.kind == "O" and isinstance(given, Sequence):
        return [numbers(condition.name, one) for one in given]
    if array.ndim == rank:
        return array
    if array.ndim == rank + 1:
        return list(array)
    raise RequestError(f"condition `{condition.name}` has shape {list(array.shape)}", described(condition))


def _checked(condition: Condition, part: Array) -> Array:
    """One sample's value: its shape (with a mask, up to the longest length), type and range."""
    wanted, shape = condition.shape, part.shape
    shorter = condition.mask and len(shape) == len(wanted) and shape[1:] == wanted[1:] and 1 <= shape[0] <= wanted[0]
    if shape != wanted and not shorter:
        raise RequestError(f"condition `{condition.name}` has shape {list(shape)}", described(condition))
    kinds = "iu" if condition.form == "tokens" else "iufb"
    if part.dtype.kind not in kinds:
        raise RequestError(f"condition `{condition.name}` has type {part.dtype}", described(condition))
    if condition.form == "tokens":
        outside = part[(part < 0) | (part >= (condition.vocabulary or 1))]
        if outside.size:
            raise RequestError(f"condition `{condition.name}`: no token {outside[0]}", described(condition))
    if condition.dtype == "f32" and part.dtype.kind == "u" and part.ndim > 1 and part.size and part.max() > 1:
        message = f"condition `{condition.name}` holds {part.dtype} up to {part.max()}: pixels that are not scaled"
        mend = "give floats in the range that the model was trained with, such as x / 127.5 - 1 for [-1, 1]"
        raise RequestError(message, f"{mend}; {described(condition)}")
    with np.errstate(over="ignore"):
        part = part.astype(NUMPY[condition.dtype])
    if part.dtype.kind == "f" and not np.isfinite(part).all():
        message = f"condition `{condition.name}` holds values that are not finite numbers"
        raise RequestError(message, described(condition))
    return part


def _given_mask(condition: Condition, mask: Any, real: Array, single: bool) -> Array:
    """The caller's mask, padded like the values."""
    rows = np.atleast_2d(numbers(condition.name, mask)).astype(np.bool_)
    if len(rows) != len(real) or rows.shape[1] > real.shape[1]:
        shown = [real.shape[1]] if single else [*real.shape]
        raise RequestError(f"the mask of `{condition.name}` has shape {[*np.shape(mask)]}", f"give one of {shown}")
    return real & np.pad(rows, ((0, 0), (0, real.shape[1] - rows.shape[1])))
