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
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf, Size
from latentc.components.backbone import Backbone, add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck, TableBottleneck
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability, Role
from latentc.components.contract import Network, Port
from latentc.components.fields import Codes
from latentc.components.networks._query_parts import (
    Grid,
    LatentNorm,
    Place,
    embedded,
    filled_up,
    from_patches,
    norm_sizes,
    normed,
    patches_of,
    positions_of,
    shortened,
)
from latentc.components.parts import Positions, Problem, Spec, Weights, a_divisor, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, TensorType


class QueryAutoencoder(Backbone):
    """Holistic tokenizer (LARP, Wang et al. 2024, arXiv:2410.21264), or one of patches (ViTok, arXiv:2501.09755).

    Takes x f32[B, C, F, H, W] or f32[B, C, H, W]. The encoder processes N queries together with the patches, and the
    queries' outputs become codes; the decoder processes patch queries together with the codes. Without `tokens`, both
    process only patches, each of which is a token. Latents are f32[B, Z, N]. With `code_sequence`, losses may read them
    as a sequence.
    """

    kind: Literal["query_autoencoder"]
    tokens: int | None = Field(
        1024,
        gt=0,
        le=1_048_576,
        description="number of tokens per sample (N), independent of its size; null: one per patch",
    )
    width: int = Field(gt=0, le=65_536, description="channels of an encoder token (D)")
    depth: int = Field(gt=0, le=512, description="blocks of the encoder")
    decoder_depth: int | None = Field(None, gt=0, le=512, description="blocks of the decoder; null: `depth`")
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels")
    frames: int = Field(gt=0, le=1_024, description="frames per patch")
    block: Block = Field(description="the repeated block")
    bottleneck: Annotated[Bottleneck, OneOf("blocks/bottlenecks")] = Field(description="type of the codes")
    stored: tuple[Place, ...] = Field(
        (),
        max_length=4,
        description="what has its positions in one table f32[1, T, D] that checkpoints contain",
    )
    unplaced: tuple[Place, ...] = Field((), max_length=4, description="what gets no positions")
    lengths: tuple[Size, ...] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="numbers of latents that training keeps per sample, drawn uniformly; a learned vector replaces "
        "the remaining ones. null: all",
    )
    encoder_norm: bool = Field(False, description="norm after the encoder's blocks, as after the decoder's")
    latent_norm: LatentNorm | None = Field(
        None,
        description="norm of the bottleneck's input: `layer` over the channels of a token, `layer_whole` over all "
        "tokens; `batch` per channel over batch and tokens, `batch_whole` per channel and token",
    )
    reads: str | None = Field(
        None, description="data field that it encodes, for an `encoded` condition; null: the samples themselves"
    )
    filled_to: int | None = Field(
        None,
        gt=0,
        le=1_024,
        description="frames to which shorter videos are extended by their last one; null: the video's own",
    )
    base: float = Field(
        10000.0, gt=1, le=1e12, description="longest period of the sinusoids of latents and queries, over 2 pi"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
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

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("tokens", "rows")

    def provides(self, spec: Spec) -> frozenset[Capability]:
        rows = self.bottleneck.discrete and isinstance(self.bottleneck, TableBottleneck) and self.bottleneck.numbered
        return self.PROVIDES if rows else self.PROVIDES - {"code_sequence"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from _problems(self, spec)

    def read_shape(self, spec: Spec) -> tuple[int, ...]:
        """Shape of the field it encodes; (0, 0, 0) if the field is missing or has the wrong rank."""
        field = spec.data.fields.get(self.reads or "x")
        return (0, 0, 0) if field is None or len(field.shape) not in (3, 4) else field.shape

    def sample_shape(self, spec: Spec) -> tuple[int, ...]:
        """That shape, with the frames that fill it up."""
        shape = self.read_shape(spec)
        return shape if len(shape) != 4 or self.filled_to is None else (shape[0], self.filled_to, *shape[2:])

    @property
    def queries(self) -> int | None:
        """Tokens that are queries in the sequences; None: these hold patches alone."""
        return self.tokens

    @property
    def every_patch(self) -> bool:
        """Whether each patch is a token."""
        return self.tokens is None

    @property
    def outward_block(self) -> Block:
        """The block of the decoder."""
        return self.block

    @property
    def outward_width(self) -> int:
        """Channels of a token of the decoder."""
        return self.width

    @property
    def final_norm(self) -> LayerNorm:
        """The norm after the blocks."""
        return LayerNorm(kind="layer_norm", eps=1e-6, affine=True)

    def learns(self, place: Place) -> bool:
        """Whether these positions are learned, rather than sinusoids."""
        return place == "queries"

    def types(self, place: Place) -> bool:
        """Whether these have a learned type embedding."""
        return False

    def rotary_positions(self) -> Positions | None:
        """Rotary positions of every attention."""
        return None

    def token_count(self, spec: Spec) -> int:
        """Tokens of a sample (N)."""
        return self.tokens or math.prod(self.grid(spec))

    def grid(self, spec: Spec) -> Grid:
        """The grid of its patches."""
        return patches_of(self.sample_shape(spec), self.frames, self.patch)

    def filled_up(self, b: Builder, x: Var, frames: int) -> Var:
        """A video x f32[B, C, F, H, W], extended to so many frames."""
        return filled_up(b, x, frames)

    def read(self, b: Builder, x: Var, queries: Var) -> tuple[Var, int]:
        """The encoder's input f32[B, T + N, D] of patches and queries, and the place of the first query."""
        return b.concat(x, queries, axis=1, out="x"), int(x.shape[1])

    def as_tokens(self, b: Builder, x: Var, grid: Grid, tokens: Any) -> Var:
        """Vectors f32[B, N, D] that become latents, from the encoder's outputs of patches, or of queries."""
        return x

    def from_latents(self, b: Builder, z: Var, grid: Grid, width: Any) -> Var:
        """The decoder's tokens f32[B, N or T, D] of latents f32[B, N, Z]; `grid` is of its patches."""
        return dense(b, "from_latents", z, width, True, self.weights, out="x")

    def from_patches(self, b: Builder, x: Var, channels: Any, grid: Grid, kernel: Grid, space: tuple[int, ...]) -> Var:
        """Tokens x f32[B, T, D] of patches of size `kernel` as f32[B, C, *space]."""
        return from_patches(b, x, channels, grid, kernel, space)

    def _sequence(self, of: TensorType) -> TensorType:
        """A type [B, Z, N, 1] of the bottleneck, as [B, Z, N] if it can work on that."""
        return of.with_shape(of.shape[:3]) if self.bottleneck.ANY_RANK else of

    def _latents(self, spec: Spec) -> TensorType:
        """The type of what `decode` is given."""
        return self._sequence(self.bottleneck.decoded_type(self.token_count(spec), 1))

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        of = self.bottleneck.code_type(self.token_count(spec), 1)
        return (Port(self.reads or "x", f32(B, *self.read_shape(spec)), "state"),), self._sequence(of)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self._latents(spec), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        shape = self.sample_shape(spec)
        width, tokens = self.outward_width, self.token_count(spec)
        static = {
            "in_channels": shape[0],
            "tokens": tokens,
            "width": self.width,
            "depth": self.depth,
            "decoder_width": width,
            "decoder_depth": self.decoder_depth or self.depth,
            **self.block.static(self.width),
            **{f"decoder_{key}": size for key, size in self.outward_block.static(width).items()},
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": tokens, "columns": 1} if self.bottleneck.discrete else {}),
        }
        x = Port("x", f32(B, *self.read_shape(spec)), "state")
        z = Port("z", self._latents(spec), "state", self.bottleneck.vocabulary)
        noise = [replace(port, type=self._sequence(port.type)) for port in self.bottleneck.noise_ports(tokens, 1)]
        if self.lengths:
            noise.append(Port("kept", f32(B), "noise", distribution="uniform"))
        bodies = _methods(self, shape[1:])
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
        own = {"frames": self.frames, "moments": self.bottleneck.encoded}
        return Network(name, methods, self.provides(spec), sizes=own | norm_sizes(self.latent_norm, tokens))


@cache
def _methods(config: QueryAutoencoder, space: tuple[int, ...]) -> dict[str, BlockBody]:
    """The methods by name; `space`: frames and sides of a sample, or the sides of an image."""
    bottleneck, weights = config.bottleneck, config.weights
    final_norm = config.final_norm
    patch, depth_of_patch = config.patch, config.frames
    count = patches_of((1, *space), depth_of_patch, patch)
    image = len(space) == 2

    def run(b: Builder, name: str, block_: Block, x: Var, count: Any, width: Any, sizes: dict[str, Any]) -> Var:
        mixer, feed_forward, norm, condition = block_.parts()
        block = condition.block(mixer, feed_forward, norm, weights)
        rotary: tuple[Var, ...] = ()
        if (turning := config.rotary_positions()) is not None:
            grid, length = (space[-1] // config.patch, 0) if turning.GRIDDED else (0, x.shape[1])
            called = "freqs" if name == "encoder" else f"{name}_freqs"
            rotary = turning.rotary(b, width // sizes.get("heads", 1), grid, length, called)
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
        """The input of the bottleneck: f32[B, Z, N, 1], or f32[B, Z, N]."""
        batch, width, tokens = x.shape[0], static["width"], static["tokens"]
        grid = patches_of((1, *space), config.frames, config.patch)
        x = x if config.filled_to is None else config.filled_up(b, x, config.filled_to)
        patches = tokens if config.every_patch else math.prod(grid)
        x = embedded(b, x, (config.frames, config.patch, config.patch), width, patches)
        x = placed(b, x, "patches", grid, width)
        if config.queries:
            queries = placed(b, None, "queries", (tokens,), width)
            queries = b.broadcast_to(queries, x, shape=(batch, tokens, width), out="queries")
            x, start = config.read(b, x, queries)
        x = run(
            b, "encoder", config.block, x, static["depth"], width, config.block.own(width, {**static, "grid": grid[-1]})
        )
        if config.encoder_norm:
            x = final_norm.apply(b, "encoder_norm", x)
        if config.queries:
            x = b.slice(x, axis=1, start=start, stop=start + int(tokens), out="x")
            x = b.reshape(x, shape=(batch, tokens, width))
        x = config.as_tokens(b, x, grid, tokens)
        wanted = bottleneck.encoded * static["latent"]
        h = dense(b, "to_latents", x, wanted, True, weights, out="h")
        h = h if config.latent_norm is None else normed(b, h, config.latent_norm)
        h = b.transpose(h, perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, wanted, tokens, 1), out="h") if not bottleneck.ANY_RANK else h

    def decoded(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        batch, width, tokens = z.shape[0], static["decoder_width"], static["tokens"]
        z = b.transpose(b.reshape(z, shape=(batch, static["latent"], tokens)), perm=(0, 2, 1), out="z")
        x = config.from_latents(b, z, count, width)
        patches = math.prod(count)
        if config.queries:
            x = placed(b, x, "latents", (tokens,), width)
            outputs = placed(b, None, "outputs", count, width)
            outputs = b.broadcast_to(outputs, x, shape=(batch, patches, width), out="outputs")
            x = b.concat(x, outputs, axis=1, out="x")
        else:
            x = placed(b, x, "outputs", count, width)
        block = config.outward_block
        own = {key: static[f"decoder_{key}"] for key in block.static(int(width))}
        own |= {"grid": count[-1]} if block.spatial else {}
        x = run(b, "decoder", block, x, static["decoder_depth"], width, own)
        if config.queries:
            x = b.slice(x, axis=1, start=int(tokens), stop=int(tokens) + patches, out="x")
        x = final_norm.apply(b, "output_norm", x)
        kernel = (depth_of_patch, patch, patch)
        return config.from_patches(b, x, static["in_channels"], count, kernel, space)

    def regularized_codes(b: Builder, x: Var, noise: Sequence[Var], static: dict[str, Any]) -> tuple[Var, Var, Var]:
        given, kept = (noise[:-1], noise[-1]) if config.lengths else (noise, None)
        z, penalty = bottleneck.regularized(b, encoded(b, x, static), given[0] if given else None, static)
        if config.lengths and kept is not None:
            z = shortened(b, z, kept, config.lengths, static["latent"], static["tokens"])
        return decoded(b, z, static), penalty, z

    def sequence(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        x = b.reshape(z, shape=(z.shape[0], static["latent"], static["tokens"]))
        return b.transpose(x, perm=(0, 2, 1), out="z")

    def rows(b: Builder, static: dict[str, Any]) -> Var:
        assert isinstance(bottleneck, TableBottleneck)  # or it does not provide `code_sequence`
        return b.stop_gradient(bottleneck.table(b, static))

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


def _problems(config: QueryAutoencoder, spec: Spec) -> Iterator[Problem]:
    """Fields that do not fit each other or the data."""
    if config.reads is not None and config.reads not in spec.data.fields:
        known = ", ".join(spec.data.fields) or "none"
        yield Problem(("reads",), f"the data has no field `{config.reads}`", f"fields of the data: {known}")
        return
    shape, given = config.sample_shape(spec), config.read_shape(spec)
    if not shape[-1] or shape[-1] != shape[-2]:
        message = "a query_autoencoder takes square images [C, H, W], or video [C, F, H, W] of square frames, "
        what = spec.data.words if config.reads is None else f"another shape in `{config.reads}`"
        yield Problem((), f"{message}but the data has {what}")
        return
    if config.filled_to is not None and (len(shape) == 3 or given[1] > config.filled_to):
        yield Problem(
            ("filled_to",), f"`filled_to` extends shorter videos, but samples have shape {given}", "leave it out"
        )
        return
    frame_count = shape[1] if len(shape) == 4 else 1
    patch, frames = config.patch, config.frames
    if shape[-1] % patch:
        yield Problem(("patch",), f"patches of {patch} do not tile a side of {shape[-1]}", a_divisor(shape[-1]))
    if frame_count % frames:
        message = f"patches of {frames} frames do not tile {frame_count}"
        yield Problem(("frames",), message, a_divisor(frame_count))
    # Tokens are a square if they are the patches of an image.
    grid = shape[-1] // config.patch if config.queries is None and frame_count == config.frames else None
    yield from config.block.problems_of_width(config.width, grid)
    yield from config.outward_block.problems_of_width(config.outward_width, grid)
    yield from config.block.problems_of_condition(config.kind, None)
    yield from config.outward_block.problems_of_condition(config.kind, None)
    for name, width in (("width", config.width), ("decoder_width", config.outward_width)):
        if width % 4:
            yield Problem((name,), f"2D sinusoidal positions need a width divisible by 4, not {width}")
    if config.bottleneck.square is not None:
        yield Problem(
            ("bottleneck",),
            "the bottleneck needs a square of tokens, but here they are a sequence",
            "use `{kind: codebook}`",
        )
    count = config.token_count(spec)
    for i, length in enumerate(config.lengths or ()):
        if length > count:
            yield Problem(("lengths", i), f"length {length} exceeds the {count} latents")
    if config.lengths and config.provides(spec) - {"autoencode", "encode"}:
        message = "`lengths` keeps only part of the tokens, which a codebook cannot do"
        yield Problem(("lengths",), message, "leave `lengths` out, or use the bottleneck `gaussian`")
    yield from config.problems_of_conditions(spec)
