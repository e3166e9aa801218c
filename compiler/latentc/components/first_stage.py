"""The first stage of a data set: an autoencoder with a spec of its own, which turns images into latents or tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from latentc.components import Closed
from latentc.ir.types import TensorType

FIRST_STAGE = "first_stage"
"""Name of its network in programs, weights files and projects."""


Factor = Annotated[float, Field(gt=0)]


class FirstStage(Closed):
    """An autoencoder: training reads the codes of images, and the samples of programs are decoded."""

    spec: str = Field(description="the autoencoder: a shipped spec (`sd_vae`), or a path relative to this file")
    variant: str | None = Field(None, description="variant of that spec")
    weights: str | None = Field(None, description="its weights: a file or folder; null: samples stay latents or tokens")
    names: str | None = Field(None, description="name map of that spec for the weights; null: latentc's own names")
    key: str | None = Field(None, description="state dict to use from a checkpoint (`ema`); null: the one that fits")
    shift: float | tuple[float, ...] = Field(
        0.0, description="subtracted from latents before `scale` (FLUX: 0.1159); a list: per channel"
    )
    scale: Factor | tuple[Factor, ...] = Field(
        1.0, description="factor that scales latents to about unit variance; a list: per channel"
    )

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Shift and scale, of each channel or one for all."""
        one = lambda value: value if isinstance(value, tuple) else (value,)  # noqa: E731
        return one(self.shift), one(self.scale)


@dataclass(frozen=True)
class Codes:
    """Input of an autoencoder's `decode`: its type, the size of its vocabulary, pixels per code along a side.

    `factor` is None if codes have no places in an image, whose size is then that of the autoencoder's own spec.
    """

    type: TensorType
    values: int | None
    factor: int | None
