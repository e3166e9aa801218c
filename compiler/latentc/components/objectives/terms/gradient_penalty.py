"""Penalties on the gradient of the score by the image."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw
from latentc.components.kit import state_gradient
from latentc.components.objectives.terms._term import Round, Term, mean
from latentc.ir.builder import Var, f32
from latentc.ir.types import B

TINY = 1e-12  # under the square root, whose derivative at 0 is infinite


class GradientPenalty(Term):
    """(|gradient of the score by the image| - target)^2, averaged over images, in the discriminator's loss.

    WGAN-GP (Gulrajani et al. 2017, arXiv:1704.00028): the defaults. R1 and R2 (Mescheder et al. 2018,
    arXiv:1801.04406): `target: 0` with `at: real` or `at: fake`, and a weight of gamma / 2.
    """

    kind: Literal["gradient_penalty"]
    weight: float = Field(10.0, gt=0, description="weight of the term")
    at: Literal["interpolated", "real", "fake"] = Field(
        "interpolated", description="points of evaluation: uniformly between data and samples, data, or samples"
    )
    target: float = Field(1.0, ge=0, description="target norm of the gradients")
    every: int = Field(
        1,
        gt=0,
        le=1_000_000,
        description="steps between penalties, each an update of its own, with a weight as many times as large "
        "(StyleGAN2's lazy regularisation, Karras et al. 2020: 16); 1: part of every update",
    )
    DIFFERENTIATES: ClassVar[bool] = True
    REACHES_GENERATOR: ClassVar[bool] = False
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "gradient_penalty"}

    @property
    def reads_samples(self) -> bool:
        return self.at != "real"

    @property
    def interval(self) -> int:
        return self.every

    def of_discriminator(self, round: Round) -> Var | None:
        b = round.b
        gradient = state_gradient(b, round.discriminator, *self._place(round), out="score gradient")
        axes = tuple(range(1, gradient.type.rank))
        squared = b.sum(gradient * gradient, axes=axes, keepdims=False, out="squared_norm")
        if self.target == 0:
            return mean(b, squared, self.kind)
        excess = b.op("sub", b.sqrt(squared + TINY), self.target, out="excess")
        return mean(b, excess * excess, self.kind)

    def _place(self, round: Round) -> tuple[Any, Var]:
        """Conditions of the discriminator, and the images."""
        assert round.real is not None
        b, real, fake = round.b, round.real, round.fake
        if self.at != "interpolated":
            side = real if self.at == "real" else fake
            return side.conditions, side.images
        mix = round.draw(Draw("mix", "uniform"), f32(B))
        mix = b.reshape(mix, shape=(mix.shape[0], *(1 for _ in real.images.shape[1:])), out="mix")
        between = b.add(real.images, mix * (fake.images - real.images), out="between")
        return real.conditions, between
