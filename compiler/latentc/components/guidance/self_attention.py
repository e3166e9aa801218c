"""Self-attention guidance: away from what the network predicts where it attends and the data is blurred."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Network
from latentc.components.guidance._blurred import BlurredGuidance, BlurredWhereAttended
from latentc.components.guidance.guidance import Contrast
from latentc.components.kit.methods import with_attention
from latentc.ir.builder import ModuleBuilder


class SelfAttentionGuidance(BlurredGuidance):
    """Adds (scale - 1) (p - q), with q computed after blurring attended parts of the data (Hong et al. 2023,
    arXiv:2210.00939). A token is attended if the attention it receives sums to more than `threshold`. It needs
    neither a condition nor condition dropout. The paper's s is scale - 1.
    """

    SETTING: ClassVar[str] = "self_attention_guidance"
    INPUT: ClassVar[str] = "attention_scale"

    kind: Literal["self_attention"]
    block: str | None = Field(None, description="block whose attention is used (`blocks.5`); null: the middle one")
    threshold: float = Field(
        1.0, ge=0, description="attention above which a token counts as attended, relative to uniform attention (1)"
    )
    softness: float = Field(
        0.01,
        ge=0,
        description="width of the mask's ramp from 0 to 1 around `threshold`; 0: a step as in the paper, where "
        "rounding decides borderline cases, so engines may differ",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "self_attention", "scale": 1.5, "kernel": 3}

    def prepared(self, mb: ModuleBuilder, network: Network) -> Network:
        return with_attention(mb, network, self.block)

    def direction(self, mb: ModuleBuilder, networks: Mapping[str, Network]) -> Contrast:
        degrade = BlurredWhereAttended(self.sigma, self.kernel, self.threshold, self.softness)
        return Contrast(None, (), self.absent, self.channels, degrade)
