"""Prediction of the tokens at one place of all regions."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from latentc.components.objectives.next_token import NextToken


class NextPlace(NextToken):
    """Cross-entropy of every token given those at the places before, in nats (PAR, Wang et al. 2024, arXiv:2412.15119).

    The first token of each region is given the first tokens of the regions before.
    """

    kind: Literal["next_place"]  # type: ignore[assignment]
    NEEDS = "next_places"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "next_place"}
