"""Diffusion of each hidden token by itself, given the features of the others, which are predicted as well."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.token_diffusion import TokenDiffusion
from latentc.systems.d_jepa._prediction import PredictedTokens


class PredictiveDiffusion(PredictedTokens, TokenDiffusion):
    """`token_diffusion`, and the loss of the hidden tokens' predicted features (D-JEPA, arXiv:2410.03755)."""

    kind: Literal["predictive_diffusion"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {**TokenDiffusion.EXAMPLE, "kind": "predictive_diffusion"}
