"""A causal transformer over a sequence of vectors: the prior that trains beside LARP's tokenizer.

A file of its own because a token_transformer embeds tokens and begins with a condition.

Symbols: B batch, N vectors, Z their channels, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B

EPS = 1e-12
"""Least length that a vector is divided by."""


class VectorTransformer(TokenBlocks):
    """Predicts each vector of a sequence from the previous ones (LARP's prior, Wang et al. 2024, arXiv:2410.21264).

    `forward`: z f32[B, N - 1, Z], all vectors but the last -> f32[B, N - 1, Z], all but the first.
    """

    kind: Literal["vector_transformer"]
    length: int = Field(gt=1, le=1_048_576, description="vectors per sequence (N); the network sees all but one")
    channels: int = Field(gt=0, le=65_536, description="channels of a vector (Z)")
    normalize: bool = Field(True, description="normalise predictions to length 1")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded vectors, in training")
    block: Block = Field(description="the repeated block; its mixer is causal")
    weights: Weights = Field("normal", description="initialisation of linear layers")
    TRAINING_ONLY: ClassVar[bool] = True
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"next_vector"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "vector_transformer",
        "width": 16,
        "depth": 1,
        "length": 4,
        "channels": 4,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "causal": True},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        if not self.block.parts()[0].ordered:
            message = "a vector_transformer predicts the next vector, so its mixer must be causal"
            yield Problem(("block", "mixer"), message, "set `causal: true`")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        static = {
            "length": self.length,
            "channels": self.channels,
            **self.block_sizes(),
        }
        z = Port("z", f32(B, self.length - 1, self.channels), "state")
        forward = add_method(mb, name, "forward", _forward(self), (z,), static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _forward(config: VectorTransformer) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)

    @module_class("VectorTransformer", z="B length-1 channels")
    def forward(b: Builder, z: Var, *, length: int, channels: int, width: int, depth: int, **static: Any) -> Var:
        """The predicted next vector at each position of z."""
        x = dense(b, "embed", z, width, True, config.weights, out="x")
        positions = b.param("positions", f32(1, length, width), "normal", std=0.02)
        x = x + b.slice(positions, axis=1, start=0, stop=length - 1, out="positions")
        if config.dropout:
            x = b.dropout(x, p=config.dropout, out="x")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, dim=width, **config.block.own(width, static))
        x = dense(b, "output", norm.apply(b, "norm", x), channels, True, config.weights, out="x")
        if not config.normalize:
            return x
        size = b.sqrt(b.sum(x * x, axes=(2,), keepdims=True), out="size")
        return b.div(x, b.maximum(size, EPS), out="x")

    return forward
