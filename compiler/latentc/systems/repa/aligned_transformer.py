"""DiT with projections of a block's output for a feature alignment loss.

Symbols: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.capabilities import Role
from latentc.components.contract import Method, Port
from latentc.components.networks._alignment import Alignment, projector
from latentc.components.networks.patch_transformer import Passage, PatchTransformer
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Builder, Var


class AlignedTransformer(PatchTransformer):
    """A patch_transformer that also returns projections of a block's output in training (REPA, Yu et al. 2024,
    arXiv:2410.06940)."""

    kind: Literal["aligned_transformer"]  # type: ignore[assignment]
    alignment: Alignment = Field(description="projection heads for a feature alignment loss")
    OUTPUTS = ("features",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "aligned_transformer",
        "alignment": {"blocks": 1, "hidden": 8, "features": [4]},
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        yield from self.alignment.problems_of_depth(self.depth)

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        if spec.data.shape is None:
            return ()
        return tuple((self.tokens(spec.data.shape), channels) for channels in self.alignment.features)

    def further_methods(
        self, spec: Spec, name: str, add: Callable[..., Method], ports: tuple[Port, ...], static: Mapping[str, Any]
    ) -> dict[str, Method]:
        outputs: list[Role] = ["output"]
        outputs += ["features"] * len(self.alignment.features)
        how = {
            "passage": _aligned(self.alignment),
            "doc": "The forward pass in training: projected features come last.",
        }
        sizes = {**static, "projection": self.alignment.hidden}
        return {"train_forward": add("train_forward", ports, sizes, outputs, **how)}


@cache
def _aligned(alignment: Alignment) -> Callable[[tuple[Var, ...], Mapping[str, Any]], Passage]:
    class Aligned(Passage):
        """All tokens pass through all blocks, and the output of one is projected."""

        def __init__(self, operands: tuple[Var, ...], static: Mapping[str, Any]) -> None:
            super().__init__(operands, static)
            self.hidden = static["projection"]

        def leave(self, b: Builder, block: int, x: Var) -> Var:
            if block + 1 == alignment.blocks:
                self.features = tuple(
                    b.sub(f"projectors.{i}", projector, x, dim=x.shape[2], hidden=self.hidden, out_dim=channels)
                    for i, channels in enumerate(alignment.features)
                )
            return x

    return Aligned
