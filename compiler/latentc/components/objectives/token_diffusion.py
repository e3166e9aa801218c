"""Diffusion of each hidden token by itself, given the features of the others: MAR's loss."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives._hidden_tokens import HiddenTokens
from latentc.components.objectives.diffusion import DiffusionLoss


class TokenDiffusion(HiddenTokens, DiffusionLoss):
    """The diffusion loss of network `head` on the hidden tokens, given features of `main` (MAR, arXiv:2406.11838).

    A fraction r of each sample's tokens is hidden, with r normal with mean 1, truncated to [`least_hidden`, 1].
    """

    kind: Literal["token_diffusion"]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "token_diffusion",
        "process": {"kind": "discrete", "schedule": "cosine", "steps": 100},
        "repeats": 2,
    }

    def says(self) -> str:
        return "The diffusion loss of the hidden tokens, one value per sample each."
