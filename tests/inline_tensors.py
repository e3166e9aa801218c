"""ONNX models that hold their own weights, for an engine to take from memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from onnx import TensorProto

from latentc.export.graph import Array, stored
from latentc.ir.core import Param, Value, under_prefix
from latentc.ir.recipes import evaluate
from latentc.weights import packed


class InlineTensors:
    """Tensors inside the protobuf, of which there may be 2 GB."""

    def __init__(self, weights: Callable[[str, Param], Any]) -> None:
        """`weights(path, param)` gives the model's own weights."""
        self._weights = weights

    def weight(self, proto: TensorProto, path: str, param: Param) -> None:
        prefix = path.removesuffix(param.name)
        value = evaluate(
            replace(param, value=Value(path, param.type), recipe=under_prefix(param.recipe, prefix)), self._own
        )
        proto.raw_data = packed(stored(value, param.type.dtype)).tobytes()

    def _own(self, param: Param) -> Any:
        return self._weights(param.name, param)

    def literal(self, proto: TensorProto, array: Array) -> None:
        proto.raw_data = packed(array).tobytes()
