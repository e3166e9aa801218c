"""Base class of rewards."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from latentc.components.parts import Part


class Reward(Part):
    """A score of samples, higher for better ones; the rewards of an objective are added up."""

    weight: float = Field(1.0, description="weight of the reward")

    def settings(self) -> dict[str, Any]:
        """Its entry in the config.yaml of a training project."""
        return self.model_dump(mode="json")
