"""DiT whose blocks have embedders of their own.

Symbols: B batch, D width.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, TimeEmbedding, embedded_sum
from latentc.components.networks.patch_transformer import PatchTransformer, Vectors
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class


class DiffusersDit(PatchTransformer):
    """A patch_transformer whose blocks embed the time and the vectors by weights of their own (Hugging Face's
    diffusers). The embedding of the first block also conditions the final layer.
    """

    kind: Literal["diffusers_dit"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**PatchTransformer.EXAMPLE, "kind": "diffusers_dit"}
    PROVIDES: ClassVar[frozenset[Capability]] = PatchTransformer.PROVIDES - {"embed_conditions"}

    def vectors(self, b: Builder, given: Vectors) -> list[Var]:
        return []

    def conditioned(self, b: Builder, vectors: list[Var], given: Vectors) -> tuple[list[Var], Var]:
        body = _embedder(given.time, tuple(entry for entry, _ in given.pairs))
        operands = [operand for _, own in given.pairs for operand in own]
        conditions = [
            b.sub(name, body, given.t, *operands, width=given.width, out="c", **given.sizes)
            for name in items("embedders", given.depth)
        ]
        shared = self.block.parts()[3].shared
        return [shared(b, c, given.width) for c in conditions], conditions[0]


@cache
def _embedder(time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *conditions: Var, width: int, **sizes: Any) -> Var:
        """Embeds time and conditions for one block."""
        parts = [time.vector(b, "t_embedder", t, width)]
        parts += [embedded_sum(b, entries, conditions, width, sizes)] if entries else []
        return summed(b, "c", parts)

    return embedder
