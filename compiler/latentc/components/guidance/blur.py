"""Blur guidance: away from what the network predicts where the data in the state is blurred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network
from latentc.components.guidance._blurred import Blurred, BlurredGuidance
from latentc.components.guidance.guidance import Contrast
from latentc.ir.builder import ModuleBuilder


class BlurGuidance(BlurredGuidance):
    """Adds (scale - 1) (p - q), with q computed after blurring all of the predicted data (Hong et al. 2023,
    arXiv:2210.00939, 4.1). It needs neither a condition nor condition dropout. The paper's s is scale - 1.
    """

    SETTING: ClassVar[str] = "blur_guidance"
    INPUT: ClassVar[str] = "blur_scale"

    kind: Literal["blur"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "blur", "scale": 1.5, "kernel": 3}

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        return Contrast(None, (), self.absent, self.channels, Blurred(self.sigma, self.kernel))
