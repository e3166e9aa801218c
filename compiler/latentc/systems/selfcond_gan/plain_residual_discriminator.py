"""Discriminators of residual blocks without norms."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.ir.builder import Builder, Var
from latentc.systems.selfcond_gan.blocks import active, residual_block
from latentc.systems.selfcond_gan.parts import INIT, Discriminator, Multipliers, halved


class PlainResidualDiscriminator(Discriminator):
    """Two residual blocks without norms per level (Mescheder et al. 2018, arXiv:1801.04406).

    The second block of a level has the channels of the next.
    """

    kind: Literal["plain_residual_discriminator"]
    channel_multipliers: Multipliers = Field(
        min_length=1,
        max_length=16,
        description="channels of each level, as a multiple of `width`; each but the last halves",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "plain_residual_discriminator",
        "width": 4,
        "channel_multipliers": [1, 2],
    }

    def doublings(self) -> int:
        return len(self.channel_multipliers) - 1

    def last(self) -> int:
        return self.channel_multipliers[-1]

    def counts(self) -> dict[str, int]:
        return {"levels": len(self.channel_multipliers)}

    def encoder(self, b: Builder, x: Var, width: Any) -> Var:
        multipliers = self.channel_multipliers
        x = layers.conv(b, "enter", x, multipliers[0] * width, 3, INIT, out="x")
        for level, own in enumerate(multipliers):
            if level:
                x = halved(b, x)
            for place, multiplier in enumerate((own, (*multipliers, multipliers[-1])[level + 1])):
                name, features = f"blocks.{2 * level + place}", multiplier * width
                x = b.sub(name, residual_block, x, out="x", channels=x.shape[1], features=features)
        return active(b, x, "h")
