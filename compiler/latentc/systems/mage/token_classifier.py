"""A transformer over tokens that predicts a label: the encoder of a masked model, probed or fine-tuned (MAGE).

Not `bert`, which predicts tokens, nor `staged_classifier`, which embeds patches of an image. Symbols: B batch, T tokens
of a sample, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.stochastic_depth import DropPath, dropping, growing_rates
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.layers import batch_norm
from latentc.components.networks._patch_blocks import TokenBlocks
from latentc.components.networks._token_embedding import Embedding, embedded
from latentc.components.networks.resnet_classifier import classes_of, problems_of_labels
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, i64, items, module_class
from latentc.ir.types import B, Named

EPS = 1e-6
"""Of the batch norm, as MAE's linear probing has it."""


class TokenClassifier(TokenBlocks):
    """Classifies tokens by their averaged features (MAGE, Li et al. 2022, arXiv:2211.09117, section 4.2).

    Takes idx i64[B, T]; returns logits f32[B, K] over the classes of the data's labels. With `frozen_weights` for all
    but the head and with `batch_norm` it is linear probing; else fine-tuning.
    """

    kind: Literal["token_classifier"]
    conditions: tuple[str, ...] | None = Field((), max_length=0, description="always empty: it predicts the class")
    block: Block = Field(description="the repeated block; its condition is `in_context`")
    embedding: Embedding = Field(Embedding(), description="how tokens enter")
    pooling: Literal["mean", "first"] = Field(
        "mean", description="what is read: the mean of the data's tokens, then normalised, or the normalised first one"
    )
    batch_norm: bool = Field(
        False, description="what is read is normalised by the batch in training, without a learned scale"
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout of the embedded tokens, in training")
    drop_path: DropPath = Field(
        0.0,
        description="stochastic depth in training: probability that a sample skips a branch of the last block, "
        "increasing from 0 over the blocks",
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"classify"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "token_classifier",
        "width": 16,
        "depth": 2,
        "embedding": {"labels": 1, "blank": 0},
        "batch_norm": True,
        "drop_path": 0.1,
        "block": Block.EXAMPLE,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None:
            message = f"a {self.kind} takes tokens, but the data has {spec.data.words}"
            yield Problem((), message, "use a staged_classifier")
            return
        yield from problems_of_labels(self.kind, spec)
        yield from self.embedding.problems(tokens.vocabulary, 1, "linear")
        yield from self.block.problems_of_width(self.width)
        if self.block.parts()[0].ordered and self.pooling == "first":
            message = "with a causal mixer the first token sees no other"
            yield Problem(("pooling",), message, "use `pooling: mean`, or set `causal: false`")
        yield from self.block.problems_of_condition(self.kind, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        tokens = spec.data.tokens
        assert tokens is not None
        static = {
            "vocabulary": tokens.vocabulary,
            **self.embedding.static(),
            "tokens": tokens.length,
            **self.block_sizes(),
            "classes": classes_of(spec),
        }
        rows = self.embedding.rows(tokens.vocabulary, self.embedding.labels)
        idx = Port("idx", i64(B, Named(tokens.length, "T")), "state", rows)
        forward = add_method(mb, name, "forward", _network(self), (idx,), static, ("logits",))
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: TokenClassifier) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    assert isinstance(condition, InContext)
    block = condition.block(mixer, feed_forward, norm, config.weights)
    block = dropping(block) if config.drop_path else block

    @module_class("TokenClassifier", idx="B T=tokens")
    def forward(b: Builder, idx: Var, *, width: int, depth: int, classes: int, **static: Any) -> Var:
        """Logits of the classes of a sequence of tokens."""
        x, before, _, _ = embedded(b, config.embedding, norm, config.weights, idx, (), (), width, static)
        if config.dropout:
            x = b.dropout(x, p=config.dropout, out="x")
        sizes = config.block.own(width, static)
        for name, rate in zip(items("blocks", depth), growing_rates(b, config.drop_path, depth), strict=True):
            x = b.sub(name, block, x, *rate, dim=width, **sizes)
        if config.pooling == "mean":
            x = b.slice(x, axis=1, start=before, stop=x.shape[1], out="x") if before else x
            x = norm.apply(b, "pooled_norm", b.mean(x, axes=(1,), keepdims=True, out="x"))
        else:
            x = norm.apply(b, "norm", b.slice(x, axis=1, start=0, stop=1, out="x"))
        x = b.reshape(x, shape=(x.shape[0], width), out="x")
        if config.batch_norm:
            x = b.reshape(x, shape=(x.shape[0], width, 1, 1), out="x")
            x = b.reshape(batch_norm(b, "head_norm", x, False, EPS), shape=(x.shape[0], width), out="x")
        return dense(b, "head", x, classes, True, config.weights, out="logits")

    return forward
