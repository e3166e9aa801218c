"""Latents that become rows of a learned table only where they are decoded."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.blocks.bottlenecks.codebook import Codebook
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B, TensorType


class LateCodebook(Codebook):
    """A codebook in the decoder: codes are the encoder's output, and `decode` quantises them to the nearest rows.

    Latents sampled by diffusion therefore only have to end near a row (latent diffusion's VQ-regularised first stages,
    Rombach et al. 2022, arXiv:2112.10752). It is trained like `codebook`.
    """

    kind: Literal["late_codebook"]  # type: ignore[assignment]
    discrete: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "late_codebook", "size": 16, "channels": 4}

    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        return h

    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        return self.mode(b, codes, static)

    def decoded_type(self, rows: int, columns: int) -> TensorType:
        return f32(B, self.channels, rows, columns)
