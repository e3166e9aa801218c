"""DCGAN's discriminator, and a deeper one without norms."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.ir.builder import Builder, Var
from latentc.systems.selfcond_gan.parts import INIT, Discriminator, Multipliers

EPS = 1e-5


class DcganDiscriminator(Discriminator):
    """Convolutions of stride 2 with batch norms (DCGAN, Radford et al. 2015, arXiv:1511.06434).

    `deep`: a 3 x 3 convolution before each and one after the last, no norms (SNGAN's, Miyato et al. 2018,
    arXiv:1802.05957, without spectral norms); the last level is then not halved.
    """

    kind: Literal["dcgan_discriminator"]
    channel_multipliers: Multipliers = Field(
        min_length=1, max_length=16, description="channels of each level, as a multiple of `width`"
    )
    deep: bool = Field(False, description="two convolutions per level and no norms")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "dcgan_discriminator", "width": 4, "channel_multipliers": [1, 2]}

    def doublings(self) -> int:
        return len(self.channel_multipliers) - self.deep

    def last(self) -> int:
        return self.channel_multipliers[-1]

    def counts(self) -> dict[str, int]:
        levels = len(self.channel_multipliers)
        return {"convs": 2 * levels - 1 if self.deep else levels, "norms": 0 if self.deep else levels}

    def encoder(self, b: Builder, x: Var, width: Any) -> Var:
        count = len(self.channel_multipliers)
        for level, multiplier in enumerate(self.channel_multipliers):
            features = multiplier * width
            if self.deep:
                x = layers.conv(b, f"convs.{2 * level}", x, features, 3, INIT, out="x")
                x = b.leaky_relu(x, slope=0.1, out="x")
            if self.deep and level < count - 1:
                x = layers.conv(b, f"convs.{2 * level + 1}", x, features, 4, INIT, stride=2, out="x")
                x = b.leaky_relu(x, slope=0.1, out="x")
            if not self.deep:
                x = layers.conv(b, f"convs.{level}", x, features, 4, INIT, stride=2, out="x")
                x = layers.batch_norm(b, f"norms.{level}", x, affine=True, eps=EPS)
                x = b.leaky_relu(x, slope=0.2, out="x")
        return x
