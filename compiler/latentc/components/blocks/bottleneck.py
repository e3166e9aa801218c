"""Base class of what stands between an encoder and a decoder."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

from pydantic import Field

from latentc.components.parts import Part
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B, TensorType, f32


class Bottleneck(Part):
    """Turns what the encoder gives into codes, and codes into what the decoder takes.

    Symbols: Z `channels`; h, w rows and columns of the latents.
    """

    channels: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")

    discrete: ClassVar[bool] = False
    """Whether codes are tokens."""

    @property
    def noise(self) -> tuple[str, str] | None:
        """Name and distribution of what codes are drawn with in training; None: they are not."""
        return None

    def noise_type(self, rows: int, columns: int) -> TensorType:
        """Its type."""
        return f32(B, self.channels, rows, columns)

    @property
    def square(self) -> int | None:
        """Side of the square of latents that it needs; None: any."""
        return None

    @property
    def encoded(self) -> int:
        """Channels it takes from the encoder, over `channels`."""
        return 1

    def static(self) -> dict[str, Any]:
        """Sizes that its emitted class is constructed with, beside `latent`."""
        return {}

    def rows(self, b: Builder, static: dict[str, Any]) -> Var:
        """The vectors f32[K, Z] that tokens stand for."""
        raise NotImplementedError(f"{type(self).__name__} has no table")

    @abstractmethod
    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """The codes of what the encoder gives."""

    @abstractmethod
    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        """What `decode` is given as f32[B, Z, h, w]."""

    @abstractmethod
    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """The likeliest latents f32[B, Z, h, w] of what the encoder gives."""

    @abstractmethod
    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        """Latents in training, through which gradients flow, and the penalty f32[B] on them."""

    @abstractmethod
    def decoded_type(self, rows: int, columns: int) -> TensorType:
        """The type of what `decode` is given."""
