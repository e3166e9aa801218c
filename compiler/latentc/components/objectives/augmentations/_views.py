"""Augmented images of an adversarial loss: their random inputs, and the parameters that a discriminator predicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from latentc.components.contract import Draw
from latentc.components.objectives.augmentations._augmentation import Augmentation
from latentc.components.objectives.terms._term import Side
from latentc.ir.builder import Builder
from latentc.ir.types import B, f32, i64


def drawn_for(augment: Sequence[Augmentation], shape: Sequence[int], of: str) -> tuple[Draw, ...]:
    """The random inputs `NAME_of_OF` of augmentations of images of this shape [C, H, W]."""
    draws = (draw for augmentation in augment for draw in augmentation.draws(*shape[1:]))
    return tuple(replace(draw, name=f"{draw.name}_of_{of}") for draw in draws)


def augment_side(b: Builder, augment: Sequence[Augmentation], side: Side, of: str) -> None:
    """Augments the images of a side, adding the random inputs; keeps the original ones, and the parameters [B, P]."""
    shape = [int(d) for d in side.images.shape[1:]]
    side.original = side.images
    for augmentation in augment:
        draws = augmentation.draws(*shape[1:])
        types = {draw.name: i64(B) if draw.distribution == "integers" else f32(B) for draw in draws}
        given = {name: b.input(f"{name}_of_{of}", type) for name, type in types.items()}
        columns = [b.reshape(x, shape=(x.shape[0], 1)) for x in augmentation.scaled(b, side.images, given)]
        side.parameters[augmentation.kind] = b.concat(*columns, axis=1, out=f"{augmentation.kind}_of_{of}")
        side.images = augmentation.changed(b, side.images, given)


__all__ = ["augment_side", "drawn_for"]
