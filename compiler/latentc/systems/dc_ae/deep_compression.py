"""DC-AE: an autoencoder whose latents are few and have many channels.

Symbols: B batch, C channels of the image, Z channels of the latents, f pixels per latent along each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.bottlenecks.gaussian import Gaussian
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.dc_ae import parts
from latentc.systems.dc_ae.parts import INIT, Resampling

Blocks = Annotated[int, Field(ge=0, le=64)]
Kernel = Annotated[int, Field(gt=0, le=63)]


class DeepCompression(Backbone):
    """Encoder and decoder of DC-AE (Chen et al. 2024, arXiv:2410.10733).

    Takes images x f32[B, C, H, W]; latents are f32[B, Z, H / f, W / f], and codes have their log-variance, which says
    that they are certain. Each level but the last halves the resolution in the encoder and doubles it in the decoder.
    Resampling adds pixels moved into channels and averaged, or channels repeated and moved into pixels, so that its
    convolutions learn a difference. A first level without blocks is left out: its convolution changes the resolution.
    """

    kind: Literal["deep_compression"]
    widths: tuple[Size, ...] = Field(
        min_length=2, max_length=16, description="channels of each level, from the highest resolution to the lowest"
    )
    blocks: tuple[Blocks, ...] = Field(
        min_length=2, max_length=16, description="blocks of each level of the encoder; 0 only for the first"
    )
    decoder_blocks: tuple[Blocks, ...] = Field(
        min_length=2, max_length=16, description="blocks of each level of the decoder; 0 where `blocks` is"
    )
    attention: int = Field(ge=0, le=16, description="first level whose blocks have attention, counted from 0")
    head_width: int = Field(32, gt=0, le=1_024, description="channels of an attention head; must divide the widths")
    scales: tuple[Kernel, ...] = Field(
        (), max_length=8, description="kernels, odd, of further queries, keys and values, which are of windows"
    )
    channels: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")
    resampling: Resampling = Field(
        "shuffle",
        description="shuffle: convolutions with squares of 2 x 2 pixels as channels; conv: with a stride of 2, or of "
        "repeated pixels",
    )
    batch_normed: int = Field(
        0, ge=0, le=16, description="first levels of the decoder whose blocks have ReLU and batch norms"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "deep_compression", "widths": [8, 16], "blocks": [1, 1], "decoder_blocks": [1, 1], "attention": 1},
        **{"head_width": 4, "scales": [3], "channels": 4},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("latent",)

    @property
    def factor(self) -> int:
        """Pixels per latent along each side (f)."""
        return int(2 ** (len(self.widths) - 1))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        levels = len(self.widths)
        for name in ("blocks", "decoder_blocks"):
            counts = getattr(self, name)
            if len(counts) != levels:
                yield Problem((name,), f"{len(counts)} `{name}` for {levels} levels", "give one for each of `widths`")
            elif 0 in counts[1:]:
                yield Problem((name, counts.index(0, 1)), "only the first level may have no blocks")
        if (self.blocks[0] == 0) != (self.decoder_blocks[0] == 0):
            yield Problem(("decoder_blocks", 0), "the first level has blocks in encoder and decoder, or in neither")
        for i, width in enumerate(self.widths):
            if width % 4:
                yield Problem(("widths", i), f"{width} channels do not divide into squares of 2 x 2 pixels")
            elif i and (4 * self.widths[i - 1]) % width:
                message = f"4 x {self.widths[i - 1]} channels are not a multiple of the {width} of the next level"
                yield Problem(("widths", i), message, "shortcuts average and repeat whole groups of channels")
            elif i >= self.attention and width % self.head_width:
                yield Problem(("widths", i), f"heads of {self.head_width} channels do not divide {width}")
        if self.widths[-1] % self.channels:
            message = f"{self.widths[-1]} channels of the last level are not a multiple of {self.channels} latent ones"
            yield Problem(("channels",), message)
        for i, kernel in enumerate(self.scales):
            if kernel % 2 == 0:
                yield Problem(("scales", i), f"a kernel of side {kernel} has no centre: it must be odd")
        if self.batch_normed > self.attention:
            yield Problem(("batch_normed",), "blocks with attention have no batch norms", f"at most {self.attention}")
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
        elif shape[1] % self.factor or shape[2] % self.factor:
            message = f"{levels} levels need sides that are multiples of {self.factor}, not {shape[1:]}"
            yield Problem(("widths",), message, "change `data.shape` or the number of levels")

    def _types(self, spec: Spec, moments: int = 1) -> tuple[TensorType, TensorType]:
        """The types of images and of latents; of what is no image, which `problems` refuses, with zeros."""
        shape = spec.data.shape
        channels, rows, columns = shape if shape is not None and len(shape) == 3 else (0, 0, 0)
        latents = f32(B, moments * self.channels, rows // self.factor, columns // self.factor)
        return f32(B, channels, rows, columns), latents

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        x, codes = self._types(spec, moments=2)
        return (Port("x", x, "state"),), codes

    def codes(self, spec: Spec) -> Codes:
        return Codes(self._types(spec)[1], None, self.factor)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        images, latents = self._types(spec)
        static = {"in_channels": int(images.shape[1]), "latent": self.channels}  # type: ignore[arg-type]
        x, z, bodies = Port("x", images, "state"), Port("z", latents, "state"), _methods(self)
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], [x], static),
            "encode": add_method(mb, name, "encode", bodies["encode"], [x], static),
            "decode": add_method(mb, name, "decode", bodies["decode"], [z], static),
            "regularized": add_method(
                mb, name, "regularized", bodies["regularized"], [x], static, ("output", "penalty")
            ),
        }
        return Network(name, methods, self.PROVIDES, sizes={"levels": len(self.widths)})

    def block(self, b: Builder, name: str, x: Var, level: int, normed: bool) -> Var:
        """A block of a level on x [B, widths[level], H, W]; `normed`: with a batch norm."""
        width = self.widths[level]
        if level < self.attention:
            return b.sub(name, parts.residual(normed), x, channels=width, out="x")  # type: ignore[no-any-return]
        body = parts.attention_block(self.scales)
        return b.sub(name, body, x, channels=width, head_width=self.head_width, out="x")  # type: ignore[no-any-return]


@cache
def _methods(config: DeepCompression) -> dict[str, BlockBody]:
    widths, resampling, last = config.widths, config.resampling, len(config.widths) - 1
    bare = config.blocks[0] == 0  # the first level has no blocks
    deterministic = Gaussian(kind="gaussian", channels=config.channels, variational=False)

    @module_class("Encoder", x="B in_channels H W")
    def encoder(b: Builder, x: Var, *, in_channels: int, latent: int) -> Var:
        """Images [B, C, H, W] as latents [B, Z, H / f, W / f]."""
        if bare:
            sizes = {"in_channels": in_channels, "channels": widths[1]}
            x = b.sub("conv_in", parts.down(resampling, False), x, out="x", **sizes)
        else:
            x = layers.conv(b, "conv_in", x, widths[0], 3, INIT, out="x")
        for i in range(bare, last + 1):
            for j in range(config.blocks[i]):
                x = config.block(b, f"down_blocks.{i}.{j}", x, i, False)
            if i < last:
                sizes = {"in_channels": widths[i], "channels": widths[i + 1]}
                x = b.sub(f"down_blocks.{i}.{config.blocks[i]}", parts.down(resampling), x, out="x", **sizes)
        return layers.conv(b, "conv_out", x, latent, 3, INIT) + parts.averaged(b, x, latent)

    @module_class("Decoder", z="B latent H W")
    def decoder(b: Builder, z: Var, *, in_channels: int, latent: int) -> Var:
        """Latents [B, Z, H / f, W / f] as images [B, C, H, W]."""
        x = layers.conv(b, "conv_in", z, widths[-1], 3, INIT) + parts.repeated(b, z, widths[-1])
        for i in range(last, bare - 1, -1):
            first = 0
            if i < last:
                x = b.sub(f"up_blocks.{i}.0", parts.up(resampling), x, channels=widths[i], out="x")
                first = 1
            for j in range(config.decoder_blocks[i]):
                x = config.block(b, f"up_blocks.{i}.{first + j}", x, i, i < config.batch_normed)
        x = b.relu(parts.channel_norm(b, "norm_out", x), out="x")
        if bare:
            return b.sub("conv_out", parts.up(resampling, False), x, channels=in_channels)  # type: ignore[no-any-return]
        return layers.conv(b, "conv_out", x, in_channels, 3, INIT)

    @module_class("DCAE", "forward", x="B in_channels H W")
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Images x [B, C, H, W] encoded and decoded."""
        z = b.sub("encoder", encoder, x, out="z", **static)
        return b.sub("decoder", decoder, z, out="x", **static)  # type: ignore[no-any-return]

    @module_class("DCAE", "encode", x="B in_channels H W")
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The latents of images x [B, C, H, W], and their log-variance."""
        return deterministic.codes(b, b.sub("encoder", encoder, x, out="z", **static), static)

    @module_class("DCAE", "decode", z="B latent H W")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, C, H, W] of latents z."""
        return b.sub("decoder", decoder, z, out="x", **static)  # type: ignore[no-any-return]

    @module_class("DCAE", "regularized", x="B in_channels H W")
    def regularized(b: Builder, x: Var, **static: Any) -> tuple[Var, Var]:
        """Images x [B, C, H, W] encoded and decoded, and a penalty [B] on their latents, which is 0."""
        h = b.sub("encoder", encoder, x, out="h", **static)
        z, penalty = deterministic.regularized(b, h, None, static)
        return b.sub("decoder", decoder, z, out="x", **static), penalty

    return {body.method: body for body in (forward, encode, decode, regularized)}
