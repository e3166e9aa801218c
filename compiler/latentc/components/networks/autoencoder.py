"""Convolutional autoencoders: the first stages of latent diffusion and of token models.

Symbols: B batch, C channels of the image, Z channels of the latents, f pixels per latent along each side.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Level, OneOf, Size, layers
from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.autoencoder import INIT, Blocks, Half, decoder, encoder
from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.fields import FIRST_STAGE, Codes
from latentc.components.kit.labels import one_hot
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, module_class
from latentc.ir.types import B, TensorType


class Autoencoder(Backbone):
    """Encoder and decoder of VQGAN (Esser et al. 2021, arXiv:2012.09841) and latent diffusion (arXiv:2112.10752).

    Takes images x f32[B, C, H, W], or label maps i64[B, H, W] if it `reads` a field of C labels. Each level but the
    last halves the resolution in the encoder and doubles it in the decoder.
    """

    kind: Literal["autoencoder"]
    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `multipliers` (128 as published)")
    multipliers: tuple[Size, ...] = Field(
        min_length=1,
        max_length=16,
        description="channels of each level as a multiple of `width`, from the highest resolution to the lowest",
    )
    blocks: int = Field(2, gt=0, le=64, description="residual blocks per level of the encoder")
    decoder_blocks: int | None = Field(
        None, gt=0, le=64, description="residual blocks per level of the decoder; null: one more than `blocks`"
    )
    middle_blocks: int = Field(
        2, gt=0, le=64, description="residual blocks at the lowest resolution, in encoder and decoder each"
    )
    attention: tuple[Level, ...] = Field(
        (), max_length=64, description="levels whose residual blocks are followed by attention, counted from 0"
    )
    decoder_attention: tuple[Level, ...] | None = Field(
        None, max_length=64, description="those levels in the decoder; null: as `attention`"
    )
    middle_attention: bool = Field(
        True, description="attention after the first residual block at the lowest resolution"
    )
    features: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="channels of the encoder's output, before `quant_conv`; null: those of the latents",
    )
    quant_conv: bool = Field(True, description="a convolution between encoder and bottleneck")
    post_quant_conv: bool = Field(True, description="a convolution between bottleneck and decoder")
    clamp: bool = Field(False, description="clamp images to [-1, 1], except in training")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="type of the codes")
    QUANT_KERNEL: ClassVar[int] = 1
    """Kernel size of `quant_conv` and `post_quant_conv`."""
    groups: int = Field(32, gt=0, le=1_024, description="groups of each GroupNorm")
    eps: float = Field(1e-6, gt=0, description="added to the variance in GroupNorm")
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout before the second convolution of a residual block, in training"
    )
    biases: bool = Field(
        True, description="biases of the residual blocks' convolutions and of the encoder's first (MaskGIT: none)"
    )
    shortcut_of: Literal["input", "output"] = Field(
        "input",
        description="input of the shortcut projection in residual blocks that change the channels: the block's "
        "input, or the output of its convolutions (MaskGIT)",
    )
    downsampling: Literal["conv", "average"] = Field(
        "conv", description="halve the resolution with a stride-2 convolution, or by averaging 2 x 2 pixels"
    )
    upsampling: Literal["conv", "nearest"] = Field(
        "conv", description="double the resolution by repeating pixels, followed by a convolution or not"
    )
    output_kernel: Literal[1, 3] = Field(3, description="kernel size of the encoder's last convolution")
    reads: str | None = Field(
        None, description="data field that it encodes, for an `encoded` condition; null: the samples themselves"
    )
    BLOCKS: ClassVar[type[Blocks]] = Blocks
    """How its residual blocks are built, and its resolution halved and doubled."""
    DECODER: ClassVar[type[Half]] = Half
    """How its decoder is built."""
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "autoencoder",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "groups": 4,
        "bottleneck": {"kind": "gaussian", "channels": 4},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("latent",)

    @property
    def factor(self) -> int:
        """Pixels per latent along each side (f)."""
        return int(2 ** (len(self.multipliers) - 1))

    def problems(self, spec: Spec) -> Iterator[Problem]:
        if self.reads is not None and self.reads not in spec.data.fields:
            known = ", ".join(spec.data.fields) or "none"
            yield Problem(("reads",), f"the data has no field `{self.reads}`", f"fields of the data: {known}")
            return
        shape = self._shape(spec)
        if shape is None or len(shape) != 3:
            what = spec.data.words if self.reads is None else f"{shape} in `{self.reads}`"
            yield Problem((), f"an autoencoder takes arrays [C, H, W], but the data has {what}")
            return
        side = self.bottleneck.square
        if side is not None and (shape[1] != side * self.factor or shape[2] != side * self.factor):
            message = f"the bottleneck has {side} by {side} latents, but images of {shape[1:]} have another number"
            yield Problem(
                ("bottleneck",), message, f"use images with a side of {side * self.factor}, or change the bottleneck"
            )
        if shape[1] % self.factor or shape[2] % self.factor:
            message = f"{len(self.multipliers)} levels need sides that are multiples of {self.factor}, not {shape[1:]}"
            yield Problem(("multipliers",), message, "change `data.shape` or the number of levels")
        for i, multiplier in enumerate(self.multipliers):
            if multiplier * self.width % self.groups:
                message = f"{multiplier * self.width} channels do not divide into {self.groups} groups"
                yield Problem(("multipliers", i), message, "change `width` or `groups`")
        if self.width % self.groups:
            yield Problem(("width",), f"{self.width} channels do not divide into {self.groups} groups")
        for name, attention in (("attention", self.attention), ("decoder_attention", self.decoder_attention or ())):
            for i, level in enumerate(attention):
                if not 0 <= level < len(self.multipliers):
                    levels = len(self.multipliers)
                    yield Problem((name, i), f"level {level} is out of range: there are levels 0 to {levels - 1}")
        for name, there in (("quant_conv", self.quant_conv), ("post_quant_conv", self.post_quant_conv)):
            if not there and self.features not in (None, self.bottleneck.channels):
                message = (
                    f"without it, {self.features} features cannot become {self.bottleneck.channels} latent channels"
                )
                yield Problem((name,), message, "leave out `features` or this option")
        yield from self.problems_of_conditions(spec)

    def _shape(self, spec: Spec) -> tuple[int, ...] | None:
        field = spec.data.fields.get(self.reads or "x")
        if field is not None and field.classes and self.reads is not None and len(field.shape) == 2:
            return field.classes, *field.shape
        return None if field is None else field.shape

    def _input(self, spec: Spec, name: str) -> Port:
        """Its input: images, or maps of labels."""
        channels, rows, columns = self._image(spec)
        field = spec.data.fields.get(self.reads or "x")
        if field is not None and len(field.shape) == 2:
            return Port(name, i64(B, rows, columns), "state", channels)
        return Port(name, f32(B, channels, rows, columns), "state")

    def _image(self, spec: Spec) -> tuple[int, int, int]:
        """Channels, rows and columns; zeros of what is no image, which `problems` refuses."""
        shape = self._shape(spec)
        return (0, 0, 0) if shape is None or len(shape) != 3 else (shape[0], shape[1], shape[2])

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        _, rows, columns = self._image(spec)
        h, w = rows // self.factor, columns // self.factor
        return (self._input(spec, self.reads or "x"),), self.bottleneck.code_type(h, w)

    def codes(self, spec: Spec) -> Codes:
        _, rows, columns = self._image(spec)
        of = self.bottleneck.decoded_type(rows // self.factor, columns // self.factor)
        return Codes(of, self.bottleneck.vocabulary, self.factor)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        channels, rows, columns = self._image(spec)
        h, w = rows // self.factor, columns // self.factor
        of_grid = {"rows": h, "columns": w} if self.bottleneck.discrete else {}
        static = {
            "in_channels": channels,
            "width": self.width,
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **of_grid,
        }
        x = self._input(spec, "x")
        z = Port("z", self.bottleneck.decoded_type(h, w), "state", self.bottleneck.vocabulary)
        noise = self.bottleneck.noise_ports(h, w)
        anneals = asked(spec, name, "entropy_factor", False)
        if anneals:
            noise = (*noise, Port("entropy_factor", f32(), "scale"))
        if self.bottleneck.uses_step:
            noise = (*noise, Port("step", i64(), "position"))
        bodies = _methods(self, anneals, x.values is not None)
        encode = add_method(mb, name, "encode", bodies["encode"], [x], static)
        if self.bottleneck.discrete:
            encode = replace(
                encode, outputs=tuple(replace(port, values=self.bottleneck.vocabulary) for port in encode.outputs)
            )
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], [x], static),
            "encode": encode,
            "decode": add_method(mb, name, "decode", bodies["decode"], [z], static),
            "regularized": add_method(
                mb, name, "regularized", bodies["regularized"], [x, *noise], static, ("output", "penalty")
            ),
        }
        if name == FIRST_STAGE and self.bottleneck.discrete:  # for samplers that mix codes
            latents = Port("z", f32(B, self.bottleneck.channels, h, w), "state")
            methods["decode_latents"] = add_method(
                mb, name, "decode_latents", bodies["decode_latents"], [latents], static
            )
        if asked(spec, name, "features"):
            outputs: tuple[Role, ...] = ("output", "features", "penalty")
            body = bodies["regularized_features"]
            methods["regularized_features"] = add_method(
                mb, name, "regularized_features", body, [x, *noise], static, outputs
            )
        sizes = {
            "levels": len(self.multipliers),
            "blocks": self.blocks,
            "decoder_blocks": self.decoder_blocks or self.blocks + 1,
            "middle": self.middle_blocks,
            **self.bottleneck.sizes(),
        }
        return Network(name, methods, self.PROVIDES, sizes=sizes)


@cache
def _methods(config: Autoencoder, anneals: bool, labels: bool) -> dict[str, BlockBody]:
    bottleneck = config.bottleneck
    pools, repeats = config.downsampling == "average", config.upsampling == "nearest"
    shared = config.BLOCKS(config.groups, config.eps, config.dropout, config.biases, config.shortcut_of, pools, repeats)
    inward = Half(
        config.multipliers,
        config.blocks,
        config.attention,
        config.middle_attention,
        shared,
        config.middle_blocks,
        config.biases,
        config.output_kernel,
    )
    outward = config.DECODER(
        config.multipliers,
        config.decoder_blocks or config.blocks + 1,
        config.attention if config.decoder_attention is None else config.decoder_attention,
        config.middle_attention,
        shared,
        config.middle_blocks,
    )

    def encoded(b: Builder, x: Var, static: dict[str, Any]) -> Var:
        wanted = bottleneck.encoded * static["latent"]
        made = wanted if config.features is None else bottleneck.encoded * config.features
        sizes = {"in_channels": static["in_channels"], "channels": static["width"], "outputs": made}
        x = one_hot(b, x, static["in_channels"], "x") if labels else x
        h = b.sub("encoder", encoder(inward), x, out="h", **sizes)
        return layers.conv(b, "quant_conv", h, wanted, config.QUANT_KERNEL, INIT, out="h") if config.quant_conv else h

    def decoded(b: Builder, z: Var, static: dict[str, Any], features: bool = False) -> Any:
        latent = static["latent"] if config.features is None else config.features
        if config.post_quant_conv:
            z = layers.conv(b, "post_quant_conv", z, latent, config.QUANT_KERNEL, INIT, out="z")
        sizes = {"latent": latent, "channels": static["width"], "outputs": static["in_channels"]}
        return b.sub("decoder", decoder(outward, features), z, out="x features" if features else "x", **sizes)

    def bounded(b: Builder, x: Var) -> Var:
        return b.clamp(x, low=-1.0, high=1.0, out="x") if config.clamp else x

    def drawn(b: Builder, h: Var, more: tuple[Var, ...], static: dict[str, Any]) -> tuple[Var, Var]:
        """Latents in training and their penalty.

        `more`: noise, if codes are drawn, then the factor of entropies or the step of training.
        """
        if bottleneck.uses_step:
            *noise, step = more
            return bottleneck.at_step(b, h, noise[0] if noise else None, static, step)
        if not anneals:
            return bottleneck.regularized(b, h, more[0] if more else None, static)
        *noise, factor = more
        return bottleneck.annealed(b, h, noise[0] if noise else None, static, factor)

    image = "B H W" if labels else "B in_channels H W"

    @module_class("Autoencoder", "forward", x=image)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Images x [B, C, H, W] encoded and decoded, without randomness."""
        return bounded(b, decoded(b, bottleneck.mode(b, encoded(b, x, static), static), static))

    @module_class("Autoencoder", "encode", x=image)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes of images x [B, C, H, W]."""
        return bottleneck.codes(b, encoded(b, x, static), static)

    @module_class("Autoencoder", "decode", **({} if bottleneck.discrete else {"z": "B latent H W"}))
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, C, H, W] of latents or tokens z."""
        return bounded(b, decoded(b, bottleneck.latents(b, z, static), static))

    @module_class("Autoencoder", "decode_latents", z="B latent H W")
    def decode_latents(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, C, H, W] of latents z, which no tokens need stand for."""
        return bounded(b, decoded(b, z, static))

    @module_class("Autoencoder", "regularized", x=image)
    def regularized(b: Builder, x: Var, *more: Var, **static: Any) -> tuple[Var, Var]:
        """Images x [B, C, H, W] encoded and decoded as in training, and the penalty [B] on their codes."""
        h = encoded(b, x, static)
        z, penalty = drawn(b, h, more, static)
        return decoded(b, z, static), penalty

    @module_class("Autoencoder", "regularized_features", x=image)
    def regularized_features(b: Builder, x: Var, *more: Var, **static: Any) -> tuple[Var, Var, Var]:
        """The same, and the features [B, width, H, W] that the last convolution maps to the images."""
        h = encoded(b, x, static)
        z, penalty = drawn(b, h, more, static)
        return *decoded(b, z, static, True), penalty

    bodies = (forward, encode, decode, decode_latents, regularized, regularized_features)
    return {body.method: body for body in bodies}
