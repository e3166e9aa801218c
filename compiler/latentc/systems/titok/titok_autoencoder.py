"""TiTok's tokenizer: queries read an image, and their codes are all that its decoder sees.

A network of its own: its decoder may predict the tokens of another tokenizer, whose codebook and convolutional decoder
then are a part of it. Symbols: B batch, C channels, H side of the image, T patches of the decoder, N tokens, D width, Z
channels of the latents, V proxy codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Closed, OneOf, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.autoencoder import Blocks, Half, decoder
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.kit.patches import problems_of_square
from latentc.components.parts import Problem, Spec, Weights, a_divisor
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, TensorType
from latentc.systems.titok.halves import token_decoder, token_encoder


class PixelDecoder(Closed):
    """The decoder of the tokenizer that the proxy codes are of, as MaskGIT's: convolutions without attention."""

    channels: int = Field(gt=0, le=65_536, description="channels of a row of the codebook")
    width: int = Field(gt=0, le=65_536, description="base channels, multiplied by `multipliers` (128 as published)")
    multipliers: tuple[Size, ...] = Field(
        min_length=1,
        max_length=16,
        description="channels of each level as a multiple of `width`, from the highest resolution down",
    )
    blocks: int = Field(2, gt=0, le=64, description="residual blocks per level, and at the lowest resolution")
    groups: int = Field(32, gt=0, le=1_024, description="groups of each GroupNorm")

    @property
    def factor(self) -> int:
        """Pixels per code along each side."""
        return int(2 ** (len(self.multipliers) - 1))

    @property
    def half(self) -> Half:
        blocks = Blocks(self.groups, 1e-6, 0.0, biases=False, shortcut_of="output")
        return Half(self.multipliers, self.blocks, (), False, blocks, self.blocks)


class TitokAutoencoder(Backbone):
    """Tokenizer of images as a sequence of N tokens without places in the image (TiTok, Yu et al. 2024,
    arXiv:2406.07550).

    Takes square images x f32[B, C, H, H]. The encoder reads learned queries behind a class token and the patches, and
    the queries become codes; the decoder reads a mask token per patch in front of them. With `proxies` it predicts a
    distribution over the codes of another tokenizer for each patch, which `pixels` decodes; without these the network
    cannot decode images alone. Latents are f32[B, Z, N, 1].
    """

    kind: Literal["titok_autoencoder"]
    tokens: int = Field(gt=0, le=1_048_576, description="number of tokens of an image (N), whatever its size")
    width: int = Field(gt=0, le=65_536, description="channels of an encoder token (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    patch: int = Field(gt=0, le=1_024, description="side of a patch of the encoder, in pixels")
    block: Block = Field(description="block of the encoder")
    decoder_width: int | None = Field(None, gt=0, le=65_536, description="channels of a decoder token; null: `width`")
    decoder_depth: int | None = Field(None, gt=0, le=512, description="blocks of the decoder; null: `depth`")
    decoder_patch: int | None = Field(
        None, gt=0, le=1_024, description="side of a patch of the decoder, in pixels; null: `patch`"
    )
    decoder_block: Block | None = Field(None, description="block of the decoder; null: as `block`")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="type of the codes")
    proxies: int | None = Field(
        None,
        gt=1,
        le=16_777_216,
        description="number of codes of another tokenizer (V), one of which the decoder predicts for each patch; null: "
        "the decoder's output are pixels",
    )
    pixels: PixelDecoder | None = Field(
        None, description="with `proxies`: decodes the mean of their rows into images; null: only logits (stage 1)"
    )
    misordered: bool = Field(
        False,
        description="read the numbers of the queries [N, D] as [D, N] without transposing them, as the authors' first "
        "checkpoints",
    )
    weights: Weights = Field("normal", description="initialisation of linear layers")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode", "proxy_tokens"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "titok_autoencoder",
        "tokens": 3,
        "width": 16,
        "depth": 1,
        "patch": 4,
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "bottleneck": {"kind": "codebook", "size": 16, "channels": 4, "normalize": True},
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "rows")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        proxies = self.proxies is not None and self.pixels is None
        return self.PROVIDES - {"autoencode" if proxies else "proxy_tokens"}

    @property
    def outward_block(self) -> Block:
        """The block of the decoder."""
        return self.decoder_block or self.block

    @property
    def outward_width(self) -> int:
        """Channels of a token of the decoder."""
        return self.decoder_width or self.width

    @property
    def outward_patch(self) -> int:
        """Side of a patch of the decoder."""
        return self.decoder_patch or self.patch

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        yield from self._problems_of_decoder(spec)
        for block, width in ((self.block, self.width), (self.outward_block, self.outward_width)):
            yield from block.problems_of_width(width)
            yield from block.problems_of_condition(self.kind, None)
        if self.bottleneck.square is not None:
            message = "the bottleneck needs a square of tokens, but here they are a sequence"
            yield Problem(("bottleneck",), message, "use `{kind: codebook}`")
        yield from self.problems_of_conditions(spec)

    def _problems_of_decoder(self, spec: Spec) -> Iterator[Problem]:
        size = spec.data.shape[1] if spec.data.shape is not None and len(spec.data.shape) == 3 else 0
        if size % self.outward_patch:
            message = f"patches of {self.outward_patch} do not tile a side of {size}"
            yield Problem(("decoder_patch",), message, a_divisor(size))
        pixels = self.pixels
        if pixels is None:
            return
        if self.proxies is None:
            yield Problem(("pixels",), "`pixels` decodes proxy codes, but there are none", "set `proxies`")
        if pixels.factor != self.outward_patch:
            message = f"a code becomes {pixels.factor} pixels along each side, but patches have {self.outward_patch}"
            yield Problem(("pixels", "multipliers"), message, "change the number of levels or `decoder_patch`")
        for i, multiplier in enumerate(pixels.multipliers):
            if multiplier * pixels.width % pixels.groups:
                message = f"{multiplier * pixels.width} channels do not divide into {pixels.groups} groups"
                yield Problem(("pixels", "multipliers", i), message, "change `width` or `groups`")

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        assert spec.data.shape is not None
        return (Port("x", f32(B, *spec.data.shape), "state"),), self.bottleneck.code_type(self.tokens, 1)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self.bottleneck.decoded_type(self.tokens, 1), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        channels, size, _ = spec.data.shape
        pixels, values = self.pixels, self.bottleneck.vocabulary
        static = {
            "channels": channels,
            "size": size,
            "tokens": self.tokens,
            "patch": self.patch,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": self.tokens, "columns": 1} if self.bottleneck.discrete else {}),
            "decoder_patch": self.outward_patch,
            "decoder_width": self.outward_width,
            "decoder_depth": self.decoder_depth or self.depth,
            **{f"decoder_{key}": value for key, value in self.outward_block.static(self.outward_width).items()},
            **({} if self.proxies is None else {"proxies": self.proxies}),
            **({} if pixels is None else {"proxy_channels": pixels.channels, "pixel_width": pixels.width}),
        }
        x = Port("x", f32(B, *spec.data.shape), "state")
        z = Port("z", self.bottleneck.decoded_type(self.tokens, 1), "state", values)
        noise = self.bottleneck.noise_ports(self.tokens, 1)
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[list[Port], tuple[Role, ...]]] = {"encode": ([x], plain)}
        if "autoencode" in self.provides(spec):
            wanted |= {"forward": ([x], plain), "decode": ([z], plain)}
            wanted["regularized"] = ([x, *noise], ("output", "penalty"))
        else:
            wanted["proxies"] = ([z], ("logits",))
            wanted["regularized_proxies"] = ([x, *noise], ("logits", "penalty"))
        bodies = _methods(self)
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        if values is not None:
            of_encode = methods["encode"].outputs
            methods["encode"] = replace(
                methods["encode"], outputs=tuple(replace(port, values=values) for port in of_encode)
            )
        sizes = {"levels": 0 if pixels is None else len(pixels.multipliers), "proxied": int(self.proxies is not None)}
        return Network(name, methods, self.provides(spec), sizes=sizes)


@cache
def _methods(config: TitokAutoencoder) -> dict[str, BlockBody]:
    bottleneck, pixels = config.bottleneck, config.pixels

    def encoded(b: Builder, x: Var, static: dict[str, Any]) -> Var:
        """The input f32[B, Z or more, N, 1] of the bottleneck."""
        outputs, tokens = bottleneck.encoded * static["latent"], static["tokens"]
        sizes = {key: static[key] for key in ("channels", "size", "patch", "tokens", "width", "depth")}
        own = {key: static[key] for key in config.block.static(config.width)}
        body = token_encoder(config.block, config.weights, config.misordered)
        h = b.sub("encoder", body, x, out="h", outputs=outputs, **sizes, **own)
        return b.reshape(h, shape=(x.shape[0], outputs, tokens, 1), out="h")

    def read(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        """What the decoder makes of latents f32[B, Z, N, 1]: images, or logits f32[B, T, V]."""
        z = b.reshape(z, shape=(z.shape[0], static["latent"], static["tokens"]), out="z")
        own = {key: static[f"decoder_{key}"] for key in ("patch", "width", "depth")}
        own |= {key: static[f"decoder_{key}"] for key in config.outward_block.static(config.outward_width)}
        own |= {key: static[key] for key in ("latent", "size", "tokens")}
        outputs = static["channels"] if config.proxies is None else static["proxies"]
        body = token_decoder(config.outward_block, config.weights, config.proxies is not None)
        return b.sub("decoder", body, z, out="x" if config.proxies is None else "logits", outputs=outputs, **own)

    def decoded(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        """Images of latents f32[B, Z, N, 1]."""
        x = read(b, z, static)
        if pixels is None:
            return x
        channels, grid = static["proxy_channels"], static["size"] // static["decoder_patch"]
        table = b.param("pixel_codebook.weight", f32(static["proxies"], channels), "normal", std=1.0)
        x = b.matmul(b.softmax(x, axis=2, out="p"), table, out="x")
        x = b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(x.shape[0], channels, grid, grid), out="x")
        sizes = {"latent": channels, "channels": static["pixel_width"], "outputs": static["channels"]}
        return b.sub("pixel_decoder", decoder(pixels.half), x, out="x", **sizes)

    def trained(b: Builder, x: Var, noise: tuple[Var, ...], static: dict[str, Any]) -> tuple[Var, Var]:
        """Latents of images in training, and the penalty on them."""
        return bottleneck.regularized(b, encoded(b, x, static), noise[0] if noise else None, static)

    picture = "B channels size size"

    @module_class("TitokAutoencoder", "forward", x=picture)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Images x [B, C, H, H] encoded and decoded, without randomness."""
        return decoded(b, bottleneck.mode(b, encoded(b, x, static), static), static)

    @module_class("TitokAutoencoder", "encode", x=picture)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes of images x [B, C, H, H]."""
        return bottleneck.codes(b, encoded(b, x, static), static)

    @module_class("TitokAutoencoder", "decode")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Images [B, C, H, H] of latents or tokens z."""
        return decoded(b, bottleneck.latents(b, z, static), static)

    @module_class("TitokAutoencoder", "regularized", x=picture)
    def regularized(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, Var]:
        """Images x [B, C, H, H] encoded and decoded as in training, and the penalty [B] on their codes."""
        z, penalty = trained(b, x, noise, static)
        return decoded(b, z, static), penalty

    @module_class("TitokAutoencoder", "proxies")
    def proxies(b: Builder, z: Var, **static: Any) -> Var:
        """Logits [B, T, V] of the proxy codes of latents or tokens z."""
        return read(b, bottleneck.latents(b, z, static), static)

    @module_class("TitokAutoencoder", "regularized_proxies", x=picture)
    def regularized_proxies(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, Var]:
        """Logits [B, T, V] of the proxy codes of images x in training, and the penalty [B] on their own codes."""
        z, penalty = trained(b, x, noise, static)
        return read(b, z, static), penalty

    bodies = (forward, encode, decode, regularized, proxies, regularized_proxies)
    return {body.method: body for body in bodies}
