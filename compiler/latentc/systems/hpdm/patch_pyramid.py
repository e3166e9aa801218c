"""HPDM's network: RIN over the patches of a pyramid, whose finer patches read what coarser ones have computed.

Every level runs the same blocks over its own tokens, the finer ones fewer of them (adaptive computation). Before each
block, a patch at a finer level reads the coarser levels' tokens at its place and adds their mean to its own (deep
context fusion).
Symbols: B batch, L levels, N patches of a level (of all samples), C channels, F frames, r side of a patch in pixels, P
side of a token, G = r / P, T tokens of a patch or tiles of a video, E width of tokens, M latents, D their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B
from latentc.systems.rin.rin_blocks import layer_norm, rin_block
from latentc.systems.rin.standardized import standardized_embedder

Fewer = tuple[Size, ...]


class PatchPyramid(Backbone):
    """RIN over a pyramid of video patches (HPDM, Skorokhodov et al. 2024, arXiv:2406.07792).

    Level 0 is the whole video at r x r pixels; level l has 2^l x 2^l patches of r x r pixels. Takes and returns all of
    them, f32[B, T, C, F, r, r], or in training one per level, f32[B, L, C, F, r, r]; also takes t f32[B] and conditions
    as tokens.
    """

    kind: Literal["patch_pyramid"]
    data_width: int = Field(gt=0, le=65_536, description="channels of a token (E)")
    width: int = Field(gt=0, le=65_536, multiple_of=8, description="channels of a latent (D)")
    latents: int = Field(gt=0, le=65_536, description="number of learned latents of a patch (M)")
    blocks: Fewer = Field(
        min_length=1,
        max_length=8,
        description="read-process-write blocks of each level, from coarse to fine, never more",
    )
    layers: int = Field(gt=0, le=256, description="self-attention layers on the latents in each block")
    patch: int = Field(gt=0, le=1_024, description="side of a token in pixels (P)")
    frames: int = Field(1, gt=0, le=1_024, description="frames per token")
    heads: int = Field(16, gt=0, le=1_024, description="heads of the read and write attentions")
    compute_heads: int = Field(16, gt=0, le=1_024, description="heads of the latent self-attention")
    fusion: bool = Field(True, description="finer patches read coarser tokens; false: each patch is denoised alone")
    time_scale: float = Field(1000.0, gt=0, le=1e6, description="factor of the time before the sinusoids")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        **{"kind": "patch_pyramid", "data_width": 16, "width": 16, "latents": 3, "blocks": [2, 1], "layers": 1},
        **{"patch": 2, "heads": 2, "compute_heads": 2},
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_pyramid"})
    TAKES: ClassVar[tuple[Form, ...]] = ("tokens",)
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("side", "video_frames", "patch")  # the places of tokens are constants

    @property
    def levels(self) -> int:
        return len(self.blocks)

    def side(self, spec: Spec) -> int:
        """r, in pixels."""
        assert spec.data.shape is not None
        return spec.data.shape[-1] >> (self.levels - 1)

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, least = spec.data.shape, self.patch << (self.levels - 1)
        if shape is None or len(shape) != 4 or shape[2] != shape[3]:
            yield Problem(
                (), f"a patch_pyramid takes video [C, F, H, W] with H = W, but the data has {spec.data.words}"
            )
        elif shape[2] % least:
            message = f"tokens of {self.patch} pixels do not tile patches of {shape[2]} / {2 ** (self.levels - 1)}"
            yield Problem(("patch",), message, f"use a side that is a multiple of {least}, or fewer levels in `blocks`")
        elif shape[1] % self.frames:
            yield Problem(("frames",), f"tokens of {self.frames} frames do not divide {shape[1]} frames")
        if sorted(self.blocks, reverse=True) != list(self.blocks):
            message = "a finer level reads what coarser ones compute before each block, so it cannot have more"
            yield Problem(("blocks",), message, "give numbers that do not rise")
        inner = min(self.width, self.data_width)
        for key, heads, width in (("heads", self.heads, inner), ("compute_heads", self.compute_heads, self.width)):
            if width % heads:
                yield Problem((key,), f"{heads} heads do not divide a width of {width}")
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        channels, frames, *_ = spec.data.shape
        side, entries = self.side(spec), self.entries(spec)
        static = {
            "side": side,
            "patch": self.patch,
            "channels": channels,
            "video_frames": frames,
            "frames": self.frames,
            "data_width": self.data_width,
            "width": self.width,
            "latents": self.latents,
            "blocks": self.blocks[0],
            "layers": self.layers,
            "heads": self.heads,
            "compute_heads": self.compute_heads,
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        time = spec.time.model_copy(update={"frequencies": self.width // 4})
        given, levels = (Port("t", f32(B), "time"), *ports_of(entries)), self.levels
        tiles = sum(4**level for level in range(levels))
        corners = Port("corners", f32(B, levels, 2), "condition")
        methods = {}
        for method, count, more in (("forward", tiles, ()), ("patches", levels, (corners,))):
            ports = (Port("x", f32(B, count, channels, frames, side, side), "state"), *given, *more)
            methods[method] = add_method(mb, name, method, _network(self, time, entries, method), ports, static)
        return Network(name, methods, self.PROVIDES, sizes={"fourier": int(spec.time.DRAWN)})


@dataclass(frozen=True)
class _Level:
    """Patches of a level: how many there are per sample, where they begin f32[N, 2], and their share of a side."""

    number: int
    count: int
    corners: Var

    @property
    def share(self) -> float:
        return 0.5**self.number


@cache
def _network(config: PatchPyramid, time: TimeFeatures, entries: tuple[Entry, ...], method: str) -> BlockBody:
    trains = method == "patches"
    shape = f"B {'L' if trains else 'T'} channels video_frames side side"

    @module_class("PatchPyramid", method, x=shape)
    def forward(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> Var:
        """Predicts from a pyramid of noisy patches at time t, given the conditions."""
        *conditions, corners = others if trains else (*others, x)
        batch, width = x.shape[0], static["width"]
        embedder = standardized_embedder(time, config.time_scale)
        moment = b.sub("t_embedder", embedder, t, dim=width, **time.static())
        parts = [b.reshape(moment, shape=(batch, 1, width), out="moment")]
        for entry, operands in with_operands(entries, conditions):
            parts.append(entry.tokens(b, entry.prefix, operands, width, static)[0])
        cond = b.concat(*parts, axis=1, out="c")
        seen: list[tuple[_Level, list[Var]]] = []
        outs, first = [], 0
        for number in range(config.levels):
            count = 1 if trains else 4**number
            state = b.slice(x, axis=1, start=first, stop=first + count, out="state")
            where = _given_corner(b, corners, number) if trains else _every_corner(b, x, number)
            level = _Level(number, count, where)
            out, tokens = _denoised(b, config, level, state, cond, seen, static)
            outs.append(out)
            seen.append((level, tokens))
            first += count
        return b.concat(*outs, axis=1, out="out") if len(outs) > 1 else outs[0]

    return forward


def _given_corner(b: Builder, corners: Var, number: int) -> Var:
    """f32[B, 2]: where the patch of a level begins."""
    one = b.slice(corners, axis=1, start=number, stop=number + 1)
    return b.reshape(one, shape=(corners.shape[0], 2), out="corner")


def _every_corner(b: Builder, x: Var, number: int) -> Var:
    """f32[N, 2]: where the tiles of a level begin, row by row."""
    side = 2**number
    places = [[i / side, j / side] for i in range(side) for j in range(side)]
    table = b.broadcast_to(b.constant(places, "f32"), x, shape=(x.shape[0], side * side, 2), out="corners")
    return b.reshape(table, shape=(x.shape[0] * (side * side), 2), out="corner")


def _denoised(
    b: Builder,
    config: PatchPyramid,
    level: _Level,
    state: Var,
    cond: Var,
    seen: Sequence[tuple[_Level, list[Var]]],
    static: dict[str, Any],
) -> tuple[Var, list[Var]]:
    """(the prediction of a level's patches, their tokens before each block); `seen` are the coarser levels'."""
    batch, count = state.shape[0], level.count
    rows = batch * count if count > 1 else batch
    sizes = {k: static[k] for k in ("side", "patch", "frames", "video_frames", "channels", "data_width")}
    shape = (rows, static["channels"], static["video_frames"], static["side"], static["side"])
    x = b.reshape(state, shape=shape, out="patches")
    place = dense(b, f"place.{level.number}", level.corners, static["data_width"], True, "xavier", out="place")
    x = b.sub("x_embedder", _embedded, x, place, **sizes)
    cond = _for_each(b, cond, count)
    learned = b.param("latents", f32(static["latents"], static["width"]), "normal", std=0.02)
    z = b.broadcast_to(learned, x, shape=(rows, *learned.shape), out="z")
    z = b.concat(z, cond, axis=1, out="z")
    width, dim = static["data_width"], static["width"]
    names = ("data_width", "width", "layers", "heads", "compute_heads")
    inside = {name: static[name] for name in names}
    inside |= {"inner": min(width, dim), "latent_hidden": 4 * dim, "data_hidden": 4 * width}
    tokens = []
    for i, name in enumerate(items("blocks", config.blocks[level.number])):
        if seen and config.fusion:
            contexts = [_context(b, config, coarse, given[i], level, static) for coarse, given in seen]
            context = summed(b, "context", contexts)
            context = context if len(contexts) == 1 else b.mul(context, 1 / len(contexts), out="context")
            x = b.sub(f"fusion.{i}", _fused, x, context, width=width)
        tokens.append(x)
        x, z = b.sub(name, rin_block(True, False, False), x, z, out="x z", **inside)
    own = {k: sizes[k] for k in ("side", "patch", "frames", "video_frames", "data_width")}
    x = b.sub("final", _patches_of, x, **own, out_channels=static["out_channels"])
    return b.reshape(x, shape=(batch, count, *x.shape[1:]), out="out"), tokens


def _for_each(b: Builder, x: Var, count: int) -> Var:
    """[N, ...] of x [B, ...]: repeated for each of a sample's `count` patches."""
    if count == 1:
        return x
    batch, *rest = x.shape
    x = b.broadcast_to(b.reshape(x, shape=(batch, 1, *rest)), shape=(batch, count, *rest), out="each")
    return b.reshape(x, shape=(batch * count, *rest), out="each")


@module_class("EmbeddedPatches", x="N channels video_frames side side", place="N data_width")
def _embedded(
    b: Builder,
    x: Var,
    place: Var,
    *,
    side: int,
    patch: int,
    frames: int,
    video_frames: int,
    channels: int,
    data_width: int,
) -> Var:
    """Tokens f32[N, T, E] of patches: their pixels, their positions in the patch, and its place in the video."""
    grid, steps, rows = side // patch, video_frames // frames, x.shape[0]
    x = b.reshape(x, shape=(rows, channels, steps, frames, grid, patch, grid, patch))
    x = b.transpose(x, perm=(0, 2, 4, 6, 3, 5, 7, 1), out="x")
    x = b.reshape(x, shape=(rows, steps * grid * grid, frames * patch * patch * channels))
    x = dense(b, "proj", x, data_width, True, "xavier", out="x")
    positions = b.param("positions", f32(x.shape[1], data_width), "normal", std=0.02)
    x = layer_norm(b, "norm", x, "x") + positions
    return x + b.reshape(place, shape=(rows, 1, data_width))


@module_class("Fusion", x="N T width", context="N T width")
def _fused(b: Builder, x: Var, context: Var, *, width: int) -> Var:
    """Tokens with the coarser levels' tokens at their places."""
    return dense(b, "proj", b.concat(x, context, axis=2, out="joined"), width, True, "xavier", out="x")


@module_class("Patches", x="N T data_width")
def _patches_of(
    b: Builder, x: Var, *, side: int, patch: int, frames: int, video_frames: int, data_width: int, out_channels: int
) -> Var:
    """The pixels f32[N, C_out, F, r, r] that tokens predict."""
    grid, steps, rows = side // patch, video_frames // frames, x.shape[0]
    x = dense(b, "proj", layer_norm(b, "norm", x), frames * patch * patch * out_channels, True, "xavier", out="x")
    x = b.reshape(x, shape=(rows, steps, grid, grid, frames, patch, patch, out_channels))
    x = b.transpose(x, perm=(0, 7, 1, 4, 2, 5, 3, 6), out="x")
    return b.reshape(x, shape=(rows, out_channels, video_frames, side, side))


def _context(
    b: Builder, config: PatchPyramid, coarse: _Level, tokens: Var, level: _Level, static: dict[str, Any]
) -> Var:
    """f32[N, T, E]: a coarser level's tokens where a level's tokens are, by bilinear interpolation."""
    grid, width = static["side"] // static["patch"], static["data_width"]
    steps = static["video_frames"] // static["frames"]
    channels, ratio = steps * width, 2 ** (level.number - coarse.number)
    rows = tokens.shape[0]
    maps = b.reshape(tokens, shape=(rows, steps, grid, grid, width))
    maps = b.reshape(b.transpose(maps, perm=(0, 1, 4, 2, 3)), shape=(rows, channels, grid, grid), out="maps")
    if level.count == 1:  # one patch of each level: the fine one lies anywhere in the coarse one
        at = b.grid_sample(maps, _grid(b, coarse, level, grid, ratio), outside="border", out="context")
    else:
        batch = level.corners.shape[0] // level.count
        whole = _assembled(b, maps, coarse, batch)
        size = grid * 2**level.number
        at = _tiles(b, b.resize(whole, size=(size, size), mode="bilinear", out="whole"), level, grid)
    x = b.reshape(at, shape=(at.shape[0], steps, width, grid, grid))
    return b.reshape(
        b.transpose(x, perm=(0, 1, 3, 4, 2)), shape=(at.shape[0], steps * grid * grid, width), out="context"
    )


def _grid(b: Builder, coarse: _Level, level: _Level, grid: Any, ratio: int) -> Var:
    """f32[N, G, G, 2]: the places of a patch's tokens in the coarser patch, (column, row) from -1 to 1."""
    rows = level.corners.shape[0]
    begin = b.op("sub", level.corners, coarse.corners, out="begin") * (1 / coarse.share)
    centres = (b.cast(b.arange(grid), to="f32") + 0.5) * (1 / ratio)
    centres = b.div(centres, b.scalar(grid, centres), out="centres")
    row, column = b.split(begin, axis=1, sizes=(1, 1), out="row column")
    at = []
    for one, shape in ((column, (rows, 1, grid, 1)), (row, (rows, grid, 1, 1))):
        x = b.reshape((one + centres) * 2.0 - 1.0, shape=shape)
        at.append(b.broadcast_to(x, shape=(rows, grid, grid, 1)))
    return b.concat(*at, axis=3, out="grid")


def _assembled(b: Builder, maps: Var, level: _Level, batch: Any) -> Var:
    """f32[B, C, 2^l G, 2^l G]: the tiles f32[N, C, G, G] of a level as one map."""
    if level.count == 1:
        return maps
    side, (_, channels, grid, _) = 2**level.number, maps.shape
    x = b.reshape(maps, shape=(batch, side, side, channels, grid, grid))
    x = b.transpose(x, perm=(0, 3, 1, 4, 2, 5), out="whole")
    return b.reshape(x, shape=(batch, channels, side * grid, side * grid), out="whole")


def _tiles(b: Builder, whole: Var, level: _Level, grid: Any) -> Var:
    """f32[N, C, G, G]: the tiles of a map f32[B, C, 2^l G, 2^l G]; the inverse of `_assembled`."""
    side, (batch, channels, *_) = 2**level.number, whole.shape
    x = b.reshape(whole, shape=(batch, channels, side, grid, side, grid))
    x = b.transpose(x, perm=(0, 2, 4, 1, 3, 5), out="tiles")
    return b.reshape(x, shape=(batch * level.count, channels, grid, grid), out="tiles")
