"""What passes make of a model's weights: one row an op, with its type, its numpy meaning and what can be undone of it.

A pass that merges or rescales weights gives its function a param with a `Recipe`. Nothing is computed then: the oracle
evaluates it, the exporter streams it, a tensor at a time, and `undo` finds the model's weights in a finished bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from latentc.ir.core import Init, Param, Recipe
from latentc.ir.ops.row import OpError
from latentc.ir.types import TensorType

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]

MADE = Init("made")
"""The initialiser of a param that has a recipe: nothing but the recipe gives its value."""


Undo = Callable[[Array, Sequence[Array], Attrs], Array]


@dataclass(frozen=True)
class RecipeRow:
    """`type` of the result (OpError for operands that do not fit), `evaluate` it, and `undo` it.

    `undo[i](result, others, attrs)` is operand i, from the result and the other operands in their order; operands
    without an entry are lost. What rounds is undone but for the rounding.
    """

    type: Callable[[Sequence[TensorType], Attrs], TensorType]
    evaluate: Callable[[Sequence[Array], Attrs], Array]
    undo: Mapping[int, Undo] = field(default_factory=dict)


def _size(type: TensorType, axis: int) -> int:
    return int(type.shape[axis])  # type: ignore[arg-type]


def _concat_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    axis = attrs["axis"]
    rest = [(t.dtype, *t.shape[:axis], *t.shape[axis + 1 :]) for t in types]
    if any(r != rest[0] for r in rest):
        raise OpError(f"cannot concatenate {', '.join(map(str, types))} along axis {axis}")
    shape = list(types[0].shape)
    shape[axis] = sum(_size(t, axis) for t in types)
    return types[0].with_shape(shape)


def _mul_type(types: Sequence[TensorType], attrs: Attrs) -> TensorType:
    weight, factor = types
    fits = zip(reversed(factor.shape), reversed(weight.shape), strict=False)
    if factor.rank > weight.rank or any(f not in (1, w) for f, w in fits):
        raise OpError(f"{factor} does not scale {weight}")
    return weight


RECIPES: dict[str, RecipeRow] = {
    # Parts one after the other along `axis`. Slices undo it: the exporter's affair, for they need not be read.
    "concat": RecipeRow(_concat_type, lambda xs, a: np.concatenate(xs, a["axis"])),
    # A weight times factors that broadcast to it, none of them zero.
    "mul": RecipeRow(_mul_type, lambda xs, a: xs[0] * xs[1], {0: lambda y, xs, a: y / xs[0]}),
    # Every element times `mul`, which is not zero, plus `add`.
    "affine": RecipeRow(
        lambda types, a: types[0],
        lambda xs, a: xs[0] * a["mul"] + a["add"],
        {0: lambda y, xs, a: (y - a["add"]) / a["mul"]},
    ),
}


def recipe_type(made: Recipe | Param) -> TensorType:
    """The type of what a recipe makes. OpError where there is no such op, or its operands do not fit."""
    if isinstance(made, Param):
        return made.type
    row = RECIPES.get(made.op)
    if row is None:
        raise OpError(f"no recipe is called {made.op!r}")
    return row.type([recipe_type(arg) for arg in made.args], made.attrs)


def evaluate(made: Recipe | Param, weight: Callable[[Param], Array]) -> Array:
    """The value of a recipe; `weight` gives those of the model's weights."""
    if isinstance(made, Param):
        return weight(made) if made.recipe is None else evaluate(made.recipe, weight)
    return np.asarray(RECIPES[made.op].evaluate([evaluate(arg, weight) for arg in made.args], made.attrs))
