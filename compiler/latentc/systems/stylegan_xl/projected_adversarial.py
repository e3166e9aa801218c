"""Adversarial training whose discriminator judges data and samples apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from latentc.components.contract import Network
from latentc.components.objectives.adversarial import Adversarial, Game
from latentc.components.objectives.terms._term import Side
from latentc.components.parts import Spec
from latentc.ir.builder import Builder


class ProjectedAdversarial(Adversarial):
    """As `adversarial`, but the norms of the discriminator see batches of data or of samples alone.

    The generator's update, which has samples alone, then sees the same norms (Sauer et al. 2021, arXiv:2111.01007).
    """

    kind: Literal["projected_adversarial"]  # type: ignore[assignment]
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "projected_adversarial"}

    def game(self, networks: Mapping[str, Network], spec: Spec) -> Game:
        return _Apart(self.terms, self.augment, networks, spec)


@dataclass(frozen=True)
class _Apart(Game):
    """One call of the discriminator for data, one for samples."""

    def _judge(self, b: Builder, **sides: Side) -> None:
        for of, side in sides.items():
            super()._judge(b, **{of: side})
