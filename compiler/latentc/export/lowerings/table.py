"""The type of a lowering, the table of lowerings, and the decorator that adds to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from latentc.export.graph import Writer
from latentc.ir.core import Node, Value
from latentc.ir.ops.row import axis_of
from latentc.ir.types import Dim, Sym, TensorType


@dataclass(frozen=True)
class Context:
    """One node being lowered: ONNX names and types of its operands and outputs.

    `results`: names of the graph's outputs.
    """

    g: Writer
    node: Node
    results: Mapping[Value, str]

    @cached_property
    def ins(self) -> Sequence[str]:
        """Names of the operands, each in the shape of its value."""
        return [self.g.name(v) for v in self.node.inputs]

    @cached_property
    def outs(self) -> Sequence[str]:
        """Names of the outputs, defined at the first access."""
        return [self.g.define(v, self.results.get(v)) for v in self.node.outputs]

    @property
    def is_result(self) -> bool:
        """True if the (first) output is an output of the graph."""
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

    @property
    def axis(self) -> int:
        """The attribute `axis`, counted from the front of operand 0."""
        return axis_of(self.attrs["axis"], self.type().rank)

    def scalar(self, value: Any) -> str:
        """A rank-0 constant in the dtype of operand 0."""
        return self.g.literal(value, self.type().dtype, "scalar")

    def final(self, op: str, ins: Sequence[str], **attrs: Any) -> None:
        """Appends the node that computes the (first) output."""
        self.g.add(op, ins, self.out, **attrs)

    def final_reshape(self, source: str) -> None:
        """The output is `source` in another shape; run-time sizes become -1."""
        self.final("Reshape", [source, self.g.ints(static_target(self.out_type.shape))])

    def final_rows(self, rows: str) -> None:
        """The output has the elements of `rows` [N, last size]; a Reshape is written only where a node needs it."""
        if self.is_result:
            self.final_reshape(rows)
        else:
            self.g.view(self.node.outputs[0], rows, int(self.out_type.shape[-1]))  # type: ignore[arg-type]

    def tmp(self, op: str, ins: Sequence[str], **attrs: Any) -> str:
        return self.g.tmp(op, ins, self.node.outputs[0].name, **attrs)


@dataclass(frozen=True)
class Elements(Context):
    """An elementwise node applied to the elements of its first operand in another shape."""

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
    unary: bool = False  # elementwise in its first operand, so that the operand's shape is irrelevant without an `axis`


TABLE: dict[str, Lowering] = {}


def static_target(shape: tuple[Dim, ...]) -> list[int]:
    """A Reshape's target: the one run-time size as -1."""
    return [-1 if isinstance(d, Sym) else int(d) for d in shape]


def same(op: str, unary: bool = False) -> Lowering:
    """The lowering to the ONNX operator `op` on the same operands."""
    return Lowering(lambda c: c.final(op, c.ins), 18, unary)


def along(op: str, **attrs: Any) -> Lowering:
    """The lowering to the ONNX operator `op` on the same operands and the same axis."""
    return Lowering(lambda c: c.final(op, c.ins, axis=c.axis, **attrs), 18)


def lower(
    op: str, opset: int = 18, unary: bool = False
) -> Callable[[Callable[[Context], None]], Callable[[Context], None]]:
    """Enters a function in the table as the lowering of `op`."""

    def enter(emit: Callable[[Context], None]) -> Callable[[Context], None]:
        TABLE[op] = Lowering(emit, opset, unary)
        return emit

    return enter
