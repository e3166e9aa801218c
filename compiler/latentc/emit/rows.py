"""What the rows of `ops` and `shapes` have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from latentc.emit.text import Text
from latentc.ir.core import Node, Value
from latentc.ir.types import Dim
from latentc.weights.expr import DTYPE_OF_TORCH

TORCH_DTYPE = {ours: f"torch.{theirs}" for theirs, ours in DTYPE_OF_TORCH.items()}


class Printer(Protocol):
    """What a row may ask; see `latentc.emit.body`."""

    def arg(self, value: Value) -> Text: ...

    def tensor(self, value: Value, like: Value | None = None) -> Text: ...

    def size(self, dim: Dim) -> Text: ...

    def number(self, value: Value) -> bool: ...

    training: str

    def dtype(self, name: str) -> Text: ...

    def helper(self, name: str) -> str: ...

    def folded(self, value: Value) -> Node | None: ...


Row = Callable[[Printer, Node], Text]
