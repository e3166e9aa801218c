"""What a case of an op is: operands and attributes drawn at random, and what PyTorch makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

from latentc.ir.types import Sym, TensorType

TORCH = {"f64": torch.float64, "f32": torch.float64, "i64": torch.int64, "bool": torch.bool}
# Quantised numbers are compared as the numbers they are.
TORCH |= {"i8": torch.int64, "u8": torch.int64, "i4": torch.int64}
TORCH |= {"f8e4m3": torch.float64, "f4e2m1": torch.float64, "f8e8m0": torch.float64}


@dataclass(frozen=True)
class Lead:
    """A first dimension: how the type writes it, and its size in this example."""

    dim: Any
    size: int

    def __mul__(self, other: int) -> Lead:
        return Lead(self.dim * other, self.size * other)


@dataclass(frozen=True)
class Operand:
    type: TensorType
    array: np.ndarray


@dataclass(frozen=True)
class Case:
    """Operands, attributes, and `torch(tensors) -> outputs` in float64."""

    operands: list[Operand]
    torch: Callable[..., Any]
    attrs: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Sizes and arrays of one example."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.rng = np.random.default_rng(self.int(0, 10**6))

    def int(self, low: int, high: int) -> int:
        return self.data.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.data.draw(st.booleans())

    def choose(self, values: Any) -> Any:
        return self.data.draw(st.sampled_from(list(values)))

    def lead(self) -> Lead:
        """A batch: of fixed size, of run-time size B, or 2*B."""
        size = self.int(1, 3)
        return self.choose([Lead(size, size), Lead(Sym("B"), size), Lead(Sym("B", 2), 2 * size)])

    def shape(self, low: int = 0, high: int = 4) -> list[Any]:
        rank = self.int(low, high)
        return [self.lead() if i == 0 and self.flag() else self.int(1, 3) for i in range(rank)]

    def operand(self, shape: Any, make: Callable[[tuple[int, ...]], np.ndarray], dtype: str = "f32") -> Operand:
        dims = tuple(d.dim if isinstance(d, Lead) else d for d in shape)
        sizes = tuple(d.size if isinstance(d, Lead) else d for d in shape)
        return Operand(TensorType(dtype, dims), np.asarray(make(sizes)))

    def floats(self, *shape: Any, low: float = -2, high: float = 2) -> Operand:
        return self.operand(shape, lambda s: self.rng.uniform(low, high, s))

    def ints(self, *shape: Any, high: int) -> Operand:
        return self.operand(shape, lambda s: self.rng.integers(0, high, s), "i64")

    def bools(self, *shape: Any) -> Operand:
        return self.operand(shape, lambda s: self.rng.random(s) < 0.5, "bool")

    def pair(self) -> tuple[list[Any], list[Any]]:
        """Two shapes that broadcast with each other."""
        whole = self.shape()
        first, second = ([1 if self.flag() and self.flag() else d for d in whole] for _ in range(2))
        if self.flag():
            second = second[self.int(0, len(second)) :]
        return (first, second) if self.flag() else (second, first)


def size_of(dim: Any) -> int:
    return dim.size if isinstance(dim, Lead) else dim


CASES: dict[str, Callable[[Draw], Case]] = {}


def case(*names: str) -> Callable[[Any], Any]:
    def add(make: Any) -> Any:
        for name in names:
            CASES[name] = (lambda d, n=name: make(d, n)) if len(names) > 1 else make
        return make

    return add
