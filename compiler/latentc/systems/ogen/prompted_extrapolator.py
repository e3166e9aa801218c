"""Class names as texts with learned context tokens, through a frozen text transformer.

Symbols: K known classes, M new ones, L tokens of a text, N tokens of the context, E width of a token, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.blocks.block import Block
from latentc.components.decoding import BlockForm
from latentc.components.parts import Positions, Problem, Spec
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.systems.ogen.class_extrapolator import ClassExtrapolator, unit


class PromptedExtrapolator(ClassExtrapolator):
    """A class_extrapolator whose class names are texts `start context name end`, as CoOp has them (Zhou et al. 2021,
    arXiv:2109.01134): the context is learned, the same for all classes, and replaces N tokens after the first.

    The text transformer is CLIP's; freeze it by `frozen_weights: [text.*]`.
    """

    kind: Literal["prompted_extrapolator"]  # type: ignore[assignment]
    length: int = Field(77, gt=2, le=4_096, description="tokens of a text, L")
    context: int = Field(4, gt=0, le=1_024, description="learned tokens after the first, N")
    text_width: int = Field(512, gt=0, le=65_536, description="width of a token, E")
    text_depth: int = Field(12, gt=0, le=512, description="number of blocks of the text transformer")
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="positions of tokens: `learned`")
    block: Block = Field(description="the block of the text transformer; its norm is also the last layer")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **ClassExtrapolator.EXAMPLE,
        "kind": "prompted_extrapolator",
        "length": 5,
        "context": 2,
        "text_width": 8,
        "text_depth": 1,
        "positions": {"kind": "learned"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "sigmoid"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if self.context > self.length - 2:
            message = f"{self.context} tokens of context do not fit into texts of {self.length} with a first and a last"
            yield Problem(("context",), message, f"use at most {self.length - 2}")
        if isinstance(self.positions, Positions) and (self.positions.ROTARY or self.positions.GRIDDED):
            message = f"`{self.positions.kind}` does not give each position a vector"
            yield Problem(("positions",), message, "use `{kind: learned}`")
        yield from self.block.problems_of_width(self.text_width)
        yield from self.block.problems_of_condition(self.kind, None)

    def static(self, spec: Spec) -> dict[str, int]:
        own = {"length": self.length, "context": self.context}
        own |= {"text_width": self.text_width, "text_depth": self.text_depth}
        return {**super().static(spec), **own, **self.block.static(self.text_width)}

    def names(self, b: Builder, static: dict[str, Any]) -> tuple[Var, Var]:
        known, length, width = static["known"], static["length"], static["text_width"]
        classes = known + static["new"]
        # Embeddings of the whole texts, of which those under the context are not read, and 1 at the end of each.
        tokens = b.param("texts.embedding", f32(classes, length, width), "normal", "state", std=0.02)
        ends = b.param("texts.end", f32(classes, length), "zeros", "state")
        count = static["context"]
        learned = b.reshape(b.param("context", f32(count, width), "normal", std=0.02), shape=(1, count, width))
        learned = b.broadcast_to(learned, shape=(classes, count, width), out="learned")
        before = b.slice(tokens, axis=1, start=0, stop=1, out="before")
        after = b.slice(tokens, axis=1, start=1 + self.context, stop=length, out="after")
        x = b.concat(before, learned, after, axis=1, out="x")
        sizes = {"text_width": width, "text_depth": static["text_depth"], "projection": static["width"]}
        x = b.sub("text", _text(self), x, ends, **sizes, **self.block.own(self.text_width, static))
        found = b.split(unit(b, x, "of_all"), axis=0, sizes=(known, static["new"]), out="of_known of_new")
        return found[0], found[1]


@cache
def _text(config: PromptedExtrapolator) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, "normal", BlockForm())

    @module_class("PromptedText")
    def forward(
        b: Builder, x: Var, ends: Var, *, text_width: int, text_depth: int, projection: int, **static: Any
    ) -> Var:
        """Features [K + M, D] of texts [K + M, L, E] at their ends, which `ends` [K + M, L] marks."""
        assert isinstance(config.positions, Positions)
        x = config.positions.add(b, x, text_width, 0)
        for name in items("blocks", text_depth):
            x = b.sub(name, block, x, dim=text_width, **config.block.own(text_width, static))
        x = norm.apply(b, "norm", x)
        x = b.sum(x * b.reshape(ends, shape=(*ends.shape, 1)), axes=(1,), keepdims=False, out="x")
        return b.dense("projection", x, projection, bias=False, init="normal", std=0.02, out="x")

    return forward
