"""pMF: improved MeanFlow with a network that predicts the image, and perceptual distances of that image.

Symbols as in `improved_mean_flow`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOfThese
from latentc.components.contract import Draw, Need, Network
from latentc.components.kit import call
from latentc.components.objectives._common import chosen
from latentc.components.objectives._reconstruction import PERCEPTUAL
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.processes.formulas import Symbolic
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var, f32
from latentc.ir.types import B
from latentc.systems.improved_mean_flow.improved_mean_flow import ImprovedMeanFlow
from latentc.systems.pmf.pixel_path import LEAST, PixelPath


class PerceptualDistance(Closed):
    """The distance of the image x_t - t u from the data, by the network `perceptual` (LPIPS)."""

    weight: float = Field(0.4, gt=0, description="weight of the distance, which is normalised as the other errors are")
    until: Fraction = Field(0.8, description="time from which on, towards the noise, there is no such distance")


class PixelMeanFlow(ImprovedMeanFlow):
    """Improved MeanFlow with a network that predicts images (arXiv:2601.22158).

    The velocity to learn is divided by the time that the network divides by: (x_t - x) / max(t, 0.05).
    """

    kind: Literal["pixel_mean_flow"]  # type: ignore[assignment]
    process: Annotated[PixelPath, OneOfThese("processes", classes=(PixelPath,))] = Field(
        PixelPath(kind="pixel_path", times="logit_normal", logit_mean=0.8, logit_std=0.8),
        description="the path from noise to data, and the distribution of both times",
    )
    uniform: Fraction = Field(0.0, description="fraction of samples whose times are uniform instead (0.1 of pMF-H)")
    perceptual: PerceptualDistance | None = Field(None, description="a perceptual distance; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "pixel_mean_flow"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        distance = (Need(PERCEPTUAL, "compare", place=("perceptual",)),) if self.perceptual else ()
        return (*super().needs(spec), *distance)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.end is not None:
            message = "both times are drawn from the distribution of `process`"
            yield Problem(("end",), message, "leave it out, or use `improved_mean_flow`")

    def time_draws(self) -> tuple[Draw, ...]:
        drawn = ("even", "u_even", "u_r_even") if self.uniform else ()
        return (*super().time_draws(), *(Draw(name, "uniform") for name in drawn))

    def times(self, b: Builder, m: Symbolic) -> tuple[Var, Var, Var]:
        u, u_r, instant, *even = (b.input(draw.name, f32(B)) for draw in self.time_draws())
        first, second = (self.process.training_time(m, draw, "flow_velocity") for draw in (u, u_r))
        if self.uniform:
            chance, *others = even
            evenly = b.less(chance, self.uniform, out="evenly")
            first, second = (b.where(evenly, o, t, out="t") for t, o in zip((first, second), others, strict=True))
        matched = b.less(instant, 1.0 - self.averaged)
        second = b.where(matched, first, second)
        return b.maximum(first, second, out="t"), b.minimum(first, second, out="r"), matched

    def state(self, b: Builder, m: Symbolic, t: Var, x0: Var, noise: Var) -> tuple[Var, Var]:
        x_t, _ = super().state(b, m, t, x0, noise)
        divisor = m.column(b.clamp(t, low=LEAST, high=1.0), "divisor")
        return x_t, b.div(b.op("sub", x_t, x0), divisor, out="v")

    def distances(
        self, b: Builder, m: Symbolic, networks: Mapping[str, Network], x0: Var, x_t: Var, t: Var, u: Var
    ) -> dict[str, tuple[float, Var]]:
        if self.perceptual is None:
            return {}
        image = weighted_sum(b, "image", (1.0, x_t), (m.column(b.neg(t), "back"), u))
        distance = call(b, networks[PERCEPTUAL], "forward", {}, state=[image, x0], out="distance")
        near = b.less(t, self.perceptual.until, out="near")
        distance = chosen(b, [near], distance, b.fill_like(distance, 0.0), "distance")
        return {"perceptual": (self.perceptual.weight, distance)}
