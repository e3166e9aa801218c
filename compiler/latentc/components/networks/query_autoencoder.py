"""An autoencoder of video whose codes are those of learned queries, not of patches: LARP's tokenizer.

A file of its own because its encoder and decoder are transformers over patches and queries in one sequence; the
`autoencoder` is convolutional, and its codes are a map.

Symbols: B batch, C channels, F frames, H and W sides of a frame, T patches, N tokens (queries), D width, Z channels of
the latents, K codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import OneOf
from latentc.components.backbone import Backbone, add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import Bottleneck, TableBottleneck
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.contract import Capability, Network, Port, Role
from latentc.components.first_stage import Codes
from latentc.components.parts import Problem, Weights, dense
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, TensorType

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Place = Literal["patches", "queries", "latents", "outputs"]
"""What has positions: patches and queries of the encoder, latents and output queries of the decoder."""


class QueryAutoencoder(Backbone):
    """Holistic tokenizer of video (LARP, Wang et al. 2024, arXiv:2410.21264).

    Takes x f32[B, C, F, H, W]. The encoder reads N learned queries behind the patches, whose outputs are quantised; the
    decoder reads queries of the patches behind these. With `code_sequence`, losses may read the latents as a sequence.
    """

    kind: Literal["query_autoencoder"]
    tokens: int = Field(1024, gt=0, le=1_048_576, description="tokens of a sample (N), whatever its size")
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
        rows = self.bottleneck.discrete and isinstance(self.bottleneck, TableBottleneck)
        return self.PROVIDES if rows else self.PROVIDES - {"code_sequence"}

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 4 or shape[2] != shape[3]:
            message = (
                f"a query_autoencoder takes video [C, F, H, W] of square frames, but the data has {spec.data.words}"
            )
            yield Problem((), message)
            return
        for prefix, patch, frames in (("", self.patch, self.frames), ("decoder_", *self._decoded)):
            if shape[2] % patch:
                yield Problem((f"{prefix}patch",), f"patches of {patch} do not tile a side of {shape[2]}")
            if shape[1] % frames:
                yield Problem((f"{prefix}frames",), f"patches of {frames} frames do not tile {shape[1]}")
        yield from self.block.problems_of_width(self.width)
        yield from self._decoder_block.problems_of_width(self.decoder_width or self.width)
        yield from self.block.problems_of_condition(self.kind, None)
        yield from self._decoder_block.problems_of_condition(self.kind, None)
        for name, width in (("width", self.width), ("decoder_width", self.decoder_width or self.width)):
            if width % 4:
                yield Problem((name,), f"sines and cosines of rows and columns need a width that divides by 4: {width}")
        if self.bottleneck.square is not None:
            yield Problem(("bottleneck",), "tokens are a sequence, without a side", "use `{kind: codebook}`")
        yield from self.problems_of_conditions(spec)

    @property
    def _decoded(self) -> tuple[int, int]:
        return self.decoder_patch or self.patch, self.decoder_frames or self.frames

    @property
    def _decoder_block(self) -> Block:
        return self.decoder_block or self.block

    def encoding(self, spec: Spec) -> tuple[tuple[Port, ...], TensorType]:
        assert spec.data.shape is not None
        return (Port("x", f32(B, *spec.data.shape), "state"),), self.bottleneck.code_type(self.tokens, 1)

    def codes(self, spec: Spec) -> Codes:
        return Codes(self.bottleneck.decoded_type(self.tokens, 1), self.bottleneck.vocabulary, None)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None
        width = self.decoder_width or self.width
        static = {
            "in_channels": spec.data.shape[0],
            "tokens": self.tokens,
            "width": self.width,
            "depth": self.depth,
            "decoder_width": width,
            "decoder_depth": self.decoder_depth or self.depth,
            **self.block.static(self.width),
            **{f"decoder_{key}": size for key, size in self._decoder_block.static(width).items()},
            "latent": self.bottleneck.channels,
            **self.bottleneck.static(),
            **({"rows": self.tokens, "columns": 1} if self.bottleneck.discrete else {}),
        }
        x = Port("x", f32(B, *spec.data.shape), "state")
        z = Port("z", self.bottleneck.decoded_type(self.tokens, 1), "state", self.bottleneck.vocabulary)
        noise = self.bottleneck.noise_ports(self.tokens, 1)
        bodies = _methods(self, spec.data.shape[1], spec.data.shape[2])
        plain: tuple[Role, ...] = ("output",)
        wanted: dict[str, tuple[Sequence[Port], tuple[Role, ...]]] = {
            "forward": ([x], plain),
            "encode": ([x], plain),
            "decode": ([z], plain),
            "regularized": ([x, *noise], ("output", "penalty")),
        }
        if asks(spec, name, "code_sequence"):
            sequence = Port("z", f32(B, self.tokens - 1, self.bottleneck.channels), "features")
            index = Port("index", i64(B, self.tokens - 1), "token", self.bottleneck.vocabulary)
            wanted |= {
                "regularized_codes": ([x, *noise], ("output", "penalty", "features", "token")),
                "likeness": ([sequence], ("logits",)),
                "vectors": ([index], plain),
            }
        methods = {
            method: add_method(mb, name, method, bodies[method], ports, static, outputs)
            for method, (ports, outputs) in wanted.items()
        }
        return Network(name, methods, self.provides(spec))


def _positions(b: Builder, place: Place, sizes: tuple[int, ...], width: Any, config: QueryAutoencoder) -> Var:
    """f32[1, T, D]: embeddings of places of a sequence (`sizes` N) or of video (`sizes` frames, side)."""
    learned, name = place in config.learned, place
    if len(sizes) == 1:
        if learned:
            at = b.param(f"{name}_positions", f32(1, sizes[0], width), "normal", std=0.02)
        else:
            of = {"width": width, "length": sizes[0], "base": config.base}
            at = b.param(f"{name}_positions", f32(1, sizes[0], width), "sincos_1d", "buffer", **of)
    else:
        frames, side = sizes
        if learned:
            time = b.param(f"{name}_time", f32(1, frames, 1, 1, width), "normal", std=0.02)
            rows = b.param(f"{name}_rows", f32(1, 1, side, 1, width), "normal", std=0.02)
            columns = b.param(f"{name}_columns", f32(1, 1, 1, side, width), "normal", std=0.02)
            at = b.add(b.add(rows, columns), time, out="at")
        else:
            of = {"width": width, "length": frames, "base": 10000.0}
            time = b.param(f"{name}_time", f32(1, frames, 1, width), "sincos_1d", "buffer", **of)
            cells = b.param(f"{name}_cells", f32(1, side**2, width), "sincos_2d", "buffer", width=width, grid=side)
            at = b.add(b.reshape(cells, shape=(1, 1, side**2, width)), time, out="at")
        at = b.reshape(at, shape=(1, frames * side**2, width), out="at")
    if place in config.typed:
        at = b.add(at, b.param(f"{name}_type", f32(1, 1, width), "normal", std=0.02), out="at")
    return at


@cache
def _methods(config: QueryAutoencoder, frames: int, side: int) -> dict[str, BlockBody]:
    bottleneck, weights = config.bottleneck, config.weights
    final_norm = LayerNorm(kind="layer_norm", eps=1e-6, affine=True)
    patch, depth_of_patch = config._decoded
    count = frames // depth_of_patch, side // patch

    def run(b: Builder, name: str, block_: Block, x: Var, count: Any, width: Any, sizes: dict[str, Any]) -> Var:
        mixer, feed_forward, norm, condition = block_.parts()
        block = condition.block(mixer, feed_forward, norm, weights)
        for item in items(name, count):
            x = b.sub(item, block, x, dim=width, **sizes)
        return x

    def encoded(b: Builder, x: Var, static: dict[str, Any]) -> Var:
        """What the bottleneck takes, f32[B, Z, N, 1]."""
        batch, width = x.shape[0], static["width"]
        kernel = (config.frames, config.patch, config.patch)
        weight = b.param("x_embedder.weight", f32(width, x.shape[1], *kernel), "xavier_uniform", of="matrix")
        x = b.conv(x, weight, b.param("x_embedder.bias", f32(width), "zeros"), stride=kernel, out="x")
        grid = frames // config.frames, side // config.patch
        patches = grid[0] * grid[1] ** 2
        x = b.transpose(b.reshape(x, shape=(batch, width, patches)), perm=(0, 2, 1), out="x")
        x = b.add(_positions(b, "patches", grid, width, config), x, out="x")
        tokens = static["tokens"]
        queries = _positions(b, "queries", (tokens,), width, config)
        queries = b.broadcast_to(queries, x, shape=(batch, tokens, width), out="queries")
        x = b.concat(x, queries, axis=1, out="x")
        x = run(b, "encoder_blocks", config.block, x, static["depth"], width, config.block.own(width, static))
        x = b.slice(x, axis=1, start=patches, stop=patches + int(tokens), out="x")
        wanted = bottleneck.encoded * static["latent"]
        h = dense(b, "to_latents", b.reshape(x, shape=(batch, tokens, width)), wanted, True, weights, out="h")
        h = b.transpose(h, perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, wanted, tokens, 1), out="h")

    def decoded(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        batch, width, tokens = z.shape[0], static["decoder_width"], static["tokens"]
        z = b.transpose(b.reshape(z, shape=(batch, static["latent"], tokens)), perm=(0, 2, 1), out="z")
        x = dense(b, "from_latents", z, width, True, weights, out="x")
        x = b.add(_positions(b, "latents", (tokens,), width, config), x, out="x")
        outputs = _positions(b, "outputs", count, width, config)
        patches = count[0] * count[1] ** 2
        outputs = b.broadcast_to(outputs, x, shape=(batch, patches, width), out="outputs")
        x = b.concat(x, outputs, axis=1, out="x")
        block = config._decoder_block
        own = {key: static[f"decoder_{key}"] for key in block.static(int(width))}
        x = run(b, "decoder_blocks", block, x, static["decoder_depth"], width, own)
        x = b.slice(x, axis=1, start=int(tokens), stop=int(tokens) + patches, out="x")
        channels = static["in_channels"]
        size = depth_of_patch * patch**2 * channels
        x = dense(b, "output", final_norm.apply(b, "output_norm", x), size, True, "zeros", out="x")
        cells = (batch, count[0], count[1], count[1], depth_of_patch, patch, patch, channels)
        x = b.transpose(b.reshape(x, shape=cells), perm=(0, 7, 1, 4, 2, 5, 3, 6), out="x")
        return b.reshape(x, shape=(batch, channels, frames, side, side), out="x")

    def regularized_codes(b: Builder, x: Var, noise: Sequence[Var], static: dict[str, Any]) -> tuple[Var, Var, Var]:
        z, penalty = bottleneck.regularized(b, encoded(b, x, static), noise[0] if noise else None, static)
        return decoded(b, z, static), penalty, z

    def sequence(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        x = b.reshape(z, shape=(z.shape[0], static["latent"], static["tokens"]))
        return b.transpose(x, perm=(0, 2, 1), out="z")

    def rows(b: Builder, static: dict[str, Any]) -> Var:
        assert isinstance(bottleneck, TableBottleneck)  # or it does not provide `code_sequence`
        return b.stop_gradient(bottleneck.table(b, static))  # type: ignore[no-any-return]

    video = "B in_channels F H W"

    @module_class("QueryAutoencoder", "forward", x=video)
    def forward(b: Builder, x: Var, **static: Any) -> Var:
        """Video x [B, C, F, H, W] encoded and decoded, without randomness."""
        return decoded(b, bottleneck.mode(b, encoded(b, x, static), static), static)

    @module_class("QueryAutoencoder", "encode", x=video)
    def encode(b: Builder, x: Var, **static: Any) -> Var:
        """The codes of video x [B, C, F, H, W]."""
        return bottleneck.codes(b, encoded(b, x, static), static)

    @module_class("QueryAutoencoder", "decode")
    def decode(b: Builder, z: Var, **static: Any) -> Var:
        """Video [B, C, F, H, W] of latents or tokens z."""
        return decoded(b, bottleneck.latents(b, z, static), static)

    @module_class("QueryAutoencoder", "regularized", x=video)
    def regularized(b: Builder, x: Var, *noise: Var, **static: Any) -> tuple[Var, Var]:
        """Video x encoded and decoded as in training, and the penalty [B] on its codes."""
        return regularized_codes(b, x, noise, static)[:2]

    @module_class("QueryAutoencoder", "regularized_codes", x=video)
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
