"""An autoencoder whose decoder is scaled and shifted by statistics of the latents.

Symbols: B batch, C channels, Z channels of the latents, h, w their rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.autoencoder import INIT, Blocks, Half
from latentc.components.networks.autoencoder import Autoencoder
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, module_class

EPS = 1e-6
"""Added to the variance of the latents."""


class AdaptiveBlocks(Blocks):
    """Halves by a convolution padded on all sides, doubles by moving channels into space."""

    def halved(self, b: Builder, h: Var, features: Any) -> Var:
        return layers.conv(b, "down", h, features, 3, INIT, stride=2, out="h")

    def doubled(self, b: Builder, h: Var, features: Any) -> Var:
        batch, _, rows, columns = h.shape
        h = layers.conv(b, "up", h, 4 * features, 3, INIT, out="h")
        # Four blocks of channels become 2 x 2 pixels.
        h = b.reshape(h, shape=(batch, 2, 2, features, rows, columns))
        h = b.transpose(h, perm=(0, 3, 4, 1, 5, 2))
        return b.reshape(h, shape=(batch, features, 2 * rows, 2 * columns), out="h")


class AdaptiveHalf(Half):
    """A decoder each of whose levels begins with a norm that the latents scale and shift."""

    def entered(self, b: Builder, place: int, h: Var, z: Var) -> Var:
        sizes = {"channels": h.shape[1], "latent": z.shape[1]}
        return b.sub(f"adaptive.{place}", _adaptive(self.blocks.groups, self.blocks.eps), h, z, **sizes)


@cache
def _adaptive(groups: int, eps: float) -> BlockBody:
    @module_class("AdaptiveGroupNorm", x="B channels H W", z="B latent M N")
    def forward(b: Builder, x: Var, z: Var, *, channels: int, latent: int) -> Var:
        """GroupNorm of x, scaled by a map of the deviation of latents z over positions, shifted by one of the mean."""
        count = int(z.shape[2]) * int(z.shape[3])
        mean = b.mean(z, axes=(2, 3), keepdims=True, out="mean")
        apart = z - mean
        total = b.sum(apart * apart, axes=(2, 3), keepdims=False)
        deviation = b.sqrt(total * (1 / (count - 1)) + EPS, out="deviation")
        mean = b.reshape(mean, shape=(z.shape[0], latent), out="mean")
        column = (x.shape[0], channels, 1, 1)
        scale = b.reshape(layers.linear(b, "gamma", deviation, channels, INIT), shape=column, out="scale")
        shift = b.reshape(layers.linear(b, "beta", mean, channels, INIT), shape=column, out="shift")
        return b.group_norm(x, groups=groups, eps=eps) * scale + shift

    return forward


class AdaptiveAutoencoder(Autoencoder):
    """An autoencoder whose decoder begins each level with a GroupNorm that mean and deviation of the latents scale and
    shift, and doubles the resolution by moving channels into space (Open-MAGVIT2, Luo et al. 2024, arXiv:2409.04410).
    """

    kind: Literal["adaptive_autoencoder"]  # type: ignore[assignment]
    downsampling: Literal["conv"] = Field("conv", description="halve the resolution with a stride-2 convolution")
    upsampling: Literal["conv"] = Field("conv", description="double the resolution by moving channels into space")
    BLOCKS: ClassVar[type[Blocks]] = AdaptiveBlocks
    DECODER: ClassVar[type[Half]] = AdaptiveHalf
    EXAMPLE: ClassVar[dict[str, Any]] = {**Autoencoder.EXAMPLE, "kind": "adaptive_autoencoder"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        shape = self._shape(spec)
        if shape is not None and len(shape) == 3 and shape[1] * shape[2] <= self.factor**2:
            message = "a single position of latents has no deviation, by which the decoder is scaled"
            yield Problem(("multipliers",), message, "use fewer levels or larger images")
