"""A DiT over all tokens of a sample, modulated token by token by their features: Hi-MAR's head.

It is no option of `patch_transformer`, whose condition is one vector for all tokens.
Symbols: B batch, T tokens, C channels of a token, D width, Z channels of the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.block import Block
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.blocks.positions.sincos_2d import Sincos2d
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeEmbedding
from latentc.components.contract import Network, Port
from latentc.components.decoding import Given
from latentc.components.networks.token_mlp import features_of_main, problems_of_head
from latentc.components.parts import BlockParts, Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class TokenDit(Backbone):
    """Denoises all tokens of a sample jointly, given features of each (Hi-MAR, Zheng et al. 2025, ICML).

    `forward`: x f32[B, T, C], t f32[B], z f32[B, T, Z] -> f32[B, T, C].
    """

    kind: Literal["token_dit"]
    width: int = Field(gt=0, le=65_536, multiple_of=4, description="inner channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    block: Block = Field(description="the repeated block; features of the tokens provide its scale, shift and gate")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "token_dit",
        "width": 16,
        "depth": 1,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "tanh"},
            "norm": {"kind": "layer_norm", "eps": 1e-6},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_sequence"})
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_head(self, spec)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_condition(self.kind, "a vector")
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        channels, features = features_of_main(spec) or (0, 0)
        _, height, width = spec.data.shape
        count = height * width * spec.data.shape[0] // channels
        static = {
            "grid": round(count**0.5),
            "channels": channels,
            "features": features,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
        }
        tokens = Named(count, "T")
        ports = (
            Port("x", f32(B, tokens, channels), "state"),
            Port("t", f32(B), "time"),
            Port("z", f32(B, tokens, features), "condition"),
        )
        forward = add_method(mb, name, "forward", _network(self, spec.time), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: TokenDit, time: TimeEmbedding) -> BlockBody:
    block = _block(config.block)

    @module_class("TokenDiT", x="B T=grid**2 channels", t="B", z="B T=grid**2 features")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        z: Var,
        *,
        grid: int,
        channels: int,
        features: int,
        width: int,
        depth: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy tokens x at time t, given their features z."""
        x = dense(b, "x_embedder", x, width, True, "xavier", out="x")
        x = Sincos2d(kind="sincos_2d").add(b, x, width, grid)
        c = b.reshape(time.vector(b, "t_embedder", t, width), shape=(t.shape[0], 1, width))
        c = b.op("add", c, dense(b, "c_embedder", z, width, True, "xavier"), out="c")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, c, dim=width, **config.block.own(width, static))
        return b.sub("final_layer", _final_layer, x, c, dim=width, channels=channels)

    return forward


@cache
def _block(parts: Block) -> BlockBody:
    mixer, feed_forward, norm, _ = parts.parts()

    @module_class("TokenDiTBlock")
    def block(b: Builder, x: Var, c: Var, *, dim: int, **static: Any) -> Var:
        """A transformer block whose branches are scaled, shifted and gated token by token: c [B, T, D]."""
        modulation = dense(b, "adaLN", b.silu(c), 6 * dim, True, "zeros", out="modulation")
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = b.split(
            modulation,
            axis=2,
            sizes=(dim,) * 6,
            out="shift_msa scale_msa gate_msa shift_mlp scale_mlp gate_mlp",
        )
        h = norm.apply(b, "norm1", x) * (scale_msa + 1.0) + shift_msa
        x = x + gate_msa * mixer.apply(b, "attn", h, "xavier", Given(), dim=dim, **mixer.own(dim, static))[0]
        h = norm.apply(b, "norm2", x) * (scale_mlp + 1.0) + shift_mlp
        return x + gate_mlp * BlockParts(mixer, feed_forward, norm, "xavier").fed(b, h, dim, static)

    return block


@module_class("TokenFinalLayer")
def _final_layer(b: Builder, x: Var, c: Var, *, dim: int, channels: int) -> Var:
    """Normalises, modulates token by token, and projects."""
    modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
    shift, scale = b.split(modulation, axis=2, sizes=(dim, dim), out="shift scale")
    x = LayerNorm(kind="layer_norm", eps=1e-6).apply(b, "norm", x) * (scale + 1.0) + shift
    return dense(b, "linear", x, channels, True, "zeros", out="x")
