"""Dormand and Prince's method with a last step of reverse diffusion, as score SDEs sample by the probability flow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.parts import Problem, Spec
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import parameterization_of
from latentc.components.samplers.dopri5 import Dopri5
from latentc.components.samplers.table import Table
from latentc.systems.score_sde.reverse_diffusion import denoising


class DenoisedDopri5(Dopri5):
    """`dopri5`, then a step of reverse diffusion without noise (Song et al. 2021, arXiv:2011.13456)."""

    kind: Literal["denoised_dopri5"]  # type: ignore[assignment]
    denoise: int = Field(
        1000, gt=1, le=100_000, description="final noiseless step of reverse diffusion, as one of this many"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**Dopri5.EXAMPLE, "kind": "denoised_dopri5"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        found = list(super().problems(spec))
        yield from found
        target = parameterization_of(spec.objective)
        if found or target is None:
            return
        try:
            self.last_step(target)
        except ValueError as error:  # the score is infinite where a path has reached the data
            message = f"a last step of reverse diffusion takes the score at the end of the interval: {error}"
            yield Problem(("kind",), message, "use `dopri5`, or end before the data (`eps`)")

    def last_step(self, target: Parameterization) -> Table:
        return denoising(target, self.interval(target).stop, self.denoise)
