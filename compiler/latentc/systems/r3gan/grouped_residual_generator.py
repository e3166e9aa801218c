"""R3GAN's generator.

Symbols: B batch, C channels, S side, Z dimension of the latent z, K classes, E dimension of class embeddings.
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.unet.layers import resampled
from latentc.components.capabilities import Capability
from latentc.components.condition import ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.r3gan.parts import SIDE, Staged, conv, embedded, linear, run_blocks


class GroupedResidualGenerator(Staged):
    """Makes f32[B, C, S, S] out of z f32[B, Z] and, if the spec has one, a class y i64[B] (arXiv:2501.05441).

    z beside the embedding of the class scales a learned 4 x 4 map; stages follow from coarse to fine. There are no
    norms, and the values are not bounded.
    """

    kind: Literal["grouped_residual_generator"]
    latent_dim: int = Field(64, gt=0, le=65_536, description="dimension of the latent z (Z)")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "grouped_residual_generator",
        "width": 4,
        "channel_multipliers": [2, 1],
        "groups": [2, 1],
        "blocks": [1, 1],
        "latent_dim": 6,
        "embedding": 5,
    }

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"latent_dim": self.latent_dim, **self.condition_sizes(spec)}
        static |= {"embedding": self.embedding} if entries else {}
        static |= {"width": self.width, "channels": spec.data.shape[0]}
        ports = (Port("z", f32(B, self.latent_dim), "noise"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _forward(self), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, self.sizes())


@cache
def _forward(config: GroupedResidualGenerator) -> BlockBody:
    @module_class("GroupedResidualGenerator", z="B latent_dim")
    def forward(b: Builder, z: Var, *y: Var, width: int, channels: int, **sizes: Any) -> Var:
        """Images of latents z."""
        h = z
        if y:
            h = b.concat(z, embedded(b, y[0], sizes["classes"], sizes["embedding"]), axis=1, out="h")
        for i, features in enumerate(config.widths(width)):
            given = {"inputs": h.shape[1], "features": features, "hidden": config.expansion * features}
            body = _stage(i == 0, i > 0 and int(h.shape[1]) == int(features), config.blocks[i], config.gain)
            h = b.sub(f"stages.{i}", body, h, out="h", **given, groups=config.groups[i])
        return b.add(conv(b, "image", h, channels, 1), 0.0, out="x")

    return forward


@cache
def _stage(first: bool, same: bool, blocks: int, gain: float) -> BlockBody:
    """`same`: the stage before has as many channels."""
    name = "FirstStage" if first else "EqualUpsamplingStage" if same else "UpsamplingStage"

    @module_class(name, x="B inputs" if first else "B inputs H W")
    def forward(b: Builder, x: Var, *, inputs: int, features: int, hidden: int, groups: int) -> Var:
        """Features at twice the resolution, or from a learned map, and residual blocks."""
        if first:
            basis = b.param("basis", f32(features, SIDE, SIDE), "normal")
            scale = linear(b, "linear", x, features)
            h = b.mul(basis, b.reshape(scale, shape=(x.shape[0], features, 1, 1)), out="h")
        else:
            h = x if same else conv(b, "linear", x, features, 1)
            h = resampled(b, h, "up", "binomial")
        return run_blocks(b, h, blocks, gain, hidden, groups)

    return forward
