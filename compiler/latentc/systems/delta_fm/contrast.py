"""The contrast of contrastive flow matching.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Need
from latentc.components.kit import call, per_sample_mean, training_method
from latentc.components.objectives.denoising_terms._term import Denoised, DenoisingTerm
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import Var, f32
from latentc.ir.types import B


class Contrast(DenoisingTerm):
    """Pushes predictions away from the target of another sample of the batch (Stoica et al. 2025, arXiv:2506.05350).

    The loss is |prediction - target|^2 - weight |prediction - target of the other|^2, as means over the dimensions.
    """

    kind: Literal["contrast"]
    weight: float = Field(0.05, gt=0, lt=1, description="factor of the subtracted squared distance")
    conditional_only: bool = Field(
        False, description="use only samples that keep their conditions, with their terms scaled up to the whole batch"
    )
    mean: str | None = Field(
        None,
        description="one of `networks`, of kind `constant`, trained to predict the mean target, for guidance by "
        "`interference`; null: none",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "contrast"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.train.batch_size < 2:
            yield Problem((), "a contrast needs another sample in the batch", "set `train.batch_size` to 2 or more")

    @property
    def trains(self) -> tuple[str, ...]:
        return () if self.mean is None else (self.mean,)

    def needs(self) -> tuple[Need, ...]:
        return () if self.mean is None else (Need(self.mean, "denoise", place=("mean",)),)

    def draws(self) -> tuple[Draw, ...]:
        return (Draw("other", "uniform"),)

    def value(self, denoised: Denoised) -> Var:
        b, u = denoised.b, denoised.input("other", f32(B))
        one = b.fill_like(u, 1.0)
        place = b.op("sub", b.cumsum(one, axis=0), 1.0, out="place")
        others = b.op("sub", b.sum(one, axes=(0,), keepdims=True), 1.0, out="others")
        # One of the other samples: indices from the sample's own on are shifted by one.
        drawn = b.floor(u * others, out="drawn")
        index = b.cast(b.where(b.less(drawn, place), drawn, drawn + 1.0), to="i64", out="index")
        other = b.take(denoised.at.truth, index, axis=0, out="other_target")
        error = b.op("sub", denoised.estimate, other, out="error")
        distance = per_sample_mean(b, error * error, out="distance")
        if self.conditional_only:
            for gone in denoised.dropped:
                kept = b.where(gone, b.scalar(0.0, u), one, out="kept")
                share = b.mean(kept, axes=(0,), keepdims=True, out="share")
                distance = b.op("mul", distance, kept / b.maximum(share, 1e-6), out="distance")
        if self.mean is None:
            return b.neg(distance, out="contrast")
        mean, target = denoised.networks[self.mean], denoised.at.truth
        guess = call(b, mean, training_method(mean), {}, state=target, time=denoised.at.network_time, out="mean")
        error = b.op("sub", guess, target, out="error")
        return b.op("sub", per_sample_mean(b, error * error, out="mean_error"), distance, out="contrast")
