"""Diffusion of clips of any length."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.denoising import Noised, Terms
from latentc.components.objectives.diffusion import Diffusion
from latentc.ir.builder import Var
from latentc.systems.llia.clip_length import within_clip


class ClipDiffusion(Diffusion):
    """Diffusion of video in which frames after the clip (condition `length`) count as without error."""

    kind: Literal["clip_diffusion"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "clip_diffusion", "process": {"kind": "discrete", "steps": 100}}

    def loss(self, at: Noised, prediction: Var) -> Terms:
        return super().loss(at, within_clip(at.b, prediction, at.truth))
