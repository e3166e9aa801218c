"""DCGAN's generator."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.ir.builder import Builder, Var, f32
from latentc.systems.selfcond_gan.parts import INIT, Generator, Multipliers

EPS = 1e-5
KERNEL = 4


class DcganGenerator(Generator):
    """Transposed convolutions of stride 2 with batch norms (DCGAN, Radford et al. 2015, arXiv:1511.06434)."""

    kind: Literal["dcgan_generator"]
    channel_multipliers: Multipliers = Field(
        min_length=2,
        max_length=16,
        description="channels of the first feature map, then of each doubled one, as a multiple of `width`",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {**Generator.EXAMPLE, "kind": "dcgan_generator"}

    def decoder(self, b: Builder, h: Var, width: Any, channels: Any, side: int) -> Var:
        inside, *outside = (m * width for m in self.channel_multipliers)
        x = layers.linear(b, "linear", h, inside * side**2, INIT, out="x")
        x = b.reshape(x, shape=(h.shape[0], inside, side, side), out="x")
        for i, features in enumerate(outside):
            fan = {"fan_in": features * KERNEL**2}  # as torch.nn counts it
            weight = b.param(f"convs.{i}.weight", f32(x.shape[1], features, KERNEL, KERNEL), INIT, **fan)
            bias = b.param(f"convs.{i}.bias", f32(features), INIT, **fan)
            x = b.conv_transpose(x, weight, bias, stride=2, padding=1, out="x")
            x = b.relu(layers.batch_norm(b, f"norms.{i}", x, affine=True, eps=EPS), out="x")
        return b.tanh(layers.conv(b, "output", x, channels, 3, INIT))  # type: ignore[no-any-return]
