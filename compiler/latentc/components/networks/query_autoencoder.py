"""An autoencoder made of two transformers, whose codes are a sequence: LARP's tokenizer of video, and ViTok's.

A file of its own because its encoder and decoder are transformers over patches and queries in one sequence; the
`autoencoder` is convolutional, and its codes are a map.

Symbols: B batch, C channels, F frames, H and W sides of a frame, T patches, N tokens (queries or patches), D width,
Z channels of the latents, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf, Size
from latentc.components.backbone import Backbone, add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck, TableBottleneck
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.blocks.planes import as_planes, from_planes, plane_tokens
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.first_stage import Codes
from latentc.components.networks._query_parts import Place, embedded, from_patches, patches_of, positions_of
from latentc.components.parts import Positions, Problem, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class QueryAutoencoder(Backbone):
    """Holistic tokenizer (LARP, Wang et al. 2024, arXiv:2410.21264), or one of patches (ViTok, arXiv:2501.09755).

    Takes x f32[B, C, F, H, W] or f32[B, C, H, W]. The encoder reads N queries beside the patches, whose outputs become
    codes; the decoder reads queries of the patches behind these. Without `tokens` both read patches alone, each of
    which is a token. Latents are f32[B, Z, N]. With `code_sequence`, losses may read them as a sequence.
    """

    kind: Literal["query_autoencoder"]
    tokens: int | None = Field(
        1024, gt=0, le=1_048_576, description="tokens of a sample (N), whatever its size; null: one for each patch"
    )
    width: int = Field(gt=0, le=65_536, description="channels of a token of the encoder (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_width: int | None = Field(None, gt=0, le=65_536, description="those of the decoder; null: `width`")
    decoder_depth: int | None = Field(None, gt=0, le=512, description="those of the decoder; null: `depth`")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    frames: int = Field(gt=0, le=1_024, description="frames of a patch")
    decoder_patch: int | None = Field(None, gt=0, le=1_024, description="side of a patch it decodes; null: `patch`")
    decoder_frames: int | None = Field(None, gt=0, le=1_024, description="frames of such a patch; null: `frames`")
    block: Block = Field(description="the block that is repeated")
    decoder_block: Block | None = Field(None, description="that of the decoder; null: as `block`")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="what codes are")
    learned: tuple[Place, ...] = Field(
        ("queries",), max_length=4, description="whose positions are learned; those of the others are sines and cosines"
    )
    typed: tuple[Place, ...] = Field((), max_length=4, description="what has a learned vector that tells it apart")
    stored: tuple[Place, ...] = Field(
        (),
        max_length=4,
        description="whose positions are one table f32[1, T, D] that checkpoints hold; at first sines and cosines, if "
        "not `learned`",
    )
    unplaced: tuple[Place, ...] = Field((), max_length=4, description="what gets no positions added")
    rotary: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="rotary positions of every attention, along the whole sequence; null: none"
    )
    planes: Literal[3, 4] | None = Field(
        None,
        description="tokens are those of planes, means of the patches over frames, rows and columns (3), or over each "
        "half of the frames, rows and columns (4; Suhail et al. 2024); null: they are not",
    )
    planes_as: Literal["joined", "summed"] = Field(
        "joined", description="what the decoder is told of a patch: its vectors of all planes, or their sum"
    )
    queries_first: bool = Field(False, description="the encoder reads queries before the patches, not behind them")
    lengths: tuple[Size, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="how many latents training keeps of a sample, each as often; a learned vector takes the places of "
        "those behind them. null: all",
    )
    encoder_norm: bool = Field(False, description="a norm behind the blocks of the encoder, as behind the decoder's")
    final_eps: float = Field(1e-6, gt=0, description="eps of the LayerNorm behind the blocks")
    output: Literal["linear", "transposed_conv"] = Field(
        "linear",
        description="how tokens become patches: with a bias for each number of a patch, or for each channel (ViTok)",
    )
    base: float = Field(
        10000.0, gt=1, le=1e12, description="longest period of the sines of latents and queries, over 2 pi"
    )
    weights: Weights = Field("xavier", description="how linear layers start")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"autoencode", "encode", "code_sequence"})
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "query_autoencoder",
        "tokens": 4,
        "width": 16,
        "depth": 1,
        "patch": 4,
        "frames": 2,
        "block": {
            "mixer": {"kind": "attention", "heads": 2, "qkv_bias": False},
            "feed_forward": {"kind": "gelu_mlp", "approximate": "none"},
            "norm": {"kind": "layer_norm", "eps": 1e-5, "affine": True},
            "condition": {"kind": "in_context"},
        },
        "bottleneck": {"kind": "codebook", "size": 16, "channels": 4, "normalize": True, "temperature": 0.03},
    }

    def provides(self, spec: Spec) -> frozenset[Capability]:
        rows = self.bottleneck.discrete and isinstance(self.bottleneck, TableBottleneck) and self.bottleneck.numbered
        return self.PROVIDES if rows else self.PROVIDES - {"code_sequence"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) not in (3, 4) or shape[-1] != shape[-2]:
            message = "a query_autoencoder takes square images [C, H, W], or video [C, F, H, W] of square frames, "
            yield Problem((), f"{message}but the data has {spec.data.words}")
            return
        frame_count = shape[1] if len(shape) == 4 else 1
        for prefix, patch, frames in (("", self.patch, self.frames), ("decoder_", *self._decoded)):
            if shape[-1] % patch:
                yield Problem((f"{prefix}patch",), f"patches of {patch} do not tile a side of {shape[-1]}")
            if frame_count % frames:
                yield Problem((f"{prefix}frames",), f"patches of {frames} frames do not tile {frame_count}")
        # Tokens are a square if they are the patches of an image.
        grid = shape[-1] // self.patch if self.tokens is None and frame_count == self.frames else None
        yield from self.block.problems_of_width(self.width, grid)
        yield from self._decoder_block.problems_of_width(self.decoder_width or self.width, grid)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self._decoder_block.problems_of_condition(self.kind, None)
        for name, width in (("width", self.width), ("decoder_width", self.decoder_width or self.width)):
            if width % 4:
                yield Problem((name,), f"sines and cosines of rows and columns need a width that divides by 4: {width}")
        if self.bottleneck.square is not None:
            yield Problem(("bottleneck",), "tokens are a sequence, without a side", "use `{kind: codebook}`")
        if self._decoded != (self.patch, self.frames) and self.tokens is None:
            name = "decoder_patch" if self._decoded[0] != self.patch else "decoder_frames"
            yield Problem((name,), "tokens are patches, so the decoder has those of the encoder", "leave it out")
        if self.planes is not None and self.tokens is not None:
            yield Problem(("tokens",), "tokens are those of planes, not of queries", "set `tokens: null`")
        elif self.planes == 4 and (frame_count // self.frames) % 2:
            message = f"{frame_count // self.frames} patches along the frames have no two halves"
            yield Problem(("planes",), message, "use `planes: 3`, or an even number")
        count = self._count(spec)
        for i, length in enumerate(self.lengths or ()):
            if length > count:
                yield Problem(("lengths", i), f"there are {count} latents, fewer than {length}")
        if self.lengths and self.provides(spec) - {"autoencode", "encode"}:
            message = "tokens of a codebook are not kept in part"
            yield Problem(("lengths",), message, "leave it out, or use the bottleneck `gaussian`")
        yield from self._problems_of_rotary(frame_count)
        yield from self.problems_of_conditions(spec)

    def _problems_of_rotary(self, frames: int) -> Iterator[Problem]:
        if not isinstance(self.rotary, Positions):
            return
        if not self.rotary.ROTARY:
            yield Problem(("rotary",), f"`{self.rotary.kind}` is not rotary", "use `{kind: rope_1d}`")
        elif self.rotary.GRIDDED and (self.tokens is not None or frames != self.frames):
            message = f"`{self.rotary.kind}` is of a square of patches alone"
            yield Problem(("rotary",), message, "use `{kind: rope_1d}`, or images and `tokens: null`")

    @property
    def _decoded(self) -> tuple[int, int]:
        return self.decoder_patch or self.patch, self.decoder_frames or self.frames

    @property
    def _decoder_block(self) -> Block:
        return self.decoder_block or self.block

    def _count(self, spec: Spec) -> int:
        """Tokens of a sample (N)."""
        grid = patches_of(spec.data.shape or (), self.frames, self.patch)
        if self.planes is not None:
            return plane_tokens(grid, self.planes)
        return self.tokens or math.prod(grid)

    def _sequence(self, of: TensorType) -> TensorType:
        """A type [B, Z, N, 1] of the bottleneck, as [B, Z, N] if it can work on that."""
        return of.with_shape(of.shape[:3]) if self.bottleneck.ANY_RANK else of

    def _latents(self, spec: Spec) -> TensorType:
        """The type of what `decode` is given."""
        return self._sequence(self.bottleneck.decoded_type(self._count(spec), 1))

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        assert spec.data.shape is not None
        of = self.bottleneck.code_type(self._count(spec), 1)
        return (Port("x", f32(B, *spec.data.shape), "state"),), self._sequence(of)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self._latents(spec), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        width, tokens = self.decoder_width or self.width, self._count(spec)
        static = {
            "in_channels": spec.data.shape[0],
            "tokens": tokens,
            "width": self.width,
            "depth": self.depth,
            "decoder_width": width,
            "decoder_depth": self.decoder_depth or self.depth,
            **self.block.static(self.width),
            **{f"decoder_{key}": size for key, size in self._decoder_block.static(width).items()},
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": tokens, "columns": 1} if self.bottleneck.discrete else {}),
        }
        x = Port("x", f32(B, *spec.data.shape), "state")
        z = Port("z", self._latents(spec), "state", self.bottleneck.vocabulary)
        noise = [replace(port, type=self._sequence(port.type)) for port in self.bottleneck.noise_ports(tokens, 1)]
        if self.lengths:
            noise.append(Port("kept", f32(B), "noise", distribution="uniform"))
        bodies = _methods(self, spec.data.shape[1:])
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[Sequence[Port], tuple[Role, ...]]] = {
            "forward": ([x], plain),
            "encode": ([x], plain),
            "decode": ([z], plain),
            "regularized": ([x, *noise], ("output", "penalty")),
        }
        if asks(spec, name, "code_sequence"):
            sequence = Port("z", f32(B, tokens - 1, self.bottleneck.channels), "features")
            index = Port("index", i64(B, tokens - 1), "token", self.bottleneck.vocabulary)
            wanted |= {
                "regularized_codes": ([x, *noise], ("output", "penalty", "features", "token")),
                "likeness": ([sequence], ("logits",)),
                "vectors": ([index], plain),
            }
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        return Network(name, methods, self.provides(spec), sizes={"frames": self.frames})


@cache
def _methods(config: QueryAutoencoder, space: tuple[int, ...]) -> dict[str, BlockBody]:
    """`space`: frames and sides of a sample, or the sides of an image."""
    bottleneck, weights = config.bottleneck, config.weights
    final_norm = LayerNorm(kind="layer_norm", eps=config.final_eps, affine=True)
    patch, depth_of_patch = config._decoded
    count = patches_of((1, *space), depth_of_patch, patch)
    image = len(space) == 2

    def run(b: Builder, name: str, block_: Block, x: Var, count: Any, width: Any, sizes: dict[str, Any]) -> Var:
        mixer, feed_forward, norm, condition = block_.parts()
        block = condition.block(mixer, feed_forward, norm, weights)
        rotary: tuple[Var, ...] = ()
        if isinstance(config.rotary, Positions):
            grid, length = (space[-1] // config.patch, 0) if config.rotary.GRIDDED else (0, x.shape[1])
            rotary = config.rotary.rotary(
                b, width // sizes.get("heads", 1), grid, length, "freqs" if name == "encoder" else f"{name}_freqs"
            )
        for item in items(f"{name}_blocks", count):
            x = b.sub(item, block, x, *rotary, dim=width, **sizes)
        return x

    def placed(b: Builder, x: Var | None, place: Place, sizes: tuple[int, ...], width: Any) -> Var:
        """Tokens x with their positions added; None: the positions alone."""
        if place in config.unplaced and x is not None:
            return x
        at = positions_of(b, place, sizes, width, config)
        return at if x is None else b.add(at, x, out="x") if place == "patches" else b.add(x, at, out="x")

    def encoded(b: Builder, x: Var, static: dict[str, Any]) -> Var:
        """What the bottleneck takes: f32[B, Z, N, 1], or f32[B, Z, N]."""
        batch, width, tokens = x.shape[0], static["width"], static["tokens"]
        grid = patches_of((1, *space), config.frames, config.patch)
        patches = math.prod(grid) if config.tokens or config.planes else tokens
        x = embedded(b, x, (config.frames, config.patch, config.patch), width, patches)
        x = placed(b, x, "patches", grid, width)
        if config.tokens:
            queries = placed(b, None, "queries", (tokens,), width)
            queries = b.broadcast_to(queries, x, shape=(batch, tokens, width), out="queries")
            x = b.concat(*((queries, x) if config.queries_first else (x, queries)), axis=1, out="x")
        x = run(
            b, "encoder", config.block, x, static["depth"], width, config.block.own(width, {**static, "grid": grid[-1]})
        )
        if config.encoder_norm:
            x = final_norm.apply(b, "encoder_norm", x)
        if config.tokens:
            start = 0 if config.queries_first else patches
            x = b.slice(x, axis=1, start=start, stop=start + int(tokens), out="x")
            x = b.reshape(x, shape=(batch, tokens, width))
        if config.planes is not None:
            x = b.reshape(as_planes(b, x, grid, config.planes), shape=(batch, tokens, width), out="x")
        wanted = bottleneck.encoded * static["latent"]
        h = dense(b, "to_latents", x, wanted, True, weights, out="h")
        h = b.transpose(h, perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, wanted, tokens, 1), out="h") if not bottleneck.ANY_RANK else h

    def decoded(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        batch, width, tokens = z.shape[0], static["decoder_width"], static["tokens"]
        z = b.transpose(b.reshape(z, shape=(batch, static["latent"], tokens)), perm=(0, 2, 1), out="z")
        if config.planes is not None:
            z = from_planes(b, z, count, config.planes, config.planes_as == "joined")
        x = dense(b, "from_latents", z, width, True, weights, out="x")
        patches = math.prod(count)
        if config.tokens:
            x = placed(b, x, "latents", (tokens,), width)
            outputs = placed(b, None, "outputs", count, width)
            outputs = b.broadcast_to(outputs, x, shape=(batch, patches, width), out="outputs")
            x = b.concat(x, outputs, axis=1, out="x")
        else:
            x = placed(b, x, "outputs", count, width)
        block = config._decoder_block
        own = {key: static[f"decoder_{key}"] for key in block.static(int(width))}
        own |= {"grid": count[-1]} if block.spatial else {}
        x = run(b, "decoder", block, x, static["decoder_depth"], width, own)
        if config.tokens:
            x = b.slice(x, axis=1, start=int(tokens), stop=int(tokens) + patches, out="x")
        x = final_norm.apply(b, "output_norm", x)
        kernel = (depth_of_patch, patch, patch)
        return from_patches(b, x, static["in_channels"], count, kernel, space, config.output)

    def shortened(b: Builder, z: Var, u: Var, static: dict[str, Any]) -> Var:
        """Latents [B, Z, N, ...], of which one of `lengths` is kept, drawn by numbers u [B] between 0 and 1."""
        assert config.lengths is not None
        tokens, most = static["tokens"], len(config.lengths)
        which = b.minimum(b.cast(u * float(most), to="i64"), most - 1, out="which")
        kept = b.take(b.constant(list(config.lengths), "i64", out="lengths"), which, axis=0, out="kept")
        kept = b.reshape(kept, shape=(kept.shape[0], 1, 1), out="kept")
        seen = b.less(b.reshape(b.arange(tokens), shape=(1, 1, tokens)), kept, out="seen")
        others = b.param("mask_token", f32(1, 1, static["latent"]), "zeros")
        others = b.reshape(others, shape=(1, static["latent"], 1), out="others")
        flat = b.reshape(z, shape=(z.shape[0], static["latent"], tokens), out="z")
        return b.reshape(b.where(seen, flat, others), shape=z.shape, out="z")  # type: ignore[no-any-return]

    def regularized_codes(b: Builder, x: Var, noise: Sequence[Var], static: dict[str, Any]) -> tuple[Var, Var, Var]:
        given, kept = (noise[:-1], noise[-1]) if config.lengths else (noise, None)
        z, penalty = bottleneck.regularized(b, encoded(b, x, static), given[0] if given else None, static)
        if kept is not None:
            z = shortened(b, z, kept, static)
        return decoded(b, z, static), penalty, z

    def sequence(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        x = b.reshape(z, shape=(z.shape[0], static["latent"], static["tokens"]))
        return b.transpose(x, perm=(0, 2, 1), out="z")

    def rows(b: Builder, static: dict[str, Any]) -> Var:
        assert isinstance(bottleneck, TableBottleneck)  # or it does not provide `code_sequence`
        return b.stop_gradient(bottleneck.table(b, static))  # type: ignore[no-any-return]

    sample = "B in_channels H W" if image else "B in_channels F H W"

    @module_class("QueryAutoencoder", "forward", x=sample)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Samples x encoded and decoded, without randomness."""
        return decoded(b, bottleneck.mode(b, encoded(b, x, static), static), static)

    @module_class("QueryAutoencoder", "encode", x=sample)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes of samples x."""
        return bottleneck.codes(b, encoded(b, x, static), static)

    @module_class("QueryAutoencoder", "decode")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Samples of latents or tokens z."""
        return decoded(b, bottleneck.latents(b, z, static), static)

    @module_class("QueryAutoencoder", "regularized", x=sample)
    def regularized(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, Var]:
        """Samples x encoded and decoded as in training, and the penalty [B] on its codes."""
        return regularized_codes(b, x, noise, static)[:2]

    @module_class("QueryAutoencoder", "regularized_codes", x=sample)
    def with_codes(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, ...]:
        """As regularized, with the latents as a sequence [B, N, Z] and the tokens [B, N] that they are."""
        made, penalty, z = regularized_codes(b, x, noise, static)
        return made, penalty, sequence(b, z, static), bottleneck.codes(b, b.stop_gradient(z), static)

    @module_class("QueryAutoencoder", "likeness", z="B N latent")
    def likeness(b: Builder, z: Var, **static: Any) -> Var:
        """Products of vectors z with the rows of the codebook, which stay."""
        return b.linear(z, rows(b, static), out="likeness")

    @module_class("QueryAutoencoder", "vectors", index="B N")
    def vectors(b: Builder, index: Var, **static: Any) -> Var:
        """The rows of the codebook that tokens name, which stay."""
        return b.embedding(rows(b, static), index, out="vectors")

    bodies = (forward, encode, decode, regularized, with_codes, likeness, vectors)
    return {body.method: body for body in bodies}


__all__ = ["QueryAutoencoder"]
