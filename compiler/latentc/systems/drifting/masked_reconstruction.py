"""Training of the network whose features drifting models compare: it fills in hidden patches.

Symbols: B batch, C channels, H rows, W columns, P patch side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.contract import Draw, Network, Update
from latentc.components.kit import call
from latentc.components.objective import Objective
from latentc.components.objectives._common import publish, step_of
from latentc.components.parts import Fraction, Problem, Spec
from latentc.components.sums import weighted_sum
from latentc.ir.builder import Builder, ModuleBuilder, Var, f32, i64

TINY = 1e-8


class MaskedReconstruction(Objective):
    """Mean squared error of hidden patches, and in the end also the cross-entropy of the class (Deng et al. 2026,
    arXiv:2602.04770).
    """

    kind: Literal["masked_reconstruction"]
    patch: int = Field(2, gt=0, le=1_024, description="side of a patch that is hidden as a whole (P)")
    hidden: tuple[Fraction, Fraction] = Field(
        (0.5, 0.5), description="least and largest probability, drawn per sample, that a patch is hidden"
    )
    classification: Fraction = Field(
        0.1, description="weight of the cross-entropy; the error of patches has one minus it"
    )
    last: int | None = Field(
        None, gt=0, le=1_000_000_000, description="only so many last steps of training have a cross-entropy; null: all"
    )
    rise: int = Field(
        1000, gt=0, le=1_000_000_000, description="steps over which its weight rises from 0, if there is a `last`"
    )
    NEEDS: ClassVar[Any] = "fill_in"
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "masked_reconstruction"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if not spec.data.classes:
            yield Problem((), "the network classifies, but the data has no classes", "set `data.classes`")
        if any(side % self.patch for side in (spec.data.shape or ())[1:]):
            message = f"patches of {self.patch} do not tile {list((spec.data.shape or ())[1:])}"
            yield Problem(("patch",), message, "use a divisor of both sides")
        if self.hidden[0] > self.hidden[1]:
            yield Problem(("hidden",), "the range is empty", "give [low, high] with low <= high")

    def build(self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> tuple[Update, ...]:
        network, b = networks["main"], mb.function("loss.terms")
        of = network.methods["forward"].input("state").type
        assert spec.data.shape is not None
        batch, (_, rows, columns) = of.shape[0], spec.data.shape
        grid = (rows // self.patch, columns // self.patch)
        x, y = b.input("x", of), b.input("y", i64(batch))
        share, chance = b.input("share", f32(batch)), b.input("chance", f32(batch, *grid))
        hidden = self._mask(b, share, chance, grid)
        filled, logits = call(b, network, "forward", {}, state=x * (1.0 - hidden), out="filled logits")
        error = b.op("sub", filled, x, out="error")
        squares = b.sum(error * error * hidden, axes=(1, 2, 3), keepdims=False)
        count = b.sum(hidden, axes=(1, 2, 3), keepdims=False)
        mse = b.div(squares, count + TINY, out="mse")
        cross = b.cross_entropy(logits, y, out="cross_entropy")
        weight = self._weight(b, spec.train.steps)
        rest = b.op("sub", 1.0, weight) if isinstance(weight, Var) else 1.0 - weight
        b.output(weighted_sum(b, "loss", (weight, cross), (rest, mse)), mse, cross)
        b.finish("The weighted error, that of hidden patches, and the cross-entropy, one value per sample each.")
        draws = (Draw("share", "uniform"), Draw("chance", "uniform"))
        return publish(mb, ("loss", "mse", "cross_entropy"), ("x", "y"), draws, self.trained(spec))

    def _mask(self, b: Builder, share: Var, chance: Var, grid: tuple[int, int]) -> Var:
        """f32[B, 1, H, W]: 1 where a patch is hidden."""
        low, high = self.hidden
        batch, (rows, columns), side = share.shape[0], grid, self.patch
        share = b.reshape(share * (high - low) + low, shape=(batch, 1, 1), out="share")
        mask = b.cast(b.less(chance, share), to="f32")
        mask = b.broadcast_to(
            b.reshape(mask, shape=(batch, rows, 1, columns, 1)), shape=(batch, rows, side, columns, side)
        )
        return b.reshape(mask, shape=(batch, 1, rows * side, columns * side), out="hidden")

    def _weight(self, b: Builder, steps: int) -> Var | float:
        """The weight of the cross-entropy: a number, or f32[]."""
        if self.last is None:
            return self.classification
        since = b.cast(step_of(b), to="f32") - float(steps - self.last)
        return b.mul(b.clamp(since * (1 / self.rise), low=0.0, high=1.0), self.classification, out="weight")
