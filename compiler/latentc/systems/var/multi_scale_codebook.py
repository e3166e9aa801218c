"""Latents as a sum of maps of codes at growing resolutions.

A file of its own because a `codebook` chooses one code per position: here each scale quantises what the ones before it
left over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.blocks.bottleneck import Bottleneck
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B, TensorType
from latentc.systems.var.scales import Scales


class MultiScaleCodebook(Bottleneck):
    """Multi-scale residual quantisation (VAR, Tian et al. 2024, arXiv:2404.02905, algorithms 1 and 2).

    Each scale quantises the mean residual over its areas to the nearest codes and adds their bicubic upsampling,
    smoothed by a convolution. The tokens of a sample are those of all scales in a row. The penalty is the mean over the
    scales of the squared distances between the latents so far and the encoder's output, in both directions.
    """

    kind: Literal["multi_scale_codebook"]
    size: int = Field(gt=1, le=16_777_216, description="rows of the codebook shared by all scales")
    scales: tuple[Size, ...] = Field(
        min_length=1, max_length=64, description="sides of the token maps; the last is that of the latents"
    )
    normalize: bool = Field(False, description="codes are compared by direction only")
    commitment: float = Field(
        0.25, ge=0, description="weight of the commitment loss, which moves the encoder's output towards rows"
    )
    convolutions: int = Field(
        4, ge=0, le=64, description="number of smoothing convolutions, shared by neighbouring scales; 0: one per scale"
    )
    share: float = Field(
        0.5, ge=0, le=1, description="share of the convolution in each map's contribution; 0: no convolution"
    )
    discrete: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "multi_scale_codebook", "size": 16, "channels": 4, "scales": [1, 2, 4]}

    def of_scales(self, static: Mapping[str, Any]) -> Scales:
        """The parts that scales share, in the sizes of the class that it is part of."""
        return Scales(self.scales, static["codes"], static["latent"], self.normalize, self.convolutions, self.share)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(side**2 for side in self.scales)

    @property
    def square(self) -> int | None:
        return self.scales[-1]

    def static(self) -> dict[str, Any]:
        return {"codes": self.size}

    def sizes(self) -> dict[str, Any]:
        return super().sizes() | self.of_scales({"codes": self.size, "latent": self.channels}).names(len(self.scales))

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        tokens, _ = self.of_scales(static).quantized(b, h)
        return b.concat(*tokens, axis=1, out="tokens") if len(tokens) > 1 else tokens[0]

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        return self.of_scales(static).latents(b, codes)

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return self.of_scales(static).quantized(b, h)[1]

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        return self.of_scales(static).regularized(b, h, self.commitment)

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return i64(B, sum(self.lengths))
