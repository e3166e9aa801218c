"""How images are changed anew each time that training reads them, as for classifiers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from latentc.components import Closed
from latentc.components.parts import Fraction


class RandAugment(Closed):
    """RandAugment (Cubuk et al. 2019, arXiv:1909.13719) with timm's operations that grow with the magnitude."""

    operations: int = Field(2, gt=0, le=100, description="operations per image, drawn from 15")
    magnitude: float = Field(9.0, ge=0, le=10, description="mean magnitude, of 10")
    deviation: float = Field(0.5, ge=0, le=10, description="standard deviation of the magnitude")
    probability: Fraction = Field(0.5, description="probability that an operation is applied")


class Views(Closed):
    """Random crops, operations and mixtures. A first stage encodes the images in every step, without a cache."""

    crop: tuple[Fraction, Fraction] | None = Field(
        None,
        description="share of an image's area that a random crop has, with an aspect ratio of 3/4 to 4/3, such as "
        "[0.2, 1.0]; null: the centre square",
    )
    fit: Literal["redrawn", "clamped"] = Field(
        "redrawn", description="crops larger than the image are drawn again (timm), or cut off at its borders (MAE)"
    )
    rand_augment: RandAugment | None = Field(None, description="random operations on each image; null: none")
    mixup: float = Field(
        0.0,
        ge=0,
        le=100,
        description="parameter of the beta distribution of the shares in sums of two images of a batch and of their "
        "labels; 0: none",
    )
    cutmix: float = Field(
        0.0,
        ge=0,
        le=100,
        description="the same for images that contain a rectangle of another; with `mixup` each has probability 1/2; "
        "0: none",
    )

    @property
    def mixes(self) -> bool:
        """Whether images and labels are mixed."""
        return self.mixup > 0 or self.cutmix > 0


__all__ = ["RandAugment", "Views"]
