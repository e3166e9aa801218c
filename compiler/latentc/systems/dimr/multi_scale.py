"""The error of predictions at lower resolutions.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Need
from latentc.components.kit import per_sample_mean
from latentc.components.objective import Objective
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, Var
from latentc.systems.dimr.multi_resolution import MultiResolution


class MultiScale(DenoisingTerm):
    """Mean squared errors at the resolutions of a network's other outputs (DiMR, Liu et al. 2024, arXiv:2406.09416).

    The target is averaged over r by r pixels and multiplied by r, which preserves the noise variance.
    """

    kind: Literal["multi_scale"]
    weight: float = Field(1.0, gt=0, description="weight of the term")
    scales: tuple[float, ...] = Field(
        (0.25,), min_length=1, max_length=8, description="weight of each lower resolution, from coarse to fine"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "multi_scale"}

    def needs(self) -> tuple[Need, ...]:
        return (Need("main", "denoise", ("coarse",)),)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        main = spec.networks.get("main")
        branches = main.branches if isinstance(main, MultiResolution) else ()
        if branches and len(branches) - 1 != len(self.scales):
            message = f"{len(self.scales)} factors, but the network has {len(branches) - 1} lower resolutions"
            yield Problem(("scales",), message, "give one for each, from coarse to fine")
        if isinstance(spec.objective, Objective) and spec.objective.out_channels(1) != 1:
            message = "lower resolutions are compared with the target alone, and the network also predicts a variance"
            yield Problem((), message, "use a fixed `objective.variance`")

    def value(self, denoised: Denoised) -> Var:
        b, target = denoised.b, denoised.at.truth
        errors = []
        for factor, coarse in zip(self.scales, denoised.features, strict=True):
            error = b.op("sub", coarse, _shrunk(b, target, int(target.shape[-1]) // int(coarse.shape[-1])), out="error")
            errors.append((factor, per_sample_mean(b, error * error, out="mse")))
        return weighted_sum(b, "multi_scale", *errors)


def _shrunk(b: Builder, target: Var, ratio: int) -> Var:
    return b.op("mul", b.avg_pool(target, size=ratio), float(ratio), out="coarse_target")
