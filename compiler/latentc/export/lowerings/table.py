"""What a lowering is, and the decorator that enters one in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latentc.export.graph import Writer
from latentc.ir.core import Node, Value
from latentc.ir.types import TensorType


@dataclass(frozen=True)
class Context:
    """One node being lowered: its operands' and outputs' ONNX names and types.

    `results`: the names of values that the graph gives.
    """

    g: Writer
    node: Node
    results: Mapping[Value, str]

    @cached_property
    def ins(self) -> Sequence[str]:
        """Names of the operands, each in its own shape."""
        return [self.g.name(v) for v in self.node.inputs]

    @cached_property
    def outs(self) -> Sequence[str]:
        """Names of the outputs; asking defines them."""
        return [self.g.define(v, self.results.get(v)) for v in self.node.outputs]

    @property
    def is_result(self) -> bool:
        """Whether the graph gives the (first) output."""
        return self.node.outputs[0] in self.results

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs

    @property
    def out(self) -> str:
        return self.outs[0]

    def type(self, i: int = 0) -> TensorType:
        """Type of operand i."""
        return self.node.inputs[i].type

    @property
    def out_type(self) -> TensorType:
        return self.node.outputs[0].type

    def scalar(self, value: Any, dtype: str | None = None) -> str:
        """A rank-0 constant, of operand 0's dtype unless told."""
        return self.g.literal(value, dtype or self.type().dtype, "scalar")

    def final(self, op: str, ins: Sequence[str], **attrs: Any) -> None:
        """Appends the node that gives the (first) output."""
        self.g.add(op, ins, self.out, **attrs)

    def tmp(self, op: str, ins: Sequence[str], **attrs: Any) -> str:
        return self.g.tmp(op, ins, self.node.outputs[0].name, **attrs)


@dataclass(frozen=True)
class Elements(Context):
    """An elementwise node applied to a tensor that holds its first operand's elements in another shape."""

    source: str
    target: str

    @cached_property
    def ins(self) -> Sequence[str]:
        return [self.source, *(self.g.name(v) for v in self.node.inputs[1:])]

    @cached_property
    def outs(self) -> Sequence[str]:
        return [self.target]


@dataclass(frozen=True)
class Lowering:
    """How an op is written in ONNX, and the first opset that can hold it."""

    emit: Callable[[Context], None]
    opset: int
    unary: bool = False  # elementwise in its first operand, whose shape it does not care for unless it has an `axis`


TABLE: dict[str, Lowering] = {}


def lower(
    op: str, opset: int = 18, unary: bool = False
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Enters a function in the table as the lowering of `op`."""

    def enter(emit: Callable[[Context], None]) -> Callable[[Context], None]:
        TABLE[op] = Lowering(emit, opset, unary)
        return emit

    return enter
