"""The probability of augmentations, which training adjusts.

Symbols: B batch.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class AugmentationProbability(Backbone):
    """The probability with which each augmentation is applied to an image (ADA, Karras et al. 2020, arXiv:2006.06676).

    A state that checkpoints keep; it starts at 0. If the mean sign of the discriminator's scores of data is above
    `target`, each image raises it by 1 / `images`, otherwise lowers it.
    """

    kind: Literal["augmentation_probability"]
    target: float = Field(0.6, ge=-1, le=1, description="mean sign of the scores of data that is aimed at")
    images: float = Field(
        500_000.0, ge=1, le=1e12, description="images, of each process, over which it may rise from 0 to 1"
    )
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it reads scores")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"adapt_augmentation"})
    TRAINING_ONLY: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "augmentation_probability", "images": 1000.0}

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        static = {"target": self.target, "images": self.images}
        forward = add_method(mb, name, "forward", _moved(), (Port("score", f32(B, 1), "state"),), static)
        current = add_method(mb, name, "current", _current(), (), static)
        return Network(name, {"forward": forward, "current": current}, self.PROVIDES)


def _kept(b: Builder) -> Var:
    return b.param("probability", f32(1), "zeros", "state")


@cache
def _moved() -> BlockBody:
    @module_class("AugmentationProbability")
    def forward(b: Builder, score: Var, *, target: float, images: float) -> Var:
        """The probability [1], which training then moves by the signs of scores [B, 1] of data."""
        kept = _kept(b)
        sign = b.op("sub", b.cast(b.greater(score, 0.0), to="f32"), b.cast(b.less(score, 0.0), to="f32"), out="sign")
        excess = b.op("sub", b.mean(sign, axes=(0,), keepdims=False), target, out="excess")
        up, down = (b.cast(x, to="f32") for x in (b.greater(excess, 0.0), b.less(excess, 0.0)))
        count = b.sum(b.fill_like(score, 1.0), axes=(0,), keepdims=False, out="count")
        moved = b.add(kept, b.op("sub", up, down) * count * (1 / images), out="moved")
        return b.running_mean(b.clamp(moved, low=0.0, high=1.0), kept, momentum=0.0, out="probability")

    return forward


@cache
def _current() -> BlockBody:
    @module_class("AugmentationProbability", "current")
    def current(b: Builder, *, target: float, images: float) -> Var:
        """The probability [1]."""
        return b.mul(_kept(b), 1.0, out="probability")

    return current
