"""What a masked autoencoder has besides for D-JEPA's loss: targets, and their prediction from its features.

Symbols: B batch, T tokens of a sample, C channels of a token, D width.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.condition import Entry
from latentc.components.networks._masked_parts import MaskedParts, keys_of
from latentc.components.parts import dense
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.components.networks.masked_autoencoder import MaskedAutoencoder


class FeaturePredictor(Closed):
    """Two linear layers with GELU between them."""

    ratio: float = Field(4.0, gt=0, le=64, description="hidden width as a multiple of the width")
    norm: bool = Field(True, description="layer norm before the second layer")


@cache
def targets(config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> BlockBody:
    parts = MaskedParts(config, entries)

    @module_class("MaskedAutoencoder", "targets", x="B T=tokens channels")
    def targets(
        b: Builder,
        x: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        known: int | None = None,
        recalled: int = 0,
        **static: Any,
    ) -> Var:
        """The encoder's features of every token of a sample of which nothing is hidden."""
        c, counted = parts.told(b, conditions, x, width, buffer, static)
        prefix = c.shape[1]
        x = parts.normed(b, parts.joined(b, c, x, tokens))
        total = x.shape[1]
        # A mask that hides nothing, so that the blocks are those of encoders of partly hidden samples.
        visible = b.full(x, shape=(tokens if counted is not None else total,), value=1.0, dtype="bool", out="every")
        if counted is not None:
            visible = b.concat(counted, visible, axis=1, out="visible")
        sizes, rotary = config.block.own(width, static), parts.rotary(b, x, static)
        x = parts.blocks(b, "encoder", x, prefix, (keys_of(b, visible),), depth, sizes, rotary)
        x = parts.norm.apply(b, "encoder_norm", x)
        return b.slice(x, axis=1, start=prefix, stop=total, out="x")  # type: ignore[no-any-return]

    return targets


@cache
def predict(config: MaskedAutoencoder) -> BlockBody:
    @module_class("MaskedAutoencoder", "predict", z="B T=tokens width")
    def predict(b: Builder, z: Var, *, width: int, known: int | None = None, recalled: int = 0, **static: Any) -> Var:
        """What the features z of a partly hidden sample say of its targets."""
        assert config.predictor is not None
        return b.sub("predictor", _predictor(config.predictor, config.weights), z, dim=width)  # type: ignore[no-any-return]

    return predict


@cache
def _predictor(config: FeaturePredictor, init: str) -> BlockBody:
    whole = int(config.ratio) if config.ratio == int(config.ratio) else None

    @module_class("FeaturePredictor", z="B T dim")
    def predictor(b: Builder, z: Var, *, dim: int) -> Var:
        """Two linear layers with GELU between them."""
        hidden = int(dim * config.ratio) if whole is None else whole * dim
        x = b.gelu(dense(b, "fc1", z, hidden, True, init), approximate="none", out="x")
        if config.norm:
            x = LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "norm", x)
        return dense(b, "fc2", x, dim, True, init)

    return predictor


__all__ = ["FeaturePredictor", "predict", "targets"]
