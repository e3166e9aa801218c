"""A transformer that compresses a picture or latent and restores a map of features: the latent embedding module of DoD.

Why a file of its own: other networks that encode return vectors of several fields, or codes with a loss of their own.
Symbols: B batch, C channels, T patches, D width, K channels between encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.capabilities import Capability
from latentc.components.condition import Form
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches
from latentc.components.parts import Problem, Spec, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named, TensorType


class MapEncoder(Backbone):
    """Encodes x f32[B, C, H, W] as features f32[B, D, H / patch, W / patch] (DoD, Yue et al. 2024, arXiv:2410.08531).

    Encoder blocks over patches; then means over squares of `pool` by `pool` patches, projected to K channels, are the
    only input of the decoder's blocks.
    """

    kind: Literal["map_encoder"]
    width: int = Field(gt=0, le=65_536, multiple_of=4, description="channels of the blocks and the features (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_depth: int = Field(gt=0, le=512, description="blocks of the decoder")
    bottleneck: int = Field(gt=0, le=65_536, description="channels between encoder and decoder (K)")
    pool: int = Field(
        1,
        gt=0,
        le=1_024,
        description="side of the square of patches averaged into one position between encoder and decoder",
    )
    patch: int = Field(1, gt=0, le=1_024, description="side of the patch that forms one token")
    block: Block = Field(description="the transformer block")
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "map_encoder",
        "width": 16,
        "depth": 1,
        "decoder_depth": 1,
        "bottleneck": 4,
        "patch": 4,
        "block": {**Block.EXAMPLE, "feed_forward": {"kind": "gelu_mlp", "ratio": 2}},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"encode"})
    TAKES: ClassVar[tuple[Form, ...]] = ()
    conditions: tuple[str, ...] | None = Field((), description="always empty: it takes no conditions")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3 or shape[1] != shape[2]:
            yield Problem((), f"a map_encoder takes square images [C, H, H], but the data has {spec.data.words}")
            return
        if shape[1] % (self.patch * self.pool):
            message = f"squares of {self.pool} patches of {self.patch} do not tile {shape[1]} by {shape[2]}"
            yield Problem(("pool",), message, "choose `patch` and `pool` so that their product divides the side")
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, None)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        assert spec.data.shape is not None
        side = spec.data.shape[1] // self.patch
        return (Port("x", f32(B, *spec.data.shape), "state"),), f32(B, self.width, side, side)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "decoder_depth": self.decoder_depth,
            "bottleneck": self.bottleneck,
            **self.block.static(self.width),
        }
        method = add_method(mb, name, "encode", _network(self), self.encoding(spec)[0], static)
        return Network(name, {"encode": method}, self.PROVIDES)


@cache
def _network(config: MapEncoder) -> BlockBody:
    mixer, feed_forward, norm, condition = config.block.parts()
    block = condition.block(mixer, feed_forward, norm, config.weights)
    positions = Sincos2d(kind="sincos_2d")

    @module_class("MapEncoder", "encode", x="B channels size size")
    def encode(
        b: Builder,
        x: Var,
        *,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        decoder_depth: int,
        bottleneck: int,
        **static: Any,
    ) -> Var:
        """Features [B, width, size // patch, size // patch] of x, through few channels."""
        grid = size // patch
        tokens, sizes = Named(grid**2, "T"), config.block.own(width, static)
        x = embedded_patches(b, "patches", x, width, patch, "xavier_matrix", tokens)
        x = positions.add(b, x, width, grid)
        for name in items("encoder", depth):
            x = b.sub(name, block, x, dim=width, **sizes)
        x = _as_map(b, norm.apply(b, "encoder_norm", x), grid)
        x = b.avg_pool(x, size=config.pool, out="x") if config.pool > 1 else x
        x = dense(b, "down", _as_tokens(b, x), bottleneck, True, config.weights, out="code")
        x = dense(b, "up", x, width, True, config.weights, out="x")
        x = _as_map(b, x, grid // config.pool)
        x = b.upsample_nearest(x, factor=config.pool, out="x") if config.pool > 1 else x
        x = positions.add(b, _as_tokens(b, x), width, grid)
        for name in items("decoder", decoder_depth):
            x = b.sub(name, block, x, dim=width, **sizes)
        return _as_map(b, norm.apply(b, "decoder_norm", x), grid)

    return encode


def _as_map(b: Builder, x: Var, grid: Any) -> Var:
    """[B, D, grid, grid] of tokens [B, T, D]."""
    batch, _, width = x.shape
    return b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(batch, width, grid, grid), out="x")


def _as_tokens(b: Builder, x: Var) -> Var:
    """[B, T, D] of a map [B, D, grid, grid]."""
    batch, width, rows, columns = x.shape
    x = b.reshape(x, shape=(batch, width, rows * columns))
    return b.transpose(x, perm=(0, 2, 1), out="x")
