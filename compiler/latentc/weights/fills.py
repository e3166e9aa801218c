"""Tensors that a file must hold and no network here has, because they follow from its sizes: masks, constants.

An `ignore` rule with `fill` writes one. One of its keys is a row of FORMULAS; `shape` and `dtype` say what is written.
Computed buffers that a network here has under the same name need none: `checkpoint.write_weights` writes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from latentc.diagnostics import nearest
from latentc.weights.expr import Array, dtype_from_name
from latentc.weights.templates import AnySizes, Sizes, number, whole, whole_list

_MOST_ELEMENTS = 1 << 28
Numbers = np.ndarray[Any, Any]


def _value(value: Any, sizes: Sizes) -> Numbers:
    return np.asarray(number(value, sizes), np.float64)


def _arange(count: Any, sizes: Sizes) -> Numbers:
    return np.arange(whole(count, sizes))


def _causal(count: Any, sizes: Sizes) -> Numbers:
    return np.tri(whole(count, sizes))


FORMULAS: Mapping[str, Callable[[Any, Sizes], Numbers]] = {"value": _value, "arange": _arange, "causal": _causal}
"""{the main option: what makes the numbers of it}."""


def parse_fill(raw: Any, sizes: Sizes) -> Callable[[], Array]:
    """What makes the tensor of a rule's `fill`. Raises ValueError."""
    if not isinstance(raw, Mapping) or not raw:
        raise ValueError(f"`fill` is a mapping such as {{value: 0, shape: [1]}}, not {raw!r}")
    name = next((str(key) for key in raw if key in FORMULAS), None)
    if name is None:
        near = nearest(str(next(iter(raw))), FORMULAS)
        mend = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"`fill` needs one of {', '.join(FORMULAS)}{mend}")
    for key in raw:
        if key not in (name, "shape", "dtype"):
            raise ValueError(f"`fill` by {name} takes no {key!r}")
    shape = whole_list(raw["shape"], sizes) if "shape" in raw else None
    if not isinstance(sizes, AnySizes):  # a rule is checked before the network is known
        _check_count(name, raw[name], shape, sizes)
    kind = dtype_from_name(raw.get("dtype", "f32"))

    def made() -> Array:
        numbers = FORMULAS[name](raw[name], sizes).astype(kind)
        if shape is None:
            return Array(numbers)
        return Array(numbers.reshape(shape) if numbers.ndim else np.full(shape, numbers))

    return made


def _check_count(name: str, option: Any, shape: list[int] | None, sizes: Sizes) -> None:
    """Raises ValueError if a formula makes too many numbers, or others than the shape holds."""
    count = math.prod(shape or ())
    if name != "value":
        made = whole(option, sizes) ** (2 if name == "causal" else 1)
        if shape is not None and made != count:
            raise ValueError(f"`fill` by {name} makes {made} numbers, but the shape {shape} holds {count}")
        count = made
    if count > _MOST_ELEMENTS:
        raise ValueError(f"`fill` of {count} numbers is more than {_MOST_ELEMENTS}")
