"""Shared by the methods of a masked autoencoder: the tokens in front, embeddings, positions, blocks.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens, P tokens in front of the
sample's: the buffer, and those of conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field

from latentc.components import Closed
from latentc.components.blocks.conditions.in_context import InContext
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.condition import Entry, with_operands
from latentc.components.decoding import BlockForm
from latentc.components.parts import FeedForward, Mixer, Norm, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import Builder, Var, f32, items

if TYPE_CHECKING:
    from latentc.components.networks.masked_autoencoder import MaskedAutoencoder


class Decoder(Closed):
    """Blocks after the encoder that see every token, at a width of their own (MAGE, MAR)."""

    width: int = Field(gt=0, le=65_536, description="channels of a token")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="their attention heads")


class MaskedParts:
    """Builds the parts of a network; names of params are the same whichever method asks for them."""

    def __init__(self, config: MaskedAutoencoder, entries: tuple[Entry, ...]) -> None:
        mixer, feed_forward, self.norm, condition = config.block.parts()
        assert isinstance(condition, InContext)
        self.config, self.entries = config, entries
        self.parts = mixer, feed_forward, self.norm, config.weights
        self.condition = condition

    def in_front(
        self, b: Builder, conditions: tuple[Var, ...], like: Var, width: int, buffer: int, static: Any
    ) -> tuple[Var, Var | None]:
        """f32[B, P, D]: the tokens in front, and bool[B, P], which of them count; None: all."""
        return in_front(b, self.entries, conditions, like, width, buffer, static)

    def normed(self, b: Builder, x: Var) -> Var:
        return LayerNorm(kind="layer_norm", eps=1e-6, affine=True).apply(b, "z_proj_ln", x)

    def linear(self, b: Builder, name: str, x: Var, width: int, out: str = "") -> Var:
        return dense(b, name, x, width, True, self.config.weights, out=out)

    def joined(self, b: Builder, c: Var, x: Var, tokens: Any) -> Var:
        """f32[B, P + T, D]: the tokens in front and the sample's [B, T, C], with their positions in the encoder."""
        x = b.concat(c, self.linear(b, "z_proj", x, c.shape[2]), axis=1, out="x")
        return x + position(b, "encoder_pos", x.shape[1], c.shape[2])

    def decoder_sizes(self, depth: Any, sizes: Any, static: Any) -> tuple[Any, Any]:
        """Depth and sizes of the decoder's blocks, if those of the encoder's are `depth` and `sizes`."""
        if self.config.decoder is None:
            return depth, sizes
        return static["decoder_depth"], self.config.decoder_sizes(static)

    def decoder_input(self, b: Builder, x: Var, width: Any = None) -> Var:
        """The encoder's features of `width` channels; None: as many as they have."""
        width = x.shape[2] if width is None else width
        return self.linear(b, "decoder_embed", self.norm.apply(b, "encoder_norm", x), width, out="x")

    def shown(self, b: Builder, x: Var, seen: Var) -> Var:
        """x [B, T, D] with the mask token where `seen` bool[B, T] is false."""
        mask_token = b.param("mask_token", f32(1, 1, x.shape[2]), "normal", std=0.02)
        return b.where(b.reshape(seen, shape=(*seen.shape, 1)), x, mask_token, out="x")

    def decoder_placed(self, b: Builder, x: Var, tokens: Any) -> Var:
        """x [B, P + T, D] with positions in the decoder."""
        return x + position(b, "decoder_pos", x.shape[1], x.shape[2])

    def features(self, b: Builder, x: Var, tokens: Any) -> Var:
        """f32[B, T, D]: the decoder's output for the sample's tokens, of x [B, P + T, D]."""
        return self.of_tokens(b, "decoder_norm", x, tokens) + position(b, "diffusion_pos", tokens, x.shape[2])

    def of_tokens(self, b: Builder, norm: str, x: Var, tokens: Any) -> Var:
        """f32[B, T, D]: the sample's tokens of x [B, P + T, D], normalised."""
        x, total = self.norm.apply(b, norm, x), x.shape[1]
        return b.slice(x, axis=1, start=total - tokens, stop=total, out="x")

    def rotary(self, b: Builder, x: Var, static: Any) -> tuple[Var, ...]:
        """The tables that rotate queries and keys of x [B, P + T, D], if there are any."""
        return ()

    def parts_of(self, part: str) -> tuple[Mixer, FeedForward, Norm, Weights]:
        """The parts of the blocks of the encoder or the decoder."""
        mixer, feed_forward, norm, init = self.parts
        if part == "decoder" and self.config.decoder is not None:
            mixer = mixer.model_copy(update={"heads": self.config.decoder.heads})
        return mixer, feed_forward, norm, init

    def blocks(
        self,
        b: Builder,
        part: str,
        x: Var,
        front: Any,
        mask: tuple[Var, ...],
        depth: int,
        sizes: Any,
        rotary: tuple[Var, ...] = (),
    ) -> Var:
        """x f32[B, P + T, D] through the blocks; `front`: P."""
        condition, parts = self.condition, self.parts_of(part)
        sizes = {**sizes, "front": front} if condition.separates else sizes
        sizes = {**sizes, "lead": front} if self.config.block.parted else sizes
        block = condition.block(*parts, BlockForm(masked=bool(mask)))
        for name in items(f"{part}_blocks", depth):
            x = b.sub(name, block, x, *mask, *rotary, dim=x.shape[2], **sizes)
        return x

    def remembered(
        self, b: Builder, part: str, x: Var, mask: tuple[Var, ...], depth: int, sizes: Any
    ) -> tuple[Var, list[Var]]:
        """The blocks, and the keys and values of each."""
        block, caches = (
            self.condition.block(*self.parts_of(part), BlockForm("begin", bool(mask), not mask)),
            list[Var](),
        )
        for i in range(int(depth)):
            name = f"{part}_blocks.{i}"
            x, keys, values = b.sub(name, block, x, *mask, out="x keys values", dim=x.shape[2], **sizes)
            caches += [keys, values]
        return x, caches

    def recalled(
        self, b: Builder, part: str, x: Var, mask: Var, caches: Sequence[Var], masked: bool, sizes: Any
    ) -> Var:
        """The blocks over tokens that see themselves and what is remembered."""
        block = self.condition.block(*self.parts_of(part), BlockForm("extend", True, not masked))
        for i in range(len(caches) // 2):
            cache, name = caches[2 * i : 2 * i + 2], f"{part}_blocks.{i}"
            x, *_ = b.sub(name, block, x, *cache, mask, out="x keys values", dim=x.shape[2], **sizes)
        return x


def in_front(
    b: Builder,
    entries: tuple[Entry, ...],
    conditions: tuple[Var, ...],
    like: Var,
    width: int,
    buffer: int,
    static: Any,
) -> tuple[Var, Var | None]:
    """f32[B, P, D]: the tokens in front, and bool[B, P], which of them count; None: all.

    Each of the `buffer` tokens is the sum of the conditions that are vectors; those that are sequences follow. Without
    vectors there is no buffer.
    """
    vectors, sequences = embedded(b, entries, conditions, width, static)
    return joined(b, vectors, sequences, like, buffer)


def embedded(
    b: Builder, entries: tuple[Entry, ...], conditions: tuple[Var, ...], width: int, static: Any
) -> tuple[list[Var], list[tuple[Var, Var | None]]]:
    """Conditions that are vectors f32[B, 1, D]; those that are sequences f32[B, N, D], each with its mask."""
    vectors, sequences = list[Var](), list[tuple[Var, Var | None]]()
    for entry, operands in with_operands(entries, conditions):
        if entry.form == "vector":
            vectors.append(entry.vector(b, entry.prefix, operands, width, static))
        else:
            sequences.append(entry.tokens(b, entry.prefix, operands, width, static))
    if vectors:
        c = summed(b, "c", vectors)
        vectors = [b.reshape(c, shape=(c.shape[0], 1, width))]
    return vectors, sequences


def joined(
    b: Builder, summands: list[Var], sequences: list[tuple[Var, Var | None]], like: Var, buffer: int
) -> tuple[Var, Var | None]:
    """The tokens in front, and which of them count: `buffer` tokens, the sum of `summands` [.., .., D]; sequences."""
    if summands:
        c = summed(b, "c", summands)
        shape = (like.shape[0], buffer, c.shape[2])
        sequences = [(b.broadcast_to(c, like, shape=shape, out="c"), None), *sequences]
    parts = [part for part, _ in sequences]
    c = b.concat(*parts, axis=1, out="c") if len(parts) > 1 else parts[0]
    if all(mask is None for _, mask in sequences):
        return c, None
    counts = [
        b.full(like, shape=(part.shape[1],), value=1.0, dtype="bool", out="counts") if mask is None else mask
        for part, mask in sequences
    ]
    return c, b.concat(*counts, axis=1, out="counted") if len(counts) > 1 else counts[0]


def visibility(b: Builder, mask: Var, front: Any, counted: Var | None) -> tuple[Var, Var, Var, Var | None]:
    """Hidden f32, seen, visible and counted tokens bool[B, P + T] of the P = `front` tokens in front and the sample's.

    `mask` f32[B, T]: 1 hides a token. Visible are the seen ones that count, of those in front as `counted` bool[B, P]
    says; None: all count.
    """
    hidden = b.concat(b.full(mask, shape=(front,), value=0.0, dtype="f32", out="front"), mask, axis=1, out="hidden")
    seen = b.less(hidden, 0.5, out="seen")
    if counted is None:
        return hidden, seen, seen, None
    every = b.full(mask, shape=(mask.shape[1],), value=1.0, dtype="bool", out="every")
    counted = b.concat(counted, every, axis=1, out="counted")
    return hidden, seen, b.logical_and(seen, counted, out="visible"), counted


def position(b: Builder, name: str, count: Any, width: Any) -> Var:
    """f32[1, count, width]: learned vectors."""
    return b.param(name, f32(1, count, width), "normal", std=0.02)


def keys_of(b: Builder, seen: Var) -> Var:
    """bool[B, 1, 1, T]: a mask of attention to the tokens that are seen [B, T]."""
    batch, count = seen.shape
    return b.reshape(seen, shape=(batch, 1, 1, count), out="visible")
