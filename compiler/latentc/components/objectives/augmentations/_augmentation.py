"""Base class of augmentations that gradients pass, of all images that a discriminator sees (DiffAugment).

Zhao et al. 2020, arXiv:2006.10738. Symbols: B batch, P parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar

from latentc.components.contract import Draw
from latentc.components.parts import Part, Problem
from latentc.ir.builder import Builder, Var

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


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
    return b.reshape(value, shape=(value.shape[0], *(1,) * (rank - 1)))  # type: ignore[no-any-return]


def one_hot(b: Builder, at: Var, size: int) -> Var:
    """f32[..., size] of indices i64[..., 1]: 1 at the index, 0 elsewhere and of indices outside."""
    return b.cast(b.equal(at, b.arange(size)), to="f32")  # type: ignore[no-any-return]


__all__ = ["Augmentation", "column", "one_hot"]
