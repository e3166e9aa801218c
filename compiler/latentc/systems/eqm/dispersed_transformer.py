"""DiT that also returns the tokens after its last block, for a dispersive loss.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.contract import Method, Port
from latentc.components.networks.patch_transformer import Passage, PatchTransformer
from latentc.components.parts import Spec
from latentc.ir.builder import Builder, Var


class DispersedTransformer(PatchTransformer):
    """A patch_transformer that also returns the tokens f32[B, T, D] after its last block in training."""

    kind: Literal["dispersed_transformer"]  # type: ignore[assignment]
    OUTPUTS = ("features",)
    EXAMPLE: ClassVar[dict[str, Any]] = {**PatchTransformer.EXAMPLE, "kind": "dispersed_transformer"}

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        return () if spec.data.shape is None else ((self.tokens(spec.data.shape), self.width),)

    def further_methods(
        self, spec: Spec, name: str, add: Callable[..., Method], ports: tuple[Port, ...], static: Mapping[str, Any]
    ) -> dict[str, Method]:
        how = {
            "passage": _last(self.depth),
            "doc": "The forward pass in training: the tokens after the last block come last.",
        }
        return {"train_forward": add("train_forward", ports, static, ("output", "features"), **how)}


@cache
def _last(depth: int) -> Callable[[tuple[Var, ...], Mapping[str, Any]], Passage]:
    class Last(Passage):
        """All tokens pass through all blocks, and those after the last are kept."""

        def leave(self, b: Builder, block: int, x: Var) -> Var:
            if block + 1 == depth:
                self.features = (x,)
            return x

    return Last
