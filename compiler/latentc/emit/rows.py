"""The type of the rows of `ops` and `shapes`, and what they may ask of the printer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from latentc.emit.text import Text
from latentc.ir.core import Node, Value
from latentc.ir.types import Dim
from latentc.weights.expr import DTYPE_OF_TORCH

TORCH_DTYPE = {ours: f"torch.{theirs}" for theirs, ours in DTYPE_OF_TORCH.items()}


class Printer(Protocol):
    """What a row may ask; `latentc.emit.expressions` answers."""

    training: str
    """The condition that the model is in training mode."""

    def arg(self, value: Value) -> Text:
        """An operand; a scalar constant is a Python number."""

    def gathered(self, values: Sequence[Value]) -> list[str]:
        """Operands, those that a loop has collected as its list with a star."""

    def tensor(self, value: Value) -> Text:
        """An operand, always a tensor."""

    def size(self, dim: Dim) -> Text:
        """A size, by its name if it has one."""

    def number(self, value: Value) -> bool:
        """True if `arg` gives a Python number."""

    def dtype(self, name: str) -> Text:
        """A dtype."""

    def helper(self, name: str) -> str:
        """The name of a helper, which the file then defines."""

    def convolved(self, value: Value) -> bool:
        """True if a convolution, or a call, takes the value."""

    def folded(self, value: Value) -> Node | None:
        """The node of a value that is printed inside its user."""


Row = Callable[[Printer, Node], Text]
