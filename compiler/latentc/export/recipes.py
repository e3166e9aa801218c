"""Recipes of params as lazy weight expressions, and their inverse: the model's weights from those of a bundle."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from latentc.ir.core import Param, Recipe
from latentc.ir.recipes import RECIPES, Attrs, recipe_type
from latentc.ir.text import recipe_text
from latentc.ir.types import TensorType
from latentc.weights import Computed, Expr, cast, concatenate, dtype_from_name, reshape, slice_axis


def expr_from_recipe(made: Recipe | Param, weight: Callable[[Param], Expr]) -> Expr:
    """The lazy expression of a recipe's value; `weight` gives the model's weights."""
    if isinstance(made, Param):
        return weight(made) if made.recipe is None else expr_from_recipe(made.recipe, weight)
    parts = [expr_from_recipe(arg, weight) for arg in made.args]
    if made.op == "concat":  # adjacent slices of a file form one range of it
        return concatenate(parts, made.attrs["axis"])
    if made.op == "pick":  # a range of the file as well
        index = made.attrs["index"]
        return reshape(slice_axis(parts[0], 0, index, index + 1), parts[0].shape[1:])
    if made.op == "slice":  # so is a slice of such a range
        return slice_axis(parts[0], made.attrs["axis"], made.attrs["start"], made.attrs["stop"])
    return _computed(made, parts)


def folded_values(params: Mapping[str, Param], weight: Callable[[str, Param], Expr]) -> dict[str, Expr]:
    """The vectors and scalars that `recovered` needs to undo the recipes of `params` and that no engine file holds.

    Keys: the path of a weight of the model, or for a computed value the prefix of its function and its recipe's text.
    `weight(path, param)` gives the model's weights.
    """
    found: dict[str, Expr] = {}

    def visit(prefix: str, made: Recipe | Param, beside: bool) -> None:
        small = recipe_type(made).rank < 2
        if isinstance(made, Param) and made.recipe is not None:
            made = made.recipe
        if isinstance(made, Param):
            if beside and small:
                found[prefix + made.name] = weight(prefix + made.name, made)
            return
        if beside and small:
            found[prefix + recipe_text(made)] = expr_from_recipe(made, lambda own: weight(prefix + own.name, own))
        for i, arg in enumerate(made.args):
            visit(prefix, arg, beside or (RECIPES[made.op].folds and (i > 0 or not made.args[1:])))

    for path, param in params.items():
        if param.recipe is not None:
            visit(path.removesuffix(param.name), param.recipe, False)
    return found


def recovered(
    params: Mapping[str, Param], held: Mapping[str, Expr], beside: Mapping[str, Expr] | None = None
) -> dict[str, Expr]:
    """The model's weights by path, as far as they can be recovered.

    `held`: values of `params` by path; `beside`: the `folded_values`. A weight that was rounded stays rounded: a
    quantised one is returned dequantised.
    """
    found = {path: held[path] for path, param in params.items() if param.recipe is None and path in held}
    made: dict[str, Expr] = dict(beside or {})  # value of a recipe, by the prefix of its function and its text
    found = {**made, **found}
    for path, param in params.items():
        if param.recipe is not None and path in held:
            made[path.removesuffix(param.name) + recipe_text(param.recipe)] = held[path]
    pieces: dict[str, dict[tuple[int, int], Expr]] = {}  # of a weight that was cut, by (start, stop)
    axes: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for path, param in params.items():
        if param.recipe is not None and path in held:
            prefix = path.removesuffix(param.name)
            known = functools.partial(_known, prefix, found, made)
            for leaf, cut, expr in _undone(param.recipe, held[path], known):
                name = prefix + leaf.name
                if cut is None:
                    found.setdefault(name, expr)
                    continue
                axes[name], sizes[name] = cut["axis"], _shape(leaf.type)[cut["axis"]]
                # A computed piece has the weight's own dtype, but a piece that was only moved has the engine's.
                pieces.setdefault(name, {})[cut["start"], cut["stop"]] = cast(expr, leaf.type.dtype)
    for name, parts in pieces.items():
        bounds = sorted(parts)
        ends = [0, *(stop for _, stop in bounds)]
        if name not in found and ends[:-1] == [start for start, _ in bounds] and ends[-1] == sizes[name]:
            found[name] = concatenate([parts[bound] for bound in bounds], axes[name])
    return found


def _known(prefix: str, found: Mapping[str, Expr], made: Mapping[str, Expr], arg: Recipe | Param) -> Expr | None:
    if isinstance(arg, Param) and arg.recipe is None:
        return found.get(prefix + arg.name)
    recipe = _recipe(arg)
    value = made.get(prefix + recipe_text(recipe))
    if value is None and all(isinstance(own, Recipe) or own.recipe for own in recipe.args):
        parts = [_known(prefix, found, made, own) for own in recipe.args]  # computed from values that are held
        given = [part for part in parts if part is not None]
        return _computed(recipe, given) if given and len(given) == len(parts) else None
    return value


def _computed(recipe: Recipe, parts: Sequence[Expr]) -> Expr:
    """The value of a recipe from those of its operands."""
    type, row = recipe_type(recipe), RECIPES[recipe.op]
    return Computed(tuple(parts), lambda xs: row.evaluate(xs, recipe.attrs), dtype_from_name(type.dtype), _shape(type))


def _undone(
    recipe: Recipe, value: Expr, known: Callable[[Recipe | Param], Expr | None]
) -> Iterator[tuple[Param, Attrs | None, Expr]]:
    """(weight of the model, attributes of a slice if it is a part, value) of each weight found in a recipe's value."""
    if recipe.op == "slice":
        whole, cut = recipe.args[0], recipe.attrs
        if isinstance(whole, Param) and whole.recipe is None:
            yield whole, cut, value
        elif _recipe(whole).op == "concat" and _recipe(whole).attrs["axis"] == cut["axis"]:
            for arg, part in _pieces(_recipe(whole), value, cut["start"], cut["stop"]):
                yield from _undone_operand(arg, part, known)
        return
    if recipe.op == "pick":  # a slice without its axis
        if isinstance(recipe.args[0], Param) and recipe.args[0].recipe is None:
            cut = {"axis": 0, "start": recipe.attrs["index"], "stop": recipe.attrs["index"] + 1}
            yield recipe.args[0], cut, reshape(value, (1, *value.shape))
        return
    if recipe.op == "concat":
        axis = recipe.attrs["axis"]
        for arg, part in _pieces(recipe, value, 0, value.shape[axis]):
            yield from _undone_operand(arg, part, known)
        return
    for i, arg in enumerate(recipe.args):
        result = _operand(recipe, i, value, known)
        if result is not None:
            yield from _undone_operand(arg, result, known)


def _undone_operand(
    arg: Recipe | Param, value: Expr, known: Callable[[Recipe | Param], Expr | None]
) -> Iterator[tuple[Param, Attrs | None, Expr]]:
    if isinstance(arg, Param) and arg.recipe is None:
        yield arg, None, value
    else:
        yield from _undone(_recipe(arg), value, known)


def _pieces(concat: Recipe, value: Expr, first: int, stop: int) -> Iterator[tuple[Recipe | Param, Expr]]:
    """The operands of a concatenation that lie wholly in its part [first, stop), from the value of that part."""
    axis, at = concat.attrs["axis"], 0
    for arg in concat.args:
        end = at + _shape(recipe_type(arg))[axis]
        if first <= at and end <= stop:
            yield arg, slice_axis(value, axis, at - first, end - first)
        at = end


def _operand(recipe: Recipe, index: int, value: Expr, known: Callable[[Recipe | Param], Expr | None]) -> Expr | None:
    """Operand `index` of a recipe from its value; None if the op cannot be inverted for that operand."""
    undo = RECIPES[recipe.op].undo.get(index)
    others = [known(arg) for i, arg in enumerate(recipe.args) if i != index]
    given = [other for other in others if other is not None]
    if undo is None or len(given) < len(others):
        return None
    type = recipe_type(recipe.args[index])
    return Computed(
        (value, *given),
        lambda arrays: undo(arrays[0], arrays[1:], recipe.attrs),
        dtype_from_name(type.dtype),
        _shape(type),
    )


def _recipe(arg: Recipe | Param) -> Recipe:
    made = arg.recipe if isinstance(arg, Param) else arg
    assert made is not None
    return made


def _shape(type: TensorType) -> tuple[int, ...]:
    return tuple(int(d) for d in type.shape)  # type: ignore[arg-type]
