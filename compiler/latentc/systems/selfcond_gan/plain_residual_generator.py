"""Generators of residual blocks without norms."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.ir.builder import Builder, Var
from latentc.systems.selfcond_gan.blocks import active, residual_block
from latentc.systems.selfcond_gan.parts import INIT, Generator, Multipliers


class PlainResidualGenerator(Generator):
    """Two residual blocks without norms per level (Mescheder et al. 2018, arXiv:1801.04406)."""

    kind: Literal["plain_residual_generator"]
    channel_multipliers: Multipliers = Field(
        min_length=1,
        max_length=16,
        description="channels of each level, as a multiple of `width`; each but the first doubles",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**Generator.EXAMPLE, "kind": "plain_residual_generator"}

    def counts(self) -> dict[str, int]:
        return {"levels": len(self.channel_multipliers)}

    def decoder(self, b: Builder, h: Var, width: Any, channels: Any, side: int) -> Var:
        inside = self.channel_multipliers[0] * width
        x = layers.linear(b, "linear", h, inside * side**2, INIT, out="x")
        x = b.reshape(x, shape=(h.shape[0], inside, side, side), out="x")
        for level, multiplier in enumerate(self.channel_multipliers):
            if level:
                x = b.upsample_nearest(x, factor=2, out="x")
            for place in range(2):
                name, features = f"blocks.{2 * level + place}", multiplier * width
                x = b.sub(name, residual_block, x, out="x", channels=x.shape[1], features=features)
        return b.tanh(layers.conv(b, "output", active(b, x), channels, 3, INIT))  # type: ignore[no-any-return]
