"""Weights that a program reads: how often, and how many bytes; what bounds a sampler at small batches.

A weight counts once each time a node uses it, an embedding's table not at all (a lookup reads a row of it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latentc.ir.core import Function, Module, Node, callees
from latentc.ir.ops import CONTROL
from latentc.ir.report import bytes_of, flops, short
from latentc.ir.types import TensorType


class Reads:
    """Bytes of weights that functions read and their operations a sample, each function looked at once."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self._weights: dict[str, int] = {}
        self._flops: dict[str, int] = {}

    def weights(self, name: str) -> int:
        """Bytes of weights one run of a function reads."""
        if name not in self._weights:
            fn = self.functions[name]
            own = {p.value for p in fn.params}
            total = 0
            for node in fn.nodes:
                total += sum(self.of_param(node, v.type) for v in node.inputs if v in own)
                if node.op in CONTROL:
                    total += int(node.attrs.get("trip", 1)) * self.weights(callees(node)[0])
            self._weights[name] = total
        return self._weights[name]

    def flops(self, name: str) -> int:
        """Operations of one run of a function, a sample."""
        if name not in self._flops:
            self._flops[name] = flops(Module(self.functions, {}), name)
        return self._flops[name]

    @staticmethod
    def of_param(node: Node, type: TensorType) -> int:
        """Bytes that a node reads of a weight of this type."""
        return 0 if node.op in ("embedding", "take") else bytes_of(type)


@dataclass(frozen=True)
class LoopReads:
    """A loop: `bytes` of weights are read in each of its `trip` steps."""

    body: str
    trip: int
    bytes: int


@dataclass(frozen=True)
class SamplerReads:
    """Weights an entry reads: `once` outside its loops, the rest step by step; all in bytes."""

    once: int
    loops: tuple[LoopReads, ...]

    @property
    def total(self) -> int:
        """Bytes of weights one run reads."""
        return self.once + sum(loop.trip * loop.bytes for loop in self.loops)

    def data(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return {**asdict(self), "total": self.total}

    def text(self) -> str:
        """As lines for a terminal."""
        lines = [f"  {short(loop.bytes, 'B')} a step × {loop.trip}  ({loop.body})" for loop in self.loops]
        once = [f"  {short(self.once, 'B')} once"] if self.once else []
        return "\n".join([f"weights read: {short(self.total, 'B')}", *once, *lines]) + "\n"


def weights_read(module: Module, entry: str) -> SamplerReads:
    """What an entry (or a function, by its name) reads of the weights. Inner loops count in the step around them."""
    reads, loops, once = Reads(module.functions), [], 0
    fn = module.functions[module.entries.get(entry, entry)]
    for node in fn.nodes:
        if node.op == "loop":
            body = node.attrs["body"]
            loops.append(LoopReads(body, int(node.attrs["trip"]), reads.weights(body)))
    once = reads.weights(fn.name) - sum(loop.trip * loop.bytes for loop in loops)
    return SamplerReads(once, tuple(loops))


__all__ = ["LoopReads", "Reads", "SamplerReads", "weights_read"]
