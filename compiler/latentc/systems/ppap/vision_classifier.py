"""A vision transformer that classifies images by a class token: DeiT.

Symbols: B batch, C channels, D width, T tokens of a square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.layers import MEAN, standardised
from latentc.components.networks.staged_classifier import StagedClassifier
from latentc.components.parts import Positions, Problem, Spec
from latentc.ir.builder import Builder, Var, f32


class VisionClassifier(StagedClassifier):
    """A staged_classifier of one stage that reads out a learned class token (DeiT, Touvron et al. 2020,
    arXiv:2012.12877)."""

    kind: Literal["vision_classifier"]  # type: ignore[assignment]
    image: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size to which images are first resized, bilinearly; null: not resized",
    )
    normalise: bool = Field(
        False,
        description="first convert x from [-1, 1] to ImageNet's mean and standard deviation, as pretrained "
        "weights expect",
    )
    IMAGE: ClassVar[str] = "B channels H W"
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **StagedClassifier.EXAMPLE,
        "kind": "vision_classifier",
        "multipliers": [1],
        "depths": [1],
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        channels = spec.data.shape[0] if spec.data.shape else len(MEAN)
        if self.normalise and channels != len(MEAN):
            message = f"ImageNet's mean has {len(MEAN)} channels, but the data has {channels}"
            yield Problem(("normalise",), message, "leave `normalise` out")
        placed = self.positions if isinstance(self.positions, Positions) else None
        if self.stages > 1 or self.block.parts()[0].spatial or (placed is not None and placed.GRIDDED):
            message = "a class token has no place in the square that later stages, the mixer or the positions need"
            mend = "use one stage, `{kind: attention}` and `positions: {kind: learned}`, or a `staged_classifier`"
            yield Problem((), message, mend)

    def side(self, size: int) -> int:
        return size if self.image is None else self.image

    def prepared(self, b: Builder, x: Var, size: Any) -> Var:
        x = standardised(b, x) if self.normalise else x
        return x if self.image is None else b.resize(x, size=(size, size), mode="bilinear", out="x")

    def embedded(self, b: Builder, x: Var, grid: Any) -> Var:
        batch, _, width = x.shape
        token = b.param("cls_token", f32(1, 1, width), "normal", std=0.02)
        x = b.concat(b.broadcast_to(token, x, shape=(batch, 1, width), out="token"), x, axis=1, out="x")
        return self.placed(b, x, grid)

    def pooled(self, b: Builder, x: Var) -> Var:
        return b.reshape(b.slice(x, axis=1, start=0, stop=1), shape=(x.shape[0], x.shape[2]), out="x")
