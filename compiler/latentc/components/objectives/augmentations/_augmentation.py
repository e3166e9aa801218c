"""Augmentations of all images that a discriminator sees, through which gradients pass (DiffAugment).

Zhao et al. 2020, arXiv:2006.10738. Symbols: B batch, P parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from latentc.components.contract import Draw
from latentc.components.objectives.terms._term import Side
from latentc.components.parts import Part, Problem, Spec
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B, f32, i64


class Augmentation(Part):
    """A random change of images f32[B, C, H, W], by parameters drawn per image."""

    PARAMETERS: ClassVar[tuple[str, ...]]
    """Names of its random inputs, one value per image each."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"`{self.kind}` changes images [C, H, W], but the data has {spec.data.words}")

    @abstractmethod
    def draws(self, height: int, width: int) -> tuple[Draw, ...]:
        """How its parameters are drawn, for images of this size."""

    @abstractmethod
    def changed(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> Var:
        """Images x changed by parameters f32[B] or i64[B]."""

    @abstractmethod
    def scaled(self, b: Builder, x: Var, drawn: Mapping[str, Var]) -> tuple[Var, ...]:
        """The parameters on a scale from 0 to 1, f32[B] each, as a discriminator predicts them."""


def column(b: Builder, value: Var, rank: int) -> Var:
    """f32[B] as [B, 1, …] of this rank."""
    return b.reshape(value, shape=(value.shape[0], *(1,) * (rank - 1)))


def one_hot(b: Builder, at: Var, size: int) -> Var:
    """f32[..., size] of indices i64[..., 1]: 1 at the index, 0 elsewhere and of indices outside."""
    return b.cast(b.equal(at, b.arange(size)), to="f32")


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
