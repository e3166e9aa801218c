"""Continuous first stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.first_stage import FirstStage


class AutoencoderKl(FirstStage):
    """KL autoencoder of latent diffusion: images become latents (Rombach et al. 2022, arXiv:2112.10752)."""

    kind: Literal["autoencoder_kl"]
    path: str = Field(description="folder or file of the autoencoder's weights (diffusers' AutoencoderKL)")
    scale: float = Field(0.18215, gt=0, description="factor on the latents that brings them to about unit variance")
    factor: int = Field(8, gt=0, description="pixels per latent, along each side")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "autoencoder_kl", "path": "vae"}
    encodes_to: ClassVar[str] = "x"
