"""R3GAN's discriminator.

Symbols: B batch, C channels, S side, K classes, E dimension of class embeddings.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, ClassVar, Literal

from latentc.components.backbone import add_method
from latentc.components.blocks.unet.layers import resampled
from latentc.components.capabilities import Capability
from latentc.components.condition import ports_of
from latentc.components.contract import Network, Port
from latentc.components.networks._gan import with_averages
from latentc.components.parts import Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.r3gan.parts import SIDE, Staged, conv, embedded, linear, run_blocks


class GroupedResidualDiscriminator(Staged):
    """Scores x f32[B, C, S, S], of a class y i64[B] if it is conditional: `score` f32[B, 1] (arXiv:2501.05441).

    Stages go from fine to coarse; a learned 4 x 4 map per channel makes a vector of the last, whose product with the
    embedding of the class is the score.
    """

    kind: Literal["grouped_residual_discriminator"]
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"discriminate"})
    TRAINING_ONLY: ClassVar[bool] = True
    OUTPUTS = ("score",)
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "grouped_residual_discriminator",
        "width": 4,
        "channel_multipliers": [1, 2],
        "groups": [1, 2],
        "blocks": [1, 1],
        "embedding": 5,
    }

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        entries = self.entries(spec)
        static = {"channels": spec.data.shape[0], "width": self.width, **self.condition_sizes(spec)}
        static |= {"embedding": self.embedding} if entries else {}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _forward(self), ports, static)
        methods = with_averages(mb, name, spec, "GroupedResidualDiscriminator", forward, static)
        return Network(name, methods, self.PROVIDES, self.sizes())


@cache
def _forward(config: GroupedResidualDiscriminator) -> BlockBody:
    @module_class("GroupedResidualDiscriminator", x="B channels H W")
    def forward(b: Builder, x: Var, *y: Var, channels: int, width: int, **sizes: Any) -> Var:
        """The score [B, 1] of images x."""
        widths = config.widths(width)
        h = conv(b, "enter", x, widths[0], 1)
        for i, (features, following) in enumerate(zip(widths, (*widths[1:], None), strict=True)):
            given = {"channels": features, "hidden": config.expansion * features, "groups": config.groups[i]}
            if following is None:
                given["features"] = sizes["embedding"] if y else 1
            else:
                given["features"] = following
            same = following is not None and int(following) == int(features)
            body = _stage(following is None, same, config.blocks[i], config.gain)
            h = b.sub(f"stages.{i}", body, h, out="h", **given)
        if not y:
            return b.add(h, 0.0, out="score")
        known = embedded(b, y[0], sizes["classes"], sizes["embedding"], 1 / math.sqrt(config.embedding))
        return b.sum(h * known, axes=(1,), keepdims=True, out="score")

    return forward


@cache
def _stage(last: bool, same: bool, blocks: int, gain: float) -> BlockBody:
    """`same`: the next stage has as many channels."""
    name = "LastStage" if last else "EqualDownsamplingStage" if same else "DownsamplingStage"

    @module_class(name, x="B channels H W")
    def forward(b: Builder, x: Var, *, channels: int, features: int, hidden: int, groups: int) -> Var:
        """Residual blocks, and features at half the resolution or a vector."""
        h = run_blocks(b, x, blocks, gain, hidden, groups)
        if not last:
            h = resampled(b, h, "down", "binomial")
            return h if same else conv(b, "linear", h, features, 1)
        basis = b.param("basis.weight", f32(channels, 1, SIDE, SIDE), "kaiming_normal", gain=1.0)
        h = b.conv(h, basis, groups=channels, out="h")
        return linear(b, "linear", b.reshape(h, shape=(x.shape[0], channels), out="h"), features)

    return forward
