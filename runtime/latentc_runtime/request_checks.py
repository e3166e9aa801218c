"""Shared by checks of requests: the words that describe a condition, and limits of sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from latentc_runtime.class_names import titles
from latentc_runtime.sources import Array, Condition, RequestError

VALUE, MASK = "value", "mask"  # the parts of a condition with a mask

MOST_SAMPLES = 1 << 24  # of one request
FEW = 1 << 16  # values of an array that is read whatever it is

Read = tuple[Array, Array, bool]  # values [n, *shape], masks [n, L], True for one value for all samples


def described(condition: Condition) -> str:
    """The values that a condition takes, and how to give them."""
    name, shape, example = condition.name, ", ".join(map(str, condition.shape)), "FILE.npy"
    axes = f" ({', '.join(condition.axes)})" if condition.axes else ""
    match condition.form:
        case "label":
            soft = ", or a row of class probabilities" if condition.encoding == "one_hot" else ""
            named = ", ".join(titles(condition.names, range(min(3, len(condition.names)))))
            named = f", or its name ({named}{', …' if len(condition.names) > 3 else ''})" if named else ""
            what = f"a class from 0 to {(condition.classes or 1) - 1}{named}{soft}"
        case "tokens":
            length = f"up to {shape}" if condition.mask else shape
            text = "a text, or " if condition.medium == "text" else ""
            what = f"{text}{length} tokens from 0 to {(condition.vocabulary or 1) - 1}"
            example = "TEXT" if condition.medium == "text" else example
        case "array" if condition.retrieved:
            encoded = "".join(f", or `{one}`" for one in condition.queries)
            what = f"the neighbours f32[{shape}], or with an index a query f32[{condition.shape[-1]}]{encoded},"
        case "array" if not condition.shape:
            return f'`{name}` takes a number per sample: `conditions={{"{name}": 0.5}}`, `--given {name}=0.5`'
        case "array":
            longest = ", where the first axis may be shorter" if condition.mask else ""
            what = f"{condition.dtype}[{shape}]{axes}{longest}"
    return f'`{name}` takes {what} per sample: `conditions={{"{name}": …}}`, `--given {name}={example}`'


def listed(what: str, descriptions: Iterable[str]) -> str:
    text = "; ".join(descriptions)
    return text or f"this program takes no {what}: leave it out"


def check_size(condition: Condition, given: Any, rank: int, most: int) -> None:
    """RequestError for an array with more values than a request takes, before it is read from its file.

    An array of more than `rank` axes is refused as well, a small one by a check that says more.
    """
    shape = getattr(given, "shape", None)
    if isinstance(shape, tuple) and math.prod(shape) > (most if len(shape) <= rank else FEW):
        raise RequestError(f"condition `{condition.name}` has shape {list(shape)}", described(condition))


def in_one_request(count: int, most: int = MOST_SAMPLES) -> int:
    """`count`, unless it is more than allowed."""
    if count > most:
        raise RequestError(f"{count} samples in one request; at most {most}", "split them into several requests")
    return count


def numbers(name: str, given: Any) -> Array:
    if isinstance(given, Sequence):
        in_one_request(len(given))
    try:
        return np.asarray(given)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"`{name}` is not an array of numbers", "give a number, a list or an array") from None
