"""Discrete first stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.first_stage import FirstStage


class VqModel(FirstStage):
    """Vector-quantising tokenizer: images become tokens (Esser et al. 2021, arXiv:2012.09841)."""

    kind: Literal["vq_model"]
    path: str = Field(description="folder or file of the tokenizer's weights (diffusers' VQModel)")
    factor: int = Field(16, gt=0, description="pixels per token, along each side")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "vq_model", "path": "vq_ds16_c2i.pt"}
    encodes_to: ClassVar[str] = "tokens"
