"""Latents as a sum of codes of ever more clusters of positions.

A file of its own because its codes are two things, the rows of a codebook and the clusters that they are of.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.parts import Problem, Refusal, Spec
from latentc.ir.builder import Builder, Var, i64
from latentc.ir.types import B, TensorType
from latentc.systems.nvg.granules import Granules, clustered


class GranularityCodebook(Bottleneck):
    """Multi-granularity quantisation (NVG, Wang et al. 2025, arXiv:2508.12811, section 2.1).

    The L = `side`^2 positions are clustered by their latents, pairwise, down to one cluster. In each stage, from one
    cluster to L, every cluster gets the code nearest to the mean residual of the previous stages. The tokens of a
    sample are the 2 L - 1 codes of all stages, then the L labels of the last. The penalty is that of a
    `multi_scale_codebook`.
    """

    kind: Literal["granularity_codebook"]
    size: int = Field(gt=1, le=16_777_216, description="rows of the codebook shared by all stages")
    side: int = Field(gt=1, le=256, description="side of the square of latents, a power of 2")
    normalize: bool = Field(False, description="codes are compared by direction only")
    commitment: float = Field(
        0.25, ge=0, description="weight of the commitment loss, which moves the encoder's output towards rows"
    )
    convolutions: int = Field(
        4, ge=0, le=64, description="number of smoothing convolutions, shared by neighbouring stages; 0: one per stage"
    )
    share: float = Field(
        0.5, ge=0, le=1, description="weight of the convolution added to each stage's contribution; 0: none"
    )
    warmup: int = Field(
        0,
        ge=0,
        le=1_000_000_000,
        description="initial training steps in which all rows of the codebook learn through a softmax of their "
        "distances",
    )
    discrete: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "granularity_codebook",
        "size": 16,
        "channels": 4,
        "side": 4,
        "warmup": 2,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.side & (self.side - 1):
            yield Problem(
                ("side",), f"a square of side {self.side} cannot be halved down to one position", "use 4, 8, 16"
            )
        if self.size < self.side**2:
            message = f"{self.size} codes are too few: the {self.side**2} labels are tokens as well"
            yield Problem(("size",), message, f"use at least {self.side**2}")

    @property
    def uses_step(self) -> bool:
        return self.warmup > 0

    @property
    def square(self) -> int | None:
        return self.side

    @property
    def stages(self) -> int:
        """K: the last stage has 2^K = L clusters."""
        return (self.side**2).bit_length() - 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Codes of each stage."""
        return tuple(2**k for k in range(self.stages + 1))

    @property
    def length(self) -> int:
        """Tokens of a sample: the codes of all stages, and the labels."""
        return sum(self.lengths) + self.side**2

    def static(self) -> dict[str, Any]:
        return {"codes": self.size}

    def granules(self, static: Mapping[str, Any], labels: Var | None = None, warm: Var | None = None) -> Granules:
        """The parts that stages share, in the sizes of the class that it is part of."""
        sides = (self.side,) * (self.stages + 1)
        sizes = (static["codes"], static["latent"], self.normalize, self.convolutions, self.share)
        return Granules(sides, *sizes, labels=labels, warm=warm)

    def _labels(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        rows = b.reshape(h, shape=(h.shape[0], static["latent"], self.side**2))
        rows = b.stop_gradient(b.transpose(rows, perm=(0, 2, 1)), out="rows")
        return b.sub("clustering", clustered, rows, out="labels")

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        labels = self._labels(b, h, static)
        tokens, _ = self.granules(static, labels).quantized(b, h)
        return b.concat(*tokens, labels, axis=1, out="tokens")

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        count = sum(self.lengths)
        contents, labels = b.split(codes, axis=1, sizes=(count, self.side**2), out="contents labels")
        return self.granules(static, labels).latents(b, contents)

    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return self.granules(static, self._labels(b, h, static)).quantized(b, h)[1]

    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        if self.uses_step:
            message = "the network does not pass on the training step, only an `autoencoder` does"
            raise Refusal(message, "leave it out", ("bottleneck", "warmup"))
        return self.granules(static, self._labels(b, h, static)).regularized(b, h, self.commitment)

    def at_step(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], step: Var) -> tuple[Var, Var]:
        warm = b.cast(b.less(step, self.warmup), to="f32", out="warm")
        return self.granules(static, self._labels(b, h, static), warm).regularized(b, h, self.commitment)

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return i64(B, self.length)
