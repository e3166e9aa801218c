"""An autoencoder of two transformers whose tokens may have type embeddings."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.networks._query_parts import Place
from latentc.components.networks.query_autoencoder import QueryAutoencoder


class LarpAutoencoder(QueryAutoencoder):
    """A query_autoencoder whose positions and type embeddings are chosen (LARP, Wang et al. 2024, arXiv:2410.21264)."""

    kind: Literal["larp_autoencoder"]  # type: ignore[assignment]
    learned: tuple[Place, ...] = Field(
        ("queries",), max_length=4, description="which positions are learned; the others are sinusoids"
    )
    typed: tuple[Place, ...] = Field(
        ("outputs",), max_length=4, description="tokens to which a learned type embedding is added"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**QueryAutoencoder.EXAMPLE, "kind": "larp_autoencoder"}

    def learns(self, place: Place) -> bool:
        return place in self.learned

    def types(self, place: Place) -> bool:
        return place in self.typed
