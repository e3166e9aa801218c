"""A multilayer perceptron that denoises one token given its features: MAR's diffusion head.

Symbols: N tokens, C channels of a token, D width, Z channels of the features.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import TimeEmbedding
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B


class TokenMlp(Backbone):
    """Denoises single tokens given the features of network `main` (MAR, Li et al. 2024, arXiv:2406.11838).

    `forward`: x f32[N, C], t f32[N], z f32[N, Z] -> f32[N, C_out].
    """

    kind: Literal["token_mlp"]
    width: int = Field(gt=0, le=65_536, description="channels of the residual stream (D)")
    depth: int = Field(gt=0, le=512, description="number of residual blocks")
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "token_mlp", "width": 16, "depth": 1}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_head(self, spec)
        yield from self.problems_of_conditions(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        channels, features = features_of_main(spec) or (0, 0)
        static = {
            "channels": channels,
            "features": features,
            "width": self.width,
            "depth": self.depth,
            "out_channels": channels * (out_channels // spec.data.shape[0]),
        }
        ports = (
            Port("x", f32(B, channels), "state"),
            Port("t", f32(B), "time"),
            Port("z", f32(B, features), "condition"),
        )
        forward = add_method(mb, name, "forward", _network(spec.time), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(time: TimeEmbedding) -> BlockBody:
    @module_class("TokenMlp", x="N channels", t="N", z="N features")
    def forward(
        b: Builder, x: Var, t: Var, z: Var, *, channels: int, features: int, width: int, depth: int, out_channels: int
    ) -> Var:
        """Predicts from noisy tokens x at time t, given their features z."""
        x = dense(b, "input_proj", x, width, True, "xavier", out="x")
        c = time.vector(b, "time_embed", t, width)
        c = b.op("add", c, dense(b, "cond_embed", z, width, True, "xavier"), out="c")
        for name in items("res_blocks", depth):
            x = b.sub(name, modulated_block, x, c, dim=width)
        return b.sub("final_layer", _final_layer, x, c, dim=width, out_channels=out_channels)

    return forward


@module_class("ResBlock")
def modulated_block(b: Builder, x: Var, c: Var, *, dim: int) -> Var:
    """Two linear layers whose norm is scaled and shifted, and whose result is gated, by the condition."""
    modulation = dense(b, "adaLN", b.silu(c), 3 * dim, True, "zeros", out="modulation")
    shift, scale, gate = b.split(modulation, axis=x.type.rank - 1, sizes=(dim,) * 3, out="shift scale gate")
    weight, bias = b.param("in_ln.weight", f32(dim), "ones"), b.param("in_ln.bias", f32(dim), "zeros")
    h = b.layer_norm(x, weight, bias, eps=1e-6) * (scale + 1.0) + shift
    h = dense(b, "fc2", b.silu(dense(b, "fc1", h, dim, True, "xavier")), dim, True, "xavier")
    return x + gate * h


@module_class("FinalLayer")
def _final_layer(b: Builder, x: Var, c: Var, *, dim: int, out_channels: int) -> Var:
    """Normalises, modulates and projects."""
    modulation = dense(b, "adaLN", b.silu(c), 2 * dim, True, "zeros", out="modulation")
    shift, scale = b.split(modulation, axis=1, sizes=(dim, dim), out="shift scale")
    x = b.layer_norm(x, eps=1e-6) * (scale + 1.0) + shift
    return dense(b, "linear", x, out_channels, True, "zeros", out="x")


def features_of_main(spec: Spec) -> tuple[int, int] | None:
    """(C, D): channels of a token and of its features; None if network `main` has none."""
    main = spec.networks.get("main")
    shaped = spec.data.shape is not None and len(spec.data.shape) == 3
    return main.token_features(spec) if isinstance(main, Backbone) and shaped else None


def problems_of_head(head: Backbone, spec: Spec) -> Iterator[Problem]:
    """Problems of a head of network `main`."""
    if features_of_main(spec) is None:
        message = f"a {head.kind} denoises tokens given the features of a network such as a masked_autoencoder"
        yield Problem((), message, "make `networks.main` a masked_autoencoder, and name this one `head`")
