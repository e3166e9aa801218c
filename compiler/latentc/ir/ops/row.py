"""A row of the op table.

The row holds everything about an op: its type rule, its meaning in numpy, its derivative, its cost and, for composite
ops, its decomposition into simpler ops. Backends have their own tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from latentc.ir.types import Dim, Sym, TensorType

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]
Infer = Callable[[Sequence[TensorType], Attrs], Sequence[TensorType]]
Evaluate = Callable[[Sequence[Array], Attrs], Sequence[Array]]
# (builder, inputs, outputs, gradients of the outputs (None if zero), attrs) -> gradients of the inputs
Vjp = Callable[..., Sequence[Any]]
Flops = Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], int]
# (builder, inputs, attrs) -> outputs
Decompose = Callable[..., Sequence[Any]]
# (inputs, attrs) -> outputs and the new values of the buffers among the inputs: {number of the input: new value}
Train = Callable[[Sequence[Array], Attrs], tuple[Sequence[Array], Mapping[int, Array]]]


class OpError(TypeError):
    """Operands or attributes that an op does not accept; the message says what it expects."""


def _one_flop_per_result(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return sum(t.count() for t in outs)


@dataclass(frozen=True)
class Op:
    """A row. `infer` raises OpError for operands that it does not accept.

    `signature` is `name(operands; attributes)`: `pad(x; axis, before, after, value)`. `x?` is optional, `*more` is any
    number of further operands. `flops` is per sample, a multiply-add counts as two: a function, or a number of
    operations per element of the first operand. An op that is not `differentiable` has derivative zero wherever it has
    one. `train` is what the op does in training, if that differs; all other fields mean inference.
    """

    signature: str
    doc: str
    infer: Infer
    evaluate: Evaluate | None = None
    vjp: Vjp | None = None
    flops: Flops | int = _one_flop_per_result
    decompose: Decompose | None = None
    source: str = ""
    train: Train | None = None
    train_only: bool = False
    sugar: bool = False  # a name for its decomposition: emitted code shows it, passes never see it
    engine_only: bool = False  # only passes create it, for engines; no emitted code has it
    differentiable: bool = True

    @cached_property
    def name(self) -> str:
        return self.signature.partition("(")[0]

    @cached_property
    def operands(self) -> list[str]:
        """`x`, `bias?`, `*more`"""
        return re.split(r"[(;)]", self.signature)[1].replace(",", "").split()

    @cached_property
    def attrs(self) -> dict[str, bool]:
        """{attribute: True if it is optional}"""
        words = self.signature.rstrip(")").partition("; ")[2].split(", ")
        return {word.rstrip("?"): word.endswith("?") for word in words if word}

    @cached_property
    def arity(self) -> tuple[int, int | None]:
        """Least and largest number of operands; None for any number."""
        least = sum(not word.startswith("*") and not word.endswith("?") for word in self.operands)
        return least, None if any(word.startswith("*") for word in self.operands) else len(self.operands)

    def cost(self, ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
        """Operations per sample."""
        if not isinstance(self.flops, int):
            return self.flops(ins, outs, attrs)
        return self.flops * ins[0].count() if self.flops else 0

    def types(self, ins: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
        """Output types for these operands and attributes. Raises only OpError, if they do not fit."""
        least, most = self.arity
        if len(ins) < least or (most is not None and len(ins) > most):
            raise OpError(f"takes {_counted(least, most)}, got {len(ins)}")
        for name, optional in self.attrs.items():
            need(optional or name in attrs, "attribute {} is missing", name)
        for name in attrs:
            need(name in self.attrs, f"has no attribute {name}; knows {', '.join(self.attrs) or 'none'}")
        try:
            return list(self.infer(ins, attrs))
        except OpError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # What a type rule does not foresee, such as a string for an axis, is reported as a fault of the node too.
            raise OpError(f"{type(error).__name__} in its type rule: {error}") from error


def _counted(least: int, most: int | None) -> str:
    words = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
    return f"{words} operand{'' if words == '1' else 's'}"


def need(condition: bool, message: str, *values: object) -> None:
    """Raises OpError unless the condition holds; `values` are formatted into the message only then."""
    if not condition:
        raise OpError(message.format(*values) if values else message)


def axis_of(axis: int, rank: int) -> int:
    need(-rank <= axis < rank, "axis {} is outside rank {}", axis, rank)
    return axis % rank


def per_axis(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """An attribute as one integer for each of `axes` spatial axes; a single integer stands for all of them."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    need(all(isinstance(v, int) for v in values), "{} is {!r}; wants whole numbers", name, value)
    need(len(values) == axes, "{} is {}; wants one number, or one for each of {} spatial axes", name, value, axes)
    return values


def broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """Numpy's broadcasting of static and run-time sizes; of two equal sizes the named one is kept."""
    longer, shorter = (tuple(a), tuple(b)) if len(a) >= len(b) else (tuple(b), tuple(a))
    shorter = (1,) * (len(longer) - len(shorter)) + shorter
    result: list[Dim] = []
    for x, y in zip(longer, shorter, strict=True):
        if x == y:
            result.append(x if hasattr(x, "expr") or isinstance(x, Sym) else y)
        elif x == 1 or y == 1:
            result.append(y if x == 1 else x)
        else:
            raise OpError(f"shapes {list(a)} and {list(b)} do not broadcast: {x} against {y}")
    return tuple(result)


def shaped(*operands: str, gives: str = "", checks: Sequence[Callable[[Attrs], None]] = ()) -> Infer:
    """A type rule from shapes: `shaped("x [*n, in]", "weight [out, in]", "bias [out]", gives="[*n, out]")`.

    A name is one size and `*n` any number of axes, the same wherever they occur. Operands are floats of one dtype,
    unless another is given (`i64 index [B]`). The result has the first operand's dtype, in the shape `gives` or that of
    the first operand. `checks` raise OpError for attributes that do not fit.
    """
    wanted = []
    for text in operands:
        words, _, axes = text.removesuffix("]").partition(" [")
        dtype, _, name = words.rpartition(" ")
        wanted.append((dtype, name, axes.split(", ") if axes else []))

    def infer(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
        for check in checks:
            check(attrs)
        need(ins[0].is_float, "takes floats, got {}", ins[0])
        sizes: dict[str, tuple[Dim, ...]] = {}
        for type, (dtype, name, axes) in zip(ins, wanted, strict=False):  # the last may be left out
            known = dict(sizes)
            if type.dtype != (dtype or ins[0].dtype) or not _fits(type.shape, axes, sizes):
                shown = [str(size) for axis in axes for size in known.get(axis, (axis,))]
                raise OpError(f"{name} is {type}; wants {dtype or ins[0].dtype}[{', '.join(shown)}]")
        return [ins[0].with_shape(d for axis in gives[1:-1].split(", ") for d in sizes[axis])] if gives else [ins[0]]

    return infer


def _fits(shape: tuple[Dim, ...], axes: Sequence[str], sizes: dict[str, tuple[Dim, ...]]) -> bool:
    """True if a shape has these axes, whose sizes are added to those known."""
    several, at = len(shape) - len(axes) + 1, 0
    for axis in axes:
        count = several if axis.startswith("*") else 1
        found = shape[at : at + count]
        at += count
        if count < 0 or found != sizes.setdefault(axis, found) or (axis.isdigit() and found != (int(axis),)):
            return False
    return at == len(shape)


def check_momentum(attrs: Attrs) -> None:
    need(0 <= attrs["momentum"] <= 1, "momentum lies between 0 and 1")


def check_eps(attrs: Attrs) -> None:
    need(attrs["eps"] > 0, "eps is positive")


def numbers(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """The type rule of an op whose first operand, of numbers, has the type of the result."""
    need(ins[0].dtype != "bool", "takes numbers, got {}", ins[0])
    return [ins[0]]


def floats(ins: Sequence[TensorType], attrs: Attrs) -> Sequence[TensorType]:
    """The type rule of an op whose first operand, of floats, has the type of the result."""
    need(ins[0].is_float, "takes floats, got {}", ins[0])
    return [ins[0]]


def sum_to(b: Any, g: Any, type: TensorType) -> Any:
    """Sums a gradient over the axes along which an operand of this type was broadcast."""
    extra = g.type.rank - type.rank
    broadcast = [i + extra for i, d in enumerate(type.shape) if d == 1 and g.shape[i + extra] != 1]
    axes = (*range(extra), *broadcast)
    summed = b.sum(g, axes=axes, keepdims=False) if axes else g
    return summed if summed.shape == type.shape else b.reshape(summed, shape=type.shape)


def along(b: Any, x: Any, index: Any, g: Any, axis: int) -> Any:
    """Gradient of x in take_along(x, index, axis): adds each element of g at the place it was picked from."""
    axis = axis_of(axis, x.type.rank)
    size, picked = x.shape[axis], index.shape[axis]
    need(not isinstance(size, Sym) and not isinstance(picked, Sym), "picks along a run-time size have no derivative")
    wide = (*index.shape[:axis], picked, 1, *index.shape[axis + 1 :])
    places = np.arange(int(size)).reshape(-1, *[1] * (x.type.rank - axis - 1))
    hit = b.equal(b.reshape(index, shape=wide), b.constant(places, index.type.dtype))
    return b.sum(b.where(hit, b.reshape(g, shape=wide), 0.0), axes=(axis,), keepdims=False)
