"""Shared by encoders of images: what they read, how images are prepared, and what they provide."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.capabilities import Capability
from latentc.components.kit.bicubic import scaled_image
from latentc.components.layers import STATISTICS, normalised
from latentc.components.parts import Problem, Spec, a_divisor
from latentc.components.read_fields import IMAGES, images_of
from latentc.ir.builder import Builder, Var


class ImageEncoder(Backbone):
    """Encodes square images f32[B, C, H, H]."""

    reads: str | None = Field(
        None,
        description="data field that it encodes, or `images`: those that the first stage encodes; null: the samples",
    )
    image: int | None = Field(
        None, gt=0, le=65_536, description="side that images are scaled to first, in pixels; null: they are as they are"
    )
    scaling: Literal["bicubic", "antialiased"] = Field(
        "bicubic",
        description="how `image` scales: bicubic between four pixels (RCG), or averaging more of them if the image "
        "becomes smaller (CLIP)",
    )
    normalise: Literal["imagenet", "clip"] | None = Field(
        None,
        description="images from -1 to 1 are first given the mean and deviation that pretrained weights expect, "
        "ImageNet's or CLIP's; null: they are as they are",
    )
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        """It sees samples unless it reads another field."""
        return self.PROVIDES if self.reads is None else self.PROVIDES - {"see"}

    def problems_of_images(self, spec: Spec, tile: int, tiled: tuple[str | int, ...]) -> Iterator[Problem]:
        """Problems of the images that it reads, whose side must be a multiple of `tile`, the field at `tiled`."""
        if self.reads is not None and self.reads not in spec.data.fields and not (self._stage and images_of(spec)):
            known, what = ", ".join(spec.data.fields) or "none", f"the data has no field `{self.reads}`"
            what = "the data has no images for a first stage to encode" if self._stage else what
            yield Problem(("reads",), what, f"fields of the data: {known}")
            return
        shape = self.shape_read(spec)
        if shape[1] != shape[2] or not shape[1]:
            what = spec.data.words if self.reads is None else f"others in `{self.reads}`"
            yield Problem(("reads",), f"a {self.kind} takes square images [C, H, H], but the data has {what}")
        elif self.side(shape[1]) % tile:
            side = self.side(shape[1])
            mend = f"use a multiple of {tile}" if tiled == ("image",) else a_divisor(side)
            yield Problem(tiled, f"patches of {tile} do not tile a side of {side}", mend)
        if self.normalise is not None and shape[0] not in (0, 3):
            message = f"`{self.normalise}` normalises 3 channels, but these images have {shape[0]}"
            yield Problem(("normalise",), message, "leave `normalise` out")

    @property
    def _stage(self) -> bool:
        """Whether it may read the images of the first stage."""
        return self.reads == IMAGES

    def shape_read(self, spec: Spec) -> tuple[int, int, int]:
        """Channels, rows and columns; zeros of what is no image, which `problems_of_images` refuses."""
        field = spec.data.fields.get(self.reads or "x")
        shape = field.shape if field is not None else images_of(spec) if self._stage else ()
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (0, 0, 0)

    def side(self, size: int) -> int:
        """Side of the images that it sees, in pixels, of images of side `size`."""
        return size if self.image is None else self.image

    def prepared(self, b: Builder, x: Var, size: int) -> Var:
        """Images x normalised and scaled to the side `size`."""
        x = x if self.normalise is None else normalised(b, x, *STATISTICS[self.normalise])
        return x if self.image is None else scaled_image(b, x, size, self.scaling)
