"""The generator of BigGAN: upsampling residual blocks, batch norms whose scale and shift come from class and noise.

Symbols: B batch, C channels, Z dimension of the latent z.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import layers
from latentc.components.blocks.self_attention_2d import self_attention_2d
from latentc.components.contract import Capability, Network, Port
from latentc.components.parts import Backbone, Form, Problem, add_method, ports_of
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

BOTTOM = 4  # side of the first feature map
MOMENTUM = 0.1  # of the running statistics


class BigganGenerator(Backbone):
    """Generator of BigGAN (Brock et al. 2019, arXiv:1809.11096).

    Takes z f32[B, Z] and y i64[B]; returns f32[B, C, H, W] between -1 and 1. All its layers but the class embedding are
    spectrally normalised.
    """

    kind: Literal["biggan_generator"]
    width: int = Field(gt=0, description="channels that the multipliers multiply (96 in the paper)")
    multipliers: tuple[int, ...] = Field(
        min_length=2, description="channels of the first feature map, then of each block's output, over `width`"
    )
    attention: tuple[int, ...] = Field((), description="sides of feature maps that self-attention follows")
    latent: int = Field(gt=0, description="dimension of the latent z (Z)")
    hierarchical: bool = Field(
        True, description="split z: one part for the first layer, one for the norms of each block"
    )
    embedding: int = Field(128, gt=0, description="size of the class embedding that all norms share")
    eps: float = Field(1e-5, gt=0, description="added to the variance in batch norms")
    weights: Literal["orthogonal", "normal"] = Field("orthogonal", description="how weights start")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"generate"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    CLASS: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "biggan_generator",
        "width": 8,
        "multipliers": [2, 2, 1],
        "attention": [8],
        "latent": 12,
        "embedding": 6,
    }

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if spec.data.shape is None or len(spec.data.shape) != 3:
            yield Problem((), f"a biggan_generator makes arrays [C, H, W], but the data has {spec.data.words}")
        else:
            _, height, width = spec.data.shape
            blocks = len(self.multipliers) - 1
            if height != width or height != BOTTOM << blocks:
                message = f"{blocks} blocks make {BOTTOM} by {BOTTOM} pixels {BOTTOM << blocks} by {BOTTOM << blocks}"
                message += f", not {height} by {width}"
                yield Problem(("multipliers",), message, "give the first feature map's and one for each doubling")
        sides = [BOTTOM << (i + 1) for i in range(len(self.multipliers) - 1)]
        for i, side in enumerate(self.attention):
            if side not in sides:
                message = f"no block makes feature maps of {side} by {side}"
                yield Problem(("attention", i), message, f"they are of {', '.join(map(str, sides))}")
            elif self.multipliers[sides.index(side) + 1] * self.width % 8:
                yield Problem(("attention", i), "self-attention divides its channels by 8", "choose another `width`")
        parts = len(self.multipliers)
        if self.hierarchical and self.latent % parts:
            near = " or ".join(str(n) for n in (self.latent // parts * parts, -(-self.latent // parts) * parts) if n)
            yield Problem(
                ("latent",), f"z of dimension {self.latent} does not split into {parts} equal parts", f"use {near}"
            )
        yield from self.problems_of_conditions(spec)
        if any(condition.nullable for condition in self.told(spec).values()):
            message = "a biggan_generator always knows the class, but `conditioning.class` is dropped in training"
            yield Problem((), message, "write `conditioning.class: {kind: label, dropout: 0}`")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        static: dict[str, Any] = {
            "latent": self.latent,
            **self.condition_sizes(spec),
            "embedding": self.embedding,
            "width": self.width,
            "channels": spec.data.shape[0],
        }
        ports = (Port("z", f32(B, self.latent), "noise"), *ports_of(self.entries(spec)))
        forward = add_method(mb, name, "forward", _network(self), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: BigganGenerator) -> BlockBody:
    init, parts = config.weights, len(config.multipliers)
    block, attention = _block(init, config.eps), self_attention_2d(init, True)

    @module_class("Generator", z="B latent")
    def forward(
        b: Builder, z: Var, y: Var, *, latent: int, classes: int, embedding: int, width: int, channels: int
    ) -> Var:
        """Makes images of classes y out of noise z."""
        c = layers.embedding(b, "shared", y, classes, embedding, init, out="c")
        first, conditions = z, [c] * (parts - 1)
        if config.hierarchical:
            first, *rest = b.split(z, axis=1, sizes=(latent // parts,) * parts, out=_numbered("z", parts))
            conditions = [b.concat(c, part, axis=1, out="c") for part in rest]
        inside, *outside = (m * width for m in config.multipliers)
        x = layers.linear(b, "linear", first, inside * BOTTOM**2, init, spectral=True)
        x = b.reshape(x, shape=(z.shape[0], inside, BOTTOM, BOTTOM), out="x")
        for i, (features, condition) in enumerate(zip(outside, conditions, strict=True)):
            sizes = {"channels": x.shape[1], "features": features, "condition": condition.shape[1]}
            x = b.sub(f"blocks.{i}", block, x, condition, out="x", **sizes)
            if BOTTOM << (i + 1) in config.attention:
                x = b.sub(f"attention.{i}", attention, x, out="x", channels=features)
        h = b.relu(layers.batch_norm(b, "norm", x, affine=True, eps=config.eps, momentum=MOMENTUM))
        return b.tanh(layers.conv(b, "output", h, channels, 3, init, spectral=True))

    return forward


def _numbered(name: str, count: int) -> str:
    return " ".join(f"{name}{i}" for i in range(count))


@cache
def _block(init: str, eps: float) -> BlockBody:
    norm = _norm(init, eps)

    @module_class("GeneratorBlock", x="B channels H W", c="B condition")
    def block(b: Builder, x: Var, c: Var, *, channels: int, features: int, condition: int) -> Var:
        """A residual block that doubles the size of x [B, channels, H, W], its norms conditioned by c."""
        h = b.relu(b.sub("bn1", norm, x, c, out="h", channels=channels, condition=condition))
        h = layers.conv(b, "conv1", b.upsample_nearest(h, factor=2), features, 3, init, spectral=True, out="h")
        h = b.relu(b.sub("bn2", norm, h, c, out="h", channels=features, condition=condition))
        h = layers.conv(b, "conv2", h, features, 3, init, spectral=True, out="h")
        return h + layers.conv(b, "conv_sc", b.upsample_nearest(x, factor=2), features, 1, init, spectral=True)

    return block


@cache
def _norm(init: str, eps: float) -> BlockBody:
    @module_class("ConditionalBatchNorm2d", x="B channels H W", c="B condition")
    def norm(b: Builder, x: Var, c: Var, *, channels: int, condition: int) -> Var:
        """Batch norm of x [B, C, H, W] whose scale and shift are linear in the condition c."""

        def column(name: str) -> Var:
            h = layers.linear(b, name, c, channels, init, bias=False, spectral=True)
            return b.reshape(h, shape=(c.shape[0], channels, 1, 1), out=name)

        gain, bias = column("gain"), column("bias")
        return layers.batch_norm(b, "norm", x, affine=False, eps=eps, momentum=MOMENTUM) * (gain + 1.0) + bias

    return norm
