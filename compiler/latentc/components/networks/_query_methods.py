"""What an autoencoder of two transformers computes: samples as codes and back, and its losses' view of them.

Symbols: B batch, C channels, F frames, H and W sides of a frame, N tokens (queries or patches), Z channels of the
latents.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from latentc.components.blocks.block import Block
from latentc.components.blocks.bottleneck import TableBottleneck
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.blocks.planes import as_planes, from_planes
from latentc.components.networks._query_parts import (
    Place,
    as_many,
    embedded,
    filled_up,
    from_patches,
    normed,
    patches_of,
    positions_of,
    shortened,
)
from latentc.components.parts import Positions, dense
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class

if TYPE_CHECKING:
    from latentc.components.networks.query_autoencoder import QueryAutoencoder


@cache
def methods_of(config: QueryAutoencoder, space: tuple[int, ...]) -> dict[str, BlockBody]:
    """The methods by name; `space`: frames and sides of a sample, or the sides of an image."""
    bottleneck, weights = config.bottleneck, config.weights
    final_norm = LayerNorm(kind="layer_norm", eps=config.final_eps, affine=True)
    patch, depth_of_patch = config.decoded_patch
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
        x = x if config.filled_to is None else filled_up(b, x, config.filled_to, config.filled_by)
        patches = math.prod(grid) if config.tokens or config.planes else tokens
        x = embedded(b, x, (config.frames, config.patch, config.patch), width, patches)
        x = placed(b, x, "patches", grid, width)
        if config.queries:
            queries = placed(b, None, "queries", (tokens,), width)
            queries = b.broadcast_to(queries, x, shape=(batch, tokens, width), out="queries")
            x = b.concat(*((queries, x) if config.queries_first else (x, queries)), axis=1, out="x")
        x = run(
            b, "encoder", config.block, x, static["depth"], width, config.block.own(width, {**static, "grid": grid[-1]})
        )
        if config.encoder_norm:
            x = final_norm.apply(b, "encoder_norm", x)
        if config.queries:
            start = 0 if config.queries_first else patches
            x = b.slice(x, axis=1, start=start, stop=start + int(tokens), out="x")
            x = b.reshape(x, shape=(batch, tokens, width))
        if config.tokens_by != "queries":
            x = as_many(b, "to_fewer", x, tokens, config.tokens_by)
        if config.planes is not None:
            x = b.reshape(
                as_planes(b, x, grid, config.planes, config.planes_by, weights), shape=(batch, tokens, width), out="x"
            )
        wanted = bottleneck.encoded * static["latent"]
        h = dense(b, "to_latents", x, wanted, True, weights, out="h")
        h = h if config.latent_norm is None else normed(b, h, config.latent_norm)
        h = b.transpose(h, perm=(0, 2, 1), out="h")
        return b.reshape(h, shape=(batch, wanted, tokens, 1), out="h") if not bottleneck.ANY_RANK else h

    def decoded(b: Builder, z: Var, static: dict[str, Any]) -> Var:
        batch, width, tokens = z.shape[0], static["decoder_width"], static["tokens"]
        z = b.transpose(b.reshape(z, shape=(batch, static["latent"], tokens)), perm=(0, 2, 1), out="z")
        if config.planes is not None:
            z = from_planes(b, z, count, config.planes, config.planes_as == "joined")
        x = dense(b, "from_latents", z, width, True, weights, out="x")
        patches = math.prod(count)
        if config.queries:
            x = placed(b, x, "latents", (tokens,), width)
            outputs = placed(b, None, "outputs", count, width)
            outputs = b.broadcast_to(outputs, x, shape=(batch, patches, width), out="outputs")
            x = b.concat(x, outputs, axis=1, out="x")
        else:
            x = x if config.tokens_by == "queries" else as_many(b, "to_more", x, patches, config.tokens_by)
            x = placed(b, x, "outputs", count, width)
        block = config.outward_block
        own = {key: static[f"decoder_{key}"] for key in block.static(int(width))}
        own |= {"grid": count[-1]} if block.spatial else {}
        x = run(b, "decoder", block, x, static["decoder_depth"], width, own)
        if config.queries:
            x = b.slice(x, axis=1, start=int(tokens), stop=int(tokens) + patches, out="x")
        x = final_norm.apply(b, "output_norm", x)
        kernel = (depth_of_patch, patch, patch)
        return from_patches(b, x, static["in_channels"], count, kernel, space, config.output)

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


__all__ = ["methods_of"]
