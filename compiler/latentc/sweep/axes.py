"""The settings that a sweep varies: lists (`--set train.optimizer.lr=1e-4,3e-4`) and ranges (`…=1e-4..1e-2:log`)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from latentc.diagnostics import DiagnosticError

AFTER_TRAINING = ("sampler", "programs", "optimize", "target")
"""Sections that a finished training can still change."""

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"\s*({_NUMBER})\.\.({_NUMBER})(:log)?\s*")
_WHOLE = re.compile(r"[+-]?\d+")
_PAIRS = {"[": "]", "{": "}"}


@dataclass(frozen=True)
class Axis:
    """A setting and what it takes: `values`, in YAML, or a range from `low` to `high`, of whole numbers if `whole`."""

    path: str
    values: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def name(self) -> str:
        """The last word of the path, which tells settings apart in most sweeps."""
        return self.path.rpartition(".")[2]

    @property
    def trains(self) -> bool:
        """Whether training depends on it."""
        return self.path.partition(".")[0] not in AFTER_TRAINING

    def __str__(self) -> str:
        if self.values:
            return f"{self.path}={','.join(self.values)}"
        return f"{self.path}={self.low:g}..{self.high:g}{':log' if self.log else ''}"


def axes_from_text(texts: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """The settings of one value, as texts, and the axes. DiagnosticError E0717 if there is no axis, or one is wrong."""
    fixed, axes = [], []
    for text in texts:
        path, _, value = text.partition("=")
        values = _split(value)
        if (found := _RANGE.fullmatch(value)) is not None:
            axes.append(_ranged(path.strip(), text, *found.groups()))
        elif len(values) > 1:
            if "" in values:
                raise _wrong(f"`{text}` has an empty value", "write `--set a.b=1,2,3`")
            axes.append(Axis(path.strip(), tuple(dict.fromkeys(values))))
        else:
            fixed.append(text)
    if not axes:
        mend = "give a setting several values, `--set train.optimizer.lr=1e-4,3e-4`, or a range, `1e-4..1e-2:log`"
        raise _wrong("a sweep needs a setting that varies", mend)
    paths = [axis.path for axis in axes]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise _wrong(f"`{twice[0]}` varies twice", "give all its values to one `--set`")
    return fixed, axes


def is_grid(axes: Sequence[Axis]) -> bool:
    """Whether every axis is a list, so that all combinations can be tried."""
    return all(axis.values for axis in axes)


def grid(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Every combination of lists. Settings of training vary first, so that few trials wait for another's training."""
    slow_first = sorted(axes, key=lambda axis: axis.trains)
    for values in product(*(axis.values for axis in slow_first)):
        chosen = dict(zip((axis.path for axis in slow_first), values, strict=True))
        yield {axis.path: chosen[axis.path] for axis in axes}


def _ranged(path: str, text: str, low: str, high: str, log: str | None) -> Axis:
    whole = bool(_WHOLE.fullmatch(low) and _WHOLE.fullmatch(high))
    axis = Axis(path, (), float(low), float(high), log is not None, whole)
    if not (math.isfinite(axis.high - axis.low) and axis.low < axis.high):
        raise _wrong(f"`{text}`: a range goes from the smaller number to the larger", "write `1e-4..1e-2`")
    if axis.log and axis.low <= 0:
        raise _wrong(f"`{text}`: a range in logarithms starts above 0", "leave out `:log`, or start above 0")
    return axis


def _split(text: str) -> list[str]:
    """The values of a list: commas inside brackets, braces and quotes separate none."""
    parts, closing, quote = [""], list[str](), ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _PAIRS:
            closing.append(_PAIRS[character])
        elif closing and character == closing[-1]:
            closing.pop()
        elif character == "," and not closing:
            parts.append("")
            continue
        parts[-1] += character
    return [part.strip() for part in parts]


def _wrong(message: str, mend: str) -> DiagnosticError:
    return DiagnosticError.of("E0717", message, help=mend)
