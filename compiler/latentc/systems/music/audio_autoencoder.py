"""An autoencoder of waveforms: convolutions that reduce the length to few latents, and back.

Symbols: B batch, C channels, L length in samples, Z latent channels, f samples per latent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size, layers
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.music.parts import reduced, residual_block

LOG_VARIANCE = -30.0  # of codes: latents are not drawn


class AudioAutoencoder(Backbone):
    """Encoder and decoder of waveforms with latents in (-1, 1), as Moûsai bounds them (Schneider et al. 2023).

    Takes waveforms x f32[B, C, L]; codes are f32[B, 2 Z, L / f], the latents and their log-variance, which says that
    they are certain. f is the product of `factors`. Its decoder is convolutional, where Moûsai's is a diffusion model.
    """

    kind: Literal["audio_autoencoder"]
    widths: tuple[Size, ...] = Field(min_length=1, max_length=16, description="channels of each level")
    factors: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="factor by which each level reduces the length"
    )
    blocks: tuple[Size, ...] = Field(
        min_length=1, max_length=16, description="residual blocks of each level, in encoder and decoder each"
    )
    channels: int = Field(gt=0, le=65_536, description="channels of the latents (Z)")
    groups: int = Field(8, gt=0, le=1_024, description="groups of the group norms")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "audio_autoencoder", "widths": [4, 8], "factors": [1, 4], "blocks": [1, 1], "channels": 3},
        "groups": 2,
    }

    @property
    def factor(self) -> int:
        """Samples per latent (f)."""
        return math.prod(self.factors)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from self.problems_of_conditions(spec)
        for name in ("factors", "blocks"):
            if len(getattr(self, name)) != len(self.widths):
                message = f"{len(getattr(self, name))} `{name}` for {len(self.widths)} levels"
                yield Problem((name,), message, "give one for each of `widths`")
        for i, width in enumerate(self.widths):
            if width % self.groups:
                yield Problem(("widths", i), f"{width} channels do not divide into {self.groups} groups")
        shape = spec.data.shape
        if shape is None or len(shape) != 2:
            yield Problem((), f"an {self.kind} takes waveforms [channels, time], but the data has {spec.data.words}")
        elif shape[1] % self.factor:
            message = f"a waveform of {shape[1]} samples is not a multiple of the {self.factor} samples of a latent"
            yield Problem(("factors",), message, "change the length of the data, or the factors")

    def _types(self, spec: Spec, moments: int = 1) -> tuple[TensorType, TensorType]:
        """The types of waveforms and of latents; of what is no waveform, which `problems` refuses, with zeros."""
        shape = spec.data.shape
        channels, length = shape if shape is not None and len(shape) == 2 else (0, 0)
        return f32(B, channels, length), f32(B, moments * self.channels, length // self.factor)

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        x, codes = self._types(spec, moments=2)
        return (Port("x", x, "state"),), codes

    def codes(self, spec: Spec) -> Codes:
        return Codes(self._types(spec)[1], None, self.factor)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        waves, latents = self._types(spec)
        static = {"in_channels": int(waves.shape[1]), "latent": self.channels}  # type: ignore[arg-type]
        x, z, bodies = Port("x", waves, "state"), Port("z", latents, "state"), _methods(self)
        methods = {
            "forward": add_method(mb, name, "forward", bodies["forward"], [x], static),
            "encode": add_method(mb, name, "encode", bodies["encode"], [x], static),
            "decode": add_method(mb, name, "decode", bodies["decode"], [z], static),
            "regularized": add_method(
                mb, name, "regularized", bodies["regularized"], [x], static, ("output", "penalty")
            ),
        }
        return Network(name, methods, self.PROVIDES, sizes={"levels": len(self.widths)})


@cache
def _methods(config: AudioAutoencoder) -> dict[str, BlockBody]:
    @module_class("Encoder", x="B in_channels L")
    def encoder(b: Builder, x: Var, *, in_channels: int, latent: int) -> Var:
        """Waveforms [B, C, L] as latents [B, Z, L / f] in (-1, 1)."""
        for i, (width, factor) in enumerate(zip(config.widths, config.factors, strict=True)):
            x = reduced(b, f"levels.{i}.resample", x, width, factor)
            for item in items(f"levels.{i}.blocks", config.blocks[i]):
                x = b.sub(item, residual_block, x, channels=width, groups=config.groups, out="x")
        return b.tanh(layers.conv(b, "output", x, latent, 3, "linear_default", out="x"))

    @module_class("Decoder", z="B latent L")
    def decoder(b: Builder, z: Var, *, in_channels: int, latent: int) -> Var:
        """Latents [B, Z, L / f] as waveforms [B, C, L]."""
        x = layers.conv(b, "input", z, config.widths[-1], 3, "linear_default", out="x")
        for i in reversed(range(len(config.widths))):
            for item in items(f"levels.{i}.blocks", config.blocks[i]):
                x = b.sub(item, residual_block, x, channels=config.widths[i], groups=config.groups, out="x")
            x = b.upsample_nearest(x, factor=config.factors[i], out="x") if config.factors[i] > 1 else x
            features = config.widths[i - 1] if i else in_channels
            x = layers.conv(b, f"levels.{i}.resample", x, features, 3, "linear_default", out="x")
        return x

    @module_class("AudioAutoencoder", "forward", x="B in_channels L")
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Waveforms x [B, C, L] encoded and decoded."""
        return b.sub("decoder", decoder, b.sub("encoder", encoder, x, out="z", **static), **static)

    @module_class("AudioAutoencoder", "encode", x="B in_channels L")
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The latents of waveforms x [B, C, L], and their log-variance."""
        z = b.sub("encoder", encoder, x, out="z", **static)
        return b.concat(z, b.broadcast_to(b.scalar(LOG_VARIANCE, z), z, shape=z.shape), axis=1, out="codes")

    @module_class("AudioAutoencoder", "decode", z="B latent L")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Waveforms [B, C, L] of latents z."""
        return b.sub("decoder", decoder, z, out="x", **static)

    @module_class("AudioAutoencoder", "regularized", x="B in_channels L")
    def regularized(b: Builder, x: Var, **static: Any) -> tuple[Var, Var]:
        """Waveforms x [B, C, L] encoded and decoded, and a penalty [B] on their latents, which is 0."""
        made = b.sub("decoder", decoder, b.sub("encoder", encoder, x, out="z", **static), out="x", **static)
        return made, b.broadcast_to(b.scalar(0.0, x), x, shape=(x.shape[0],), out="penalty")

    return {body.method: body for body in (forward, encode, decode, regularized)}
