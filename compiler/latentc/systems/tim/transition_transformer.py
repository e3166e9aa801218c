"""DiT whose blocks are also given the embedded length of the step.

Symbols: B batch, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from latentc.components.blocks.block import Block
from latentc.components.conditions.span import Span
from latentc.components.networks.patch_transformer import PatchTransformer, Vectors
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var
from latentc.systems.repa.aligned_transformer import AlignedTransformer


class TransitionTransformer(PatchTransformer):
    """A patch_transformer that passes its blocks the condition and, beside it, the embedded span (TiM, Wang et al.
    2025, arXiv:2509.04394), for the mixer `distance_attention` and the block condition `gated_adaln`.
    """

    kind: Literal["transition_transformer"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **PatchTransformer.EXAMPLE,
        "kind": "transition_transformer",
        "block": {
            **Block.EXAMPLE,
            "mixer": {"kind": "distance_attention", "heads": 2},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "gated_adaln", "hidden": 8},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if not any(isinstance(condition, Span) for condition in self.takes(spec).values()):
            message = f"blocks of a {self.kind} are given the embedded span, but the network takes none"
            yield Problem((), message, "add `conditioning.span: {kind: span}`")
        condition = self.block.parts()[3]
        if "modulation" in condition.OPERANDS:
            message = f"`{condition.kind}` modulates all blocks by one map of the condition, without the span"
            yield Problem(("block", "condition"), message, "use `gated_adaln`")

    def conditioned(self, b: Builder, vectors: list[Var], given: Vectors) -> tuple[list[Var], Var]:
        c = summed(b, "c", vectors)
        spans = [v for v, (entry, _) in zip(vectors[1:], given.pairs, strict=True) if entry.ports[0].role == "time"]
        return [b.concat(c, spans[0], axis=1, out="c_span")] * given.depth, c


class AlignedTransitionTransformer(TransitionTransformer, AlignedTransformer):
    """A transition_transformer that also returns projections of a block's output in training, as an
    `aligned_transformer` does.
    """

    kind: Literal["aligned_transition_transformer"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **TransitionTransformer.EXAMPLE,
        "kind": "aligned_transition_transformer",
        "alignment": AlignedTransformer.EXAMPLE["alignment"],
    }
