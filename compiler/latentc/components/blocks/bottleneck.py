"""Base class of what stands between an encoder and a decoder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from latentc.components.contract import Port
from latentc.components.parts import Part, Problem, Refusal
from latentc.ir.builder import Builder, Var
from latentc.ir.types import B, TensorType, f32


class Bottleneck(Part):
    """Turns what the encoder gives into codes, and codes into what the decoder takes.

    Symbols: Z `channels`; h, w rows and columns of the latents.
    """

    channels: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")

    discrete: ClassVar[bool] = False
    """Whether codes are tokens."""
    OWN_LOGITS: ClassVar[bool] = False
    """Whether a layer of its own gives the logits of tokens."""
    ANY_RANK: ClassVar[bool] = False
    """Whether latents f32[B, Z, ...] may have any axes after the channels, not only rows and columns."""

    def noise_ports(self, rows: int, columns: int) -> tuple[Port, ...]:
        """The noise with which training draws codes of latents [Z, rows, columns]: one input, or none."""
        return ()

    @property
    def square(self) -> int | None:
        """Side of the square of latents that it needs; None: any."""
        return None

    @property
    def encoded(self) -> int:
        """Channels it takes from the encoder, over `channels`."""
        return 1

    @property
    def coded(self) -> int:
        """Channels of codes that are no tokens, over `channels`."""
        return self.encoded

    def static(self) -> dict[str, Any]:
        """Sizes that its emitted class is constructed with, beside `latent`."""
        return {}

    def sizes(self) -> dict[str, Any]:
        """Sizes for name maps, beside its arguments."""
        return {"own_logits": int(self.OWN_LOGITS), "signs": 0}

    @property
    def vocabulary(self) -> int | None:
        """How many different tokens there are; None: codes are latents."""
        return self.static()["codes"] if self.discrete else None

    def code_type(self, rows: int, columns: int) -> TensorType:
        """The type of what `codes` returns."""
        if self.discrete:
            return self.decoded_type(rows, columns)
        return f32(B, self.coded * self.channels, rows, columns)

    @abstractmethod
    def codes(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """The codes of what the encoder gives."""

    @abstractmethod
    def latents(self, b: Builder, codes: Var, static: dict[str, Any]) -> Var:
        """The input f32[B, Z, h, w] of `decode`."""

    @abstractmethod
    def mode(self, b: Builder, h: Var, static: dict[str, Any]) -> Var:
        """The likeliest latents f32[B, Z, h, w] of what the encoder gives."""

    @abstractmethod
    def regularized(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any]) -> tuple[Var, Var]:
        """Latents in training, through which gradients flow, and the penalty f32[B] on them."""

    def annealed(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], factor: Var) -> tuple[Var, Var]:
        """As `regularized`, with the entropies in the penalty times `factor` f32[]. Refusal: the penalty has none."""
        message = "the objective's `entropy_boost` scales the entropy terms of the bottleneck, but this one has none"
        raise Refusal(message, "set `entropy`, or leave `entropy_boost` out", ("bottleneck",))

    @property
    def uses_step(self) -> bool:
        """True if latents in training depend on the training step; see `at_step`."""
        return False

    def at_step(self, b: Builder, h: Var, noise: Var | None, static: dict[str, Any], step: Var) -> tuple[Var, Var]:
        """As `regularized`, in the given step of training, i64[], counted from 0."""
        return self.regularized(b, h, noise, static)

    @abstractmethod
    def decoded_type(self, rows: int, columns: int) -> TensorType:
        """The type of what `decode` is given."""


class TableBottleneck(Bottleneck):
    """A bottleneck whose latents are rows of a table."""

    @property
    def numbered(self) -> bool:
        """Whether tokens, if codes are tokens, are the numbers of the rows."""
        return True

    @abstractmethod
    def table(self, b: Builder, static: dict[str, Any]) -> Var:
        """The rows f32[K, Z]; a token, if codes are tokens, is the number of one."""


class SelectedRows(TableBottleneck):
    """A table of which some rows are tokens."""

    used: tuple[Annotated[int, Field(ge=0, lt=16_777_216)], ...] | None = Field(
        None,
        min_length=2,
        max_length=1_048_576,
        description="codebook rows that tokens stand for, in order; null: all (VQ-Diffusion, Gu et al. 2021, "
        "arXiv:2111.14822, and `remap` of taming transformers)",
    )
    unknown: int = Field(
        0,
        ge=0,
        le=1_048_575,
        description="with `used`: the token for all other rows, which the encoder may also choose",
    )

    @property
    def numbered(self) -> bool:
        return self.used is None

    @property
    def vocabulary(self) -> int | None:
        return super().vocabulary if self.used is None else len(self.used)

    def problems_of_rows(self) -> Iterator[Problem]:
        """Problems of the rows that are used."""
        size, used = self.static()["codes"], self.used
        if used is None:
            return
        for i, row in enumerate(used):
            if not 0 <= row < size:
                yield Problem(("used", i), f"row {row} is out of range: the codebook has rows 0 to {size - 1}")
        if len(set(used)) < len(used):
            yield Problem(("used",), "a row is listed twice, so it would have two tokens", "leave out one of them")
        if self.unknown >= len(used):
            yield Problem(("unknown",), f"token {self.unknown} is out of range: there are tokens 0 to {len(used) - 1}")

    def tokens_of(self, b: Builder, index: Var) -> Var:
        """Tokens i64[...] of the numbers of rows i64[...]."""
        if self.used is None:
            return index
        tokens = np.full(self.static()["codes"], self.unknown, np.int64)
        tokens[list(self.used)] = np.arange(len(self.used))
        return b.take(b.constant(tokens, out="tokens_of_rows"), index, axis=0, out="index")

    def rows_of(self, b: Builder, tokens: Var) -> Var:
        """The numbers of rows i64[...] of tokens i64[...]."""
        if self.used is None:
            return tokens
        return b.take(b.constant(list(self.used), "i64", out="used"), tokens, axis=0, out="index")
