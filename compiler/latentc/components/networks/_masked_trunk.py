"""Shared by networks that encode the known tokens of an array and decode features of all of them.

Symbols: T tokens of a sample, C channels of a token, D width, R buffer tokens that hold the condition.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from latentc.components.backbone import Backbone
from latentc.components.blocks.block import Block
from latentc.components.condition import Form
from latentc.components.parts import Problem, Spec, Weights


class MaskedTrunk(Backbone):
    """An encoder and a decoder over the patches of an array, after tokens that hold the condition."""

    width: int = Field(gt=0, le=65_536, description="inner channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks in the encoder, and in the decoder")
    patch: int = Field(1, gt=0, le=1_024, description="side of the data patch that forms one token")
    buffer: int = Field(
        64, gt=0, le=65_536, description="number of buffer tokens before the sequence that hold the condition (R)"
    )
    block: Block = Field(description="block of encoder and decoder")
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    FRONTS: ClassVar[bool] = False
    """Whether tokens in front may have weights of their own."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None, fronts=self.FRONTS)
        if not self.takes(spec):
            yield Problem((), f"a {self.kind} needs a condition", "add `conditioning.class: {kind: label}`")
        yield from self.problems_of_conditions(spec)

    def problems_of_decoder(self, width: int, heads: int) -> Iterator[Problem]:
        """Problems of a decoder whose blocks have a width and a number of heads of their own; places relative to it."""
        if width % heads:
            yield Problem(("heads",), f"{heads} heads do not divide the width of {width}", "change `width` or `heads`")
        mixer = self.block.parts()[0]
        if set(mixer.static(width)) != {"heads"}:
            message = (
                f"the decoder has its own number of heads, which `{mixer.kind}` does not support with these options"
            )
            yield Problem((), message, "use `{kind: attention}`, or leave the decoder out")

    def token_features(self, spec: Spec) -> tuple[int, int] | None:
        return self.tokens(spec)[1], self.width

    def tokens(self, spec: Spec) -> tuple[int, int]:
        """(T, C)."""
        assert spec.data.shape is not None
        channels, height, width = spec.data.shape
        return (height // self.patch) * (width // self.patch), channels * self.patch**2
