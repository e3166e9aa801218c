"""EDM2's loss: the squared error over a learned variance per noise level.

Symbols: B batch; u the log-variance of the error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need, Network, Update
from latentc.components.kit import call
from latentc.components.objective import not_frozen
from latentc.components.objectives.diffusion import Diffusion
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import ModuleBuilder


class UncertainDiffusion(Diffusion):
    """`diffusion` with the loss mse / exp(u) + u of Karras et al. 2024 (arXiv:2312.02696), u from a network."""

    kind: Literal["uncertain_diffusion"]  # type: ignore[assignment]
    uncertainty: str = Field("uncertainty", description="network that estimates the error's log-variance u")
    EXAMPLE: ClassVar[dict[str, Any]] = {**Diffusion.EXAMPLE, "kind": "uncertain_diffusion"}

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        return *super().needs(spec), Need(self.uncertainty, "uncertainty", place=("uncertainty",))

    def trained(self, spec: Spec) -> tuple[str, ...]:
        return *super().trained(spec), *not_frozen(spec, self.uncertainty)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.learns_variance:
            message = "the hybrid loss of a learned variance cannot be weighted by estimated uncertainty"
            yield Problem(("variance",), message, "choose another `variance`, or use `diffusion`")

    def says(self) -> str:
        return "The mean squared error over the estimated variance, plus its logarithm, one value per sample."

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        denoised = self.denoised(mb.function("loss.terms"), networks, spec)
        b, at = denoised.b, denoised.at
        mse = self.loss(at, denoised.prediction)["loss"]
        u = call(b, networks[self.uncertainty], "forward", {}, time=at.network_time, out="u")
        return self.published(mb, denoised, {"loss": b.add(mse * b.exp(-u), u, out="loss"), "mse": mse}, spec)
