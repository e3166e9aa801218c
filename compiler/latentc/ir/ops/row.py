"""What one op is: a row of the table.

Everything about an op stands in its row: how its type follows from its operands', what it means in numpy, its
derivative, its cost, and (for composites) how it is written in simpler ops. Backends keep their own tables beside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.ir.types import Dim, Sym, TensorType

Array = np.ndarray[Any, Any]
Attrs = Mapping[str, Any]
Infer = Callable[[Sequence[TensorType], Attrs], Sequence[TensorType]]
Evaluate = Callable[[Sequence[Array], Attrs], Sequence[Array]]
# (builder, inputs, outputs, gradients of the outputs (None where not needed), attrs) -> gradients of the inputs
Vjp = Callable[..., Sequence[Any]]
Flops = Callable[[Sequence[TensorType], Sequence[TensorType], Attrs], int]
# (builder, inputs, attrs) -> outputs
Decompose = Callable[..., Sequence[Any]]
# (inputs, attrs) -> outputs, and what the buffers among the inputs become: {number of the input: its new value}
Train = Callable[[Sequence[Array], Attrs], tuple[Sequence[Array], Mapping[int, Array]]]


class OpError(TypeError):
    """Operands or attributes an op does not take; the message says what it wanted."""


def _one_flop_an_element(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    return sum(t.count() for t in outs)


def free(ins: Sequence[TensorType], outs: Sequence[TensorType], attrs: Attrs) -> int:
    """Cost of an op that only moves or renames data."""
    return 0


@dataclass(frozen=True)
class Op:
    """A row. `infer` raises OpError on operands it does not take; `flops` counts a multiply-add as two, per sample.

    `operands` names what it takes, in order, and `attrs` its attributes; `name?` may be left out, `*more` is any number
    of further operands. An op that is not `differentiable` has derivative zero wherever it has one.
    `train` is what an op does in training that does something else there; all other fields mean inference.
    """

    name: str
    doc: str
    infer: Infer
    evaluate: Evaluate | None = None
    vjp: Vjp | None = None
    flops: Flops = _one_flop_an_element
    decompose: Decompose | None = None
    source: str = ""
    train: Train | None = None
    train_only: bool = False
    engine_only: bool = False  # made by passes, for engines: no emitted code has it
    differentiable: bool = True
    operands: str = "x"
    attrs: str = ""

    @property
    def arity(self) -> tuple[int, int | None]:
        """Least and most operands; None if any number."""
        words = self.operands.split()
        least = sum(not word.startswith("*") and not word.endswith("?") for word in words)
        return least, None if any(word.startswith("*") for word in words) else len(words)

    def types(self, ins: Sequence[TensorType], attrs: Attrs) -> list[TensorType]:
        """Output types for these operands and attributes. Raises OpError, and nothing else, where they do not fit."""
        least, most = self.arity
        if len(ins) < least or (most is not None and len(ins) > most):
            raise OpError(f"takes {_counted(least, most)}, got {len(ins)}")
        known = {word.rstrip("?"): word.endswith("?") for word in self.attrs.split()}
        for name, optional in known.items():
            need(optional or name in attrs, f"attribute {name} is missing")
        for name in attrs:
            need(name in known, f"has no attribute {name}; knows {', '.join(known) or 'none'}")
        try:
            return list(self.infer(ins, attrs))
        except OpError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            # What a rule did not foresee, such as a word where an axis belongs, is still a fault of the node.
            raise OpError(f"{type(error).__name__} in its type rule: {error}") from error


def _counted(least: int, most: int | None) -> str:
    words = f"{least}" if most == least else f"{least} or more" if most is None else f"{least} to {most}"
    return f"{words} operand{'' if words == '1' else 's'}"


def need(condition: bool, message: str) -> None:
    if not condition:
        raise OpError(message)


def axis_of(axis: int, rank: int) -> int:
    need(-rank <= axis < rank, f"axis {axis} is outside rank {rank}")
    return axis % rank


def per_axis(name: str, value: Any, axes: int) -> tuple[int, ...]:
    """An attribute as one whole number for each of `axes` spatial axes; a single number stands for all of them."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * axes
    need(all(isinstance(v, int) for v in values), f"{name} is {value!r}; wants whole numbers")
    need(len(values) == axes, f"{name} is {value}; wants one number, or one for each of {axes} spatial axes")
    return values


def broadcast(a: Sequence[Dim], b: Sequence[Dim]) -> tuple[Dim, ...]:
    """Numpy's broadcasting over int and run-time sizes; the named one of two equal sizes is kept."""
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
