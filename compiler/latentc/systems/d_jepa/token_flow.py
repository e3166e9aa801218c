"""Flow matching of each hidden token by itself, given the features of the others.

Beside token_diffusion: the path and the prediction are those of a flow (D-JEPA's alternative, and D-JEPA·T2I's loss).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.flow import FlowLoss
from latentc.systems.d_jepa._prediction import PredictedTokens


class TokenFlow(PredictedTokens, FlowLoss):
    """The flow-matching loss of network `head` on the hidden tokens, given features of `main` (D-JEPA, Chen et al.
    2024, arXiv:2410.03755; D-JEPA·T2I, arXiv:2411.14808). A fraction r of each sample's tokens is hidden, with r
    normal with mean 1, truncated to [`least_hidden`, 1].
    """

    kind: Literal["token_flow"]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_flow", "repeats": 2}
