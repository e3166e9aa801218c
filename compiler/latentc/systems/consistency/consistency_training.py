"""Consistency training: both states of a pair are made of the same data and noise, so there is no teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network
from latentc.components.kit import Conditions, Operands
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.systems.consistency.consistency_loss import ConsistencyObjective, Pairs


class ConsistencyTraining(ConsistencyObjective):
    """Learns the ends of trajectories from data alone (Song et al. 2023, arXiv:2303.01469, algorithm 3; with `levels`,
    `weighting: inverse_step` and no `target` as Song and Dhariwal 2023, arXiv:2310.14189). With a frozen, already
    trained `main` and a network of kind `adapter`, it trains the adapter to control `main` (CCM).
    """

    kind: Literal["consistency_training"]
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "consistency_training",
        "base": {"kind": "diffusion", "process": {"kind": "edm"}, "predicts": "preconditioned"},
        "levels": {},
        "weighting": "inverse_step",
    }

    def nearer(
        self, b: Builder, at: Pairs, networks: Mapping[str, Network], conditions: Conditions, cond: Operands,
        x0: Var, noise: Var, x_t: Var,
    ) -> Var:  # fmt: skip
        return weighted_sum(b, "x_s", (at("alpha_s"), x0), (at("sigma_s"), noise))
