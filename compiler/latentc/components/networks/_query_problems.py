"""What may be wrong with a `query_autoencoder`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from latentc.components.parts import Positions, Problem, a_divisor

if TYPE_CHECKING:
    from latentc.components.networks.query_autoencoder import QueryAutoencoder
    from latentc.spec.schema import Spec


def problems_of(config: QueryAutoencoder, spec: Spec) -> Iterator[Problem]:
    """What does not fit together."""
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
    for prefix, patch, frames in (("", config.patch, config.frames), ("decoder_", *config.decoded_patch)):
        if shape[-1] % patch:
            yield Problem(
                (f"{prefix}patch",), f"patches of {patch} do not tile a side of {shape[-1]}", a_divisor(shape[-1])
            )
        if frame_count % frames:
            yield Problem(
                (f"{prefix}frames",), f"patches of {frames} frames do not tile {frame_count}", a_divisor(frame_count)
            )
    # Tokens are a square if they are the patches of an image.
    grid = shape[-1] // config.patch if config.queries is None and frame_count == config.frames else None
    yield from config.block.problems_of_width(config.width, grid)
    yield from config.outward_block.problems_of_width(config.decoder_width or config.width, grid)
    yield from config.block.problems_of_condition(config.kind, None)
    yield from config.outward_block.problems_of_condition(config.kind, None)
    for name, width in (("width", config.width), ("decoder_width", config.decoder_width or config.width)):
        if width % 4:
            yield Problem((name,), f"2D sinusoidal positions need a width divisible by 4, not {width}")
    if config.bottleneck.square is not None:
        yield Problem(
            ("bottleneck",),
            "the bottleneck needs a square of tokens, but here they are a sequence",
            "use `{kind: codebook}`",
        )
    if config.decoded_patch != (config.patch, config.frames) and config.queries is None:
        name = "decoder_patch" if config.decoded_patch[0] != config.patch else "decoder_frames"
        yield Problem((name,), "tokens are patches, so encoder and decoder must use the same patches", "leave it out")
    if config.planes is not None and config.tokens is not None:
        yield Problem(("tokens",), "tokens come from `planes`, not from queries", "set `tokens: null`")
    elif config.planes == 4 and (frame_count // config.frames) % 2:
        message = f"{frame_count // config.frames} patches along the frames cannot be halved"
        yield Problem(("planes",), message, "use `planes: 3`, or an even number of patches")
    count = config.token_count(spec)
    if config.tokens_by != "queries" and config.tokens is None:
        yield Problem(
            ("tokens_by",),
            "without `tokens` there are as many tokens as patches",
            "leave `tokens_by` out, or give `tokens`",
        )
    elif config.tokens_by == "resized" and (frame_count != config.frames or math.isqrt(count) ** 2 != count):
        message = (
            f"`resized` needs images and a square number of tokens, but there are {count} tokens of "
            f"{frame_count} frames"
        )
        yield Problem(("tokens_by",), message, "use `mixed`, or images and a square number of tokens")
    for i, length in enumerate(config.lengths or ()):
        if length > count:
            yield Problem(("lengths", i), f"length {length} exceeds the {count} latents")
    if config.lengths and config.provides(spec) - {"autoencode", "encode"}:
        message = "`lengths` keeps only part of the tokens, which a codebook cannot do"
        yield Problem(("lengths",), message, "leave `lengths` out, or use the bottleneck `gaussian`")
    yield from problems_of_rotary(config, frame_count)
    yield from config.problems_of_conditions(spec)


def problems_of_rotary(config: QueryAutoencoder, frames: int) -> Iterator[Problem]:
    """What is wrong with its rotary positions, of videos of so many frames."""
    if not isinstance(config.rotary, Positions):
        return
    if not config.rotary.ROTARY:
        yield Problem(("rotary",), f"`{config.rotary.kind}` is not rotary", "use `{kind: rope_1d}`")
    elif config.rotary.GRIDDED and (config.queries is not None or frames != config.frames):
        message = f"`{config.rotary.kind}` needs a square of patches"
        yield Problem(("rotary",), message, "use `{kind: rope_1d}`, or images and `tokens: null`")
    yield from config.block.problems_of_rotary(config.width, rotary=config.rotary)
    yield from config.outward_block.problems_of_rotary(config.decoder_width or config.width, rotary=config.rotary)


__all__ = ["problems_of"]
