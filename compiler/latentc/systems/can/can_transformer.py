"""DiT whose patch embedding depends on the condition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.networks.patch_transformer import PatchTransformer
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var
from latentc.systems.can.generated import generated_patches


class CanTransformer(PatchTransformer):
    """A patch_transformer whose patch embedding's weight is a learned one plus a linear map of the condition (CAN)."""

    kind: Literal["can_transformer"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**PatchTransformer.EXAMPLE, "kind": "can_transformer"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if spec.data.shape is not None and len(spec.data.shape) == 2:
            message = "data that are sequences have no patches whose embedding could depend on the condition"
            yield Problem((), message, "use `kind: patch_transformer`")

    def embed(
        self, b: Builder, x: Var, vectors: list[Var], tokens: Any, width: Any, size: Any, patch: Any
    ) -> tuple[Var, list[Var]]:
        c = summed(b, "c", vectors)
        sizes = {"size": size, "patch": patch, "channels": x.shape[1], "width": width}
        return b.sub("x_embedder", generated_patches, x, c, **sizes), [c]
