"""The discriminator of ViTok's decoder."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.networks.style_discriminator import StyleDiscriminator, halving_block
from latentc.ir.builder import BlockBody


class VitokDiscriminator(StyleDiscriminator):
    """A style_discriminator in whose blocks the first convolution increases the channels (ViTok, Hansen-Estruch et al.
    2025, arXiv:2501.09755)."""

    kind: Literal["vitok_discriminator"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vitok_discriminator", "channel_base": 64, "channel_max": 8}

    def block(self) -> BlockBody:
        return halving_block(self.blur, widens_first=True)
