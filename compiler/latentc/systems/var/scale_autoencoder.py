"""The autoencoder of VAR's tokenizer."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.networks.autoencoder import Autoencoder


class ScaleAutoencoder(Autoencoder):
    """An autoencoder with 3 x 3 convolutions between its halves and the codes (VAR, Tian et al. 2024,
    arXiv:2404.02905)."""

    kind: Literal["scale_autoencoder"]  # type: ignore[assignment]
    QUANT_KERNEL: ClassVar[int] = 3
    EXAMPLE: ClassVar[dict[str, Any]] = {**Autoencoder.EXAMPLE, "kind": "scale_autoencoder"}
