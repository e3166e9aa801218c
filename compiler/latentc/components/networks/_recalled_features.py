"""Features of some tokens, from keys and values that an evaluation of all tokens left: ReCAP's steps.

Symbols: B batch, T tokens of a sample, C channels of a token, D width, R buffer tokens, G tokens that are evaluated
anew.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from latentc.components.condition import Entry
from latentc.components.networks._masked_parts import MaskedParts, keys_of
from latentc.components.networks._masked_parts import position as learned
from latentc.ir.builder import BlockBody, Builder, Var, module_class

if TYPE_CHECKING:
    from latentc.components.networks.masked_autoencoder import MaskedAutoencoder

_SHAPES = {"x": "B T=tokens channels", "mask": "B T=tokens"}


@cache
def recalling(config: MaskedAutoencoder, entries: tuple[Entry, ...], condition: bool) -> tuple[BlockBody, BlockBody]:
    """`remember` and `recall`; `condition`: the buffer tokens are recalled, too."""
    parts = MaskedParts(config, entries)

    @module_class("MaskedAutoencoder", "remember", **_SHAPES)
    def remember(
        b: Builder,
        x: Var,
        mask: Var,
        *conditions: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        recalled: int,
        known: int | None = None,
        **static: Any,
    ) -> tuple[Var, ...]:
        """As forward; and the keys and values of every attention, first of the encoder."""
        sizes = config.block.own(width, static)
        c, _ = parts.told(b, conditions, x, width, buffer, static)
        x = parts.normed(b, parts.joined(b, c, x, tokens))
        hidden = b.concat(b.full(mask, shape=(buffer,), value=0.0, dtype="f32"), mask, axis=1, out="hidden")
        seen = b.less(hidden, 0.5, out="seen")
        x, caches = parts.remembered(b, "encoder", x, (keys_of(b, seen),), depth, sizes)
        x = parts.decoder_input(b, x, static.get("decoder_width"))
        x = parts.decoder_placed(b, parts.shown(b, x, seen), tokens)
        depth, sizes = parts.decoder_sizes(depth, sizes, static)
        x, more = parts.remembered(b, "decoder", x, (), depth, sizes)
        return parts.features(b, x, tokens), *caches, *more

    @module_class(
        "MaskedAutoencoder",
        "recall",
        x="B G=recalled channels",
        unknown="B G=recalled",
        counted="B G=recalled",
        remembered="B T=tokens",
        others="B T=tokens",
        position="B G=recalled",
        caches="B heads buffer+tokens width//heads",
    )
    def recall(
        b: Builder,
        x: Var,
        unknown: Var,
        counted: Var,
        remembered: Var,
        others: Var,
        position: Var,
        *operands: Var,
        tokens: int,
        channels: int,
        width: int,
        depth: int,
        buffer: int,
        recalled: int,
        known: int | None = None,
        **static: Any,
    ) -> Var:
        """Features of some tokens, from these and what is remembered of the others."""
        sizes, everywhere = config.block.own(width, static), config.learned_positions == "all"
        length, first = (buffer + tokens, buffer) if everywhere else (tokens, 0)
        behind, own = parts.decoder_sizes(depth, sizes, static)
        kept = 2 * (int(depth) + int(behind))
        told, caches = operands[: len(operands) - kept], operands[len(operands) - kept :]
        front = b.full(unknown, shape=(buffer,), value=float(condition), dtype="f32", out="front")
        fresh = [] if condition else [b.full(unknown, shape=(buffer,), value=1.0, dtype="f32", out="fresh")]
        place = b.op("add", position, buffer, out="place") if everywhere else position

        def placed(name: str, count: Any, at: Var, width: Any) -> Var:
            table = learned(b, name, count, width)
            return b.embedding(b.reshape(table, shape=(count, width)), at, out=name)  # type: ignore[no-any-return]

        def fronted(name: str, x: Var) -> Var:
            """x with the buffer tokens before it, unless these are recalled."""
            x = x + placed(name, length, place, x.shape[2]) if config.learned_positions != "none" else x
            if condition:
                return x
            assert c is not None
            table = learned(b, name, length, x.shape[2]) if everywhere else None
            front = c if table is None else c + b.slice(table, axis=1, start=0, stop=first)
            return b.concat(front, x, axis=1, out="x")  # type: ignore[no-any-return]

        def visible(*parts: Var) -> Var:
            return keys_of(b, b.greater(b.concat(*parts, axis=1), 0.5))

        c = None if condition else parts.told(b, told, x, width, buffer, static)[0]
        x = fronted("encoder_pos", parts.linear(b, "z_proj", x, width))
        mask = visible(front, remembered, *fresh, b.op("sub", 1.0, unknown, out="shown"))
        x = parts.recalled(b, "encoder", parts.normed(b, x), mask, caches[: 2 * int(depth)], True, sizes)
        x, seen = parts.decoder_input(b, x, static.get("decoder_width")), b.less(unknown, 0.5, out="seen")
        if not condition:
            c, x = b.split(x, axis=1, sizes=(buffer, recalled), out="c x")
        x = fronted("decoder_pos", parts.shown(b, x, seen))
        mask = visible(front, others, *fresh, counted)
        x = parts.recalled(b, "decoder", x, mask, caches[2 * int(depth) :], False, own)
        if not condition:
            x = b.slice(x, axis=1, start=buffer, stop=buffer + recalled)
        x = parts.norm.apply(b, "decoder_norm", x)
        return x + placed("diffusion_pos", tokens, position, x.shape[2]) if everywhere else x

    return remember, recall


__all__ = ["recalling"]
