"""LLIA's denoiser: Stable Diffusion's U-Net on every frame, which attends to a reference image, audio and other frames.

Symbols: B batch, C channels, F frames of the clip, M frames before it, T = M + F, H and W sides, N positions of a
feature map, E size of the embedding of time and state, L audio tokens of a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Level, Size
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.unet.layers import conv, doubling_conv, group_norm, linear
from latentc.components.blocks.unet.residual import ResidualBlock
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B
from latentc.systems.llia.clip_length import LENGTH, frames_within

IMAGE, BEFORE, AUDIO = "image", "before", "audio"
"""Conditions: the portrait f32[B, C, H, W], the frames before the clip f32[B, C, M, H, W], and features of the audio
f32[B, T, L, D] of all frames."""


class AvatarUnet(Backbone):
    """Denoises clips x f32[B, C, F, H, W] at the time f32[B] (Yu et al. 2025, arXiv:2506.05806).

    Vectors, such as the state, join the embedded time. All of these arrays may be left out: `image`, which a second
    U-Net reads, whose feature maps every attention within a frame sees; `before`, frames that stand before the clip;
    `audio`, tokens of each frame, of those before too; `length`, frames of the clip.
    """

    kind: Literal["avatar_unet"]
    width: int = Field(320, gt=0, le=65_536, description="channels of the first convolution")
    multipliers: tuple[Size, ...] = Field(
        (1, 2, 4, 4), min_length=1, max_length=16, description="channels of each level, as a multiple of `width`"
    )
    blocks: int = Field(2, gt=0, le=64, description="blocks per level on the way down; one more on the way up")
    attention: tuple[Level, ...] = Field((0, 1, 2), max_length=16, description="levels that attend within frames")
    heads: int = Field(8, gt=0, le=1_024, description="heads of each attention")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the feed-forwards as a multiple of the channels")
    groups: int = Field(32, gt=0, le=1_024, description="groups of the group norms")
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "avatar_unet",
        "width": 8,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [1],
        "heads": 2,
        "ratio": 2,
        "groups": 4,
    }

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("channels",)  # also those of the image and of the frames before

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape, multiple = spec.data.shape, 2 ** (len(self.multipliers) - 1)
        if shape is None or len(shape) != 4:
            yield Problem((), f"an {self.kind} takes video [C, F, H, W], but the data has {spec.data.words}")
        elif shape[2] % multiple or shape[3] % multiple:
            message = f"sides of {shape[2]} and {shape[3]} pixels are no multiples of {multiple}"
            yield Problem(("multipliers",), message, "use fewer levels")
        else:
            yield from self._problems_of_arrays(spec)
        for i, level in enumerate(self.attention):
            if not 0 <= level < len(self.multipliers):
                message = f"level {level} is out of range: the levels are 0 to {len(self.multipliers) - 1}"
                yield Problem(("attention", i), message)
        for level, multiplier in enumerate(self.multipliers):
            channels = self.width * multiplier
            if channels % self.groups or self.width % self.groups:
                message = f"{self.groups} groups do not divide the channels of every level"
                yield Problem(("groups",), message)
                break
            if channels % (2 * self.heads):
                message = f"{self.heads} heads of even width do not divide the {channels} channels of level {level}"
                yield Problem(("heads",), message)
                break
        yield from self.problems_of_time(spec)
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_variance(spec)

    def _problems_of_arrays(self, spec: Spec) -> Iterator[Problem]:
        """Arrays of other names or shapes."""
        assert spec.data.shape is not None
        channels, frames, *sides = spec.data.shape
        shapes = {entry.name: tuple(entry.ports[0].type.shape[1:]) for entry in self.entries(spec) if entry.ports}
        before = shapes.get(BEFORE, ())
        total = frames + (int(before[1]) if len(before) == 4 else 0)  # type: ignore[arg-type]
        wanted = {
            IMAGE: f"[{channels}, {sides[0]}, {sides[1]}]",
            BEFORE: f"[{channels}, M, {sides[0]}, {sides[1]}]",
            AUDIO: f"[{total}, tokens, features]",
            LENGTH: "[]",
        }
        fits: dict[str, Callable[[tuple[Any, ...]], bool]] = {
            IMAGE: lambda s: s == (channels, *sides),
            BEFORE: lambda s: len(s) == 4 and (s[0], *s[2:]) == (channels, *sides),
            AUDIO: lambda s: len(s) == 3 and s[0] == total,
            LENGTH: lambda s: s == (),
        }
        for entry in self.entries(spec):
            if self.form_of(entry.condition) != "array":
                continue
            if entry.name not in wanted:
                message = f"an {self.kind} takes the arrays {', '.join(f'`{n}`' for n in wanted)}, not `{entry.name}`"
                yield Problem((), message, "rename the condition, or list those it takes in `conditions`")
            elif not fits[entry.name](shapes[entry.name]):
                message = f"condition `{entry.name}` has shape {list(shapes[entry.name])}, not {wanted[entry.name]}"
                yield Problem((), message, "change the shape of its field")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        entries = self.entries(spec)
        ports = (Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        static = {
            "channels": spec.data.shape[0],
            "width": self.width,
            "heads": self.heads,
            **spec.time.static(),
            **self.condition_sizes(spec),
        }
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"levels": len(self.multipliers)})


@cache
def _network(config: AvatarUnet, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    residual, named = _residual(config), {entry.name for entry in entries}
    attention = _frame_transformer(config.groups, config.ratio, IMAGE in named, AUDIO in named)
    motion = _motion_module(config.groups, config.ratio)

    @module_class("AvatarUNet", x="B channels F H W")
    def forward(
        b: Builder, x: Var, t: Var, *conditions: Var, channels: int, width: int, heads: int, **sizes: Any
    ) -> Var:
        """Predicts from a noisy clip x at time t, given the conditions."""
        arrays, embedded = dict[str, Var](), [time.vector(b, "t_embedder", t, 4 * width)]
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "vector":
                embedded.append(entry.vector(b, entry.prefix, operands, 4 * width, sizes))
            else:
                arrays[entry.name] = operands[0]
        before = 0
        if BEFORE in arrays:
            before = int(arrays[BEFORE].shape[2])
            x = b.concat(arrays[BEFORE], x, axis=2, out="x")
        batch, frames = x.shape[0], int(x.shape[2])
        c = _of_every_frame(b, b.silu(summed(b, "c", embedded), out="c"), frames, "c")
        seen: tuple[Var, ...] = ()
        if LENGTH in arrays:
            inside = frames_within(b, arrays[LENGTH], frames, before)
            seen = (b.reshape(inside, shape=(batch, 1, 1, frames), out="seen"),)
        heard: tuple[Var, ...] = ()
        if AUDIO in arrays:
            _, _, tokens, depth = arrays[AUDIO].shape
            heard = (b.reshape(arrays[AUDIO], shape=(batch * frames, tokens, depth), out="audio"),)
        maps = iter(())
        if IMAGE in arrays:
            found = b.sub("reference", _reference(config), arrays[IMAGE], channels=channels, width=width, heads=heads)
            maps = iter(found if isinstance(found, tuple | list) else (found,))

        def block(name: str, x: Var, features: Any, attends: bool) -> Var:
            x = _on_images(b, x, lambda h: residual.apply(b, f"{name}.residual", h, c, features))
            if attends:
                operands = (x, *([next(maps)] if IMAGE in arrays else ()), *heard)
                static = {"audio_dim": heard[0].shape[2]} if heard else {}
                x = b.sub(f"{name}.attention", attention, *operands, dim=features, heads=heads, **static, out="x")
            return b.sub(f"{name}.motion", motion, x, *seen, dim=features, heads=heads, out="x")  # type: ignore[no-any-return]

        x = _walked(b, config, b.transpose(x, perm=(0, 2, 1, 3, 4), out="x"), width, block)
        x = b.slice(x, axis=1, start=before, stop=frames, out="x") if before else x

        def read(h: Var) -> Var:
            return conv(b, "out_conv", residual.activated(b, residual.norm(b, "out_norm", h)), channels, 3, "torch")

        return b.transpose(_on_images(b, x, read), perm=(0, 2, 1, 3, 4), out="out")

    return forward


@cache
def _reference(config: AvatarUnet) -> BlockBody:
    """The U-Net of the image, without time, state, audio and other frames; it ends at its last attention."""
    residual, attention = _residual(config), _image_transformer(config.groups, config.ratio)
    ups = [level for level in range(len(config.multipliers)) if level in config.attention]
    last = f"up.{min(ups)}.{config.blocks}" if ups else "middle.0"
    final = _image_transformer(config.groups, config.ratio, final=True)

    @module_class("ReferenceUNet", image="B channels H W")
    def forward(b: Builder, image: Var, *, channels: int, width: int, heads: int) -> list[Var]:
        """The feature maps f32[B, N, C] that attention in the denoiser sees, in the order of its blocks."""
        maps: list[Var] = []

        def block(name: str, x: Var, features: Any, attends: bool) -> Var:
            x = residual.apply(b, f"{name}.residual", x, None, features)
            if not attends:
                return x
            if name == last:
                maps.append(b.sub(f"{name}.attention", final, x, dim=features, out="map"))
                return x
            x, found = b.sub(f"{name}.attention", attention, x, dim=features, heads=heads, out="x map")
            maps.append(found)
            return x

        _walked(b, config, image, width, block, last)
        return maps

    return forward


Block = Callable[[str, Var, Any, bool], Var]
"""Applies the block of a name to x; it has so many channels, and attends or not."""


def _walked(b: Builder, config: AvatarUnet, x: Var, width: Any, block: Block, last: str | None = None) -> Var:
    """x [..., C, H, W] through a U-Net's levels of blocks, as far as the block called `last`, or to the end."""
    levels = len(config.multipliers)

    def features(level: int) -> Any:
        return width * config.multipliers[level]

    x = _on_images(b, x, lambda h: conv(b, "in_conv", h, width, 3, "torch"))
    skips = [x]
    for level in range(levels):
        for i in range(config.blocks):
            x = block(f"down.{level}.{i}", x, features(level), level in config.attention)
            skips.append(x)
        if level < levels - 1:
            x = _on_images(b, x, partial(_halved, b, f"down.{level}.downsample"))
            skips.append(x)
    x = block("middle.0", x, features(levels - 1), True)
    if last == "middle.0":
        return x
    x = block("middle.1", x, features(levels - 1), False)
    for level in reversed(range(levels)):
        for i in range(config.blocks + 1):
            x = b.concat(x, skips.pop(), axis=x.type.rank - 3, out="x")
            x = block(f"up.{level}.{i}", x, features(level), level in config.attention)
            if last == f"up.{level}.{i}":
                return x
        if level:
            x = _on_images(b, x, partial(_doubled, b, f"up.{level}.upsample"))
    return x


def _halved(b: Builder, name: str, x: Var) -> Var:
    return conv(b, name, x, x.shape[1], 3, "torch", stride=2, out="x")


def _doubled(b: Builder, name: str, x: Var) -> Var:
    return doubling_conv(b, name, x, x.shape[1], "torch", out="x")


def _residual(config: AvatarUnet) -> ResidualBlock:
    return ResidualBlock(groups=config.groups, embedding="add")


def _on_images(b: Builder, x: Var, layer: Callable[[Var], Var]) -> Var:
    """A layer of images f32[B, C, H, W], or of each frame of video f32[B, T, C, H, W]."""
    if x.type.rank == 4:
        return layer(x)
    batch, frames, *image = x.shape
    y = layer(b.reshape(x, shape=(batch * int(frames), *image), out="x"))
    return b.reshape(y, shape=(batch, frames, *y.shape[1:]), out="x")


def _of_every_frame(b: Builder, x: Var, frames: int, out: str) -> Var:
    """x f32[B, ...] repeated for each of the frames: f32[B T, ...]."""
    batch, *rest = x.shape
    wide = b.broadcast_to(b.reshape(x, shape=(batch, 1, *rest)), shape=(batch, frames, *rest), out=out)
    return b.reshape(wide, shape=(batch * frames, *rest), out=out)


@cache
def _frame_transformer(groups: int, ratio: int, refers: bool, hears: bool) -> BlockBody:
    @module_class("FrameTransformer", x="B F dim H W")
    def forward(b: Builder, x: Var, *given: Var, dim: int, heads: int, **audio: int) -> Var:
        """Each frame attends to itself and the reference's feature map, then to its audio."""
        frames, rest = int(x.shape[1]), list(given)
        h = _on_images(b, x, lambda images: _positions(b, images, groups))
        batch, _, positions, _ = h.shape
        h = b.dense("proj_in", b.reshape(h, shape=(batch * frames, positions, dim)), dim, out="h")
        others = (rest.pop(0),) if refers else ()
        h = b.add(h, _self_attention(b, _normed(b, "norm1", h), others, frames, dim, heads), out="h")
        if hears:
            own = _normed(b, "norm2", h)
            h = b.add(h, _attended(b, "cross_attention", own, rest[0], dim, heads), out="h")
        h = b.add(h, _feed_forward(b, _normed(b, "norm3", h), dim, ratio), out="h")
        h = b.transpose(linear(b, "proj_out", h, dim, "torch", "last"), perm=(0, 2, 1))
        return b.add(x, b.reshape(h, shape=x.shape, out="h"), out="x")

    return forward


@cache
def _image_transformer(groups: int, ratio: int, final: bool = False) -> BlockBody:
    @module_class("FinalReference" if final else "ReferenceTransformer", x="B dim H W")
    def forward(b: Builder, x: Var, *, dim: int, heads: int = 1) -> Any:
        """Attention within the image; returns also what it is computed from."""
        h = b.dense("proj_in", _positions(b, x, groups), dim, out="h")
        own = _normed(b, "norm1", h)
        if final:
            return own
        h = b.add(h, _self_attention(b, own, (), 1, dim, heads), out="h")
        h = b.add(h, _feed_forward(b, _normed(b, "norm3", h), dim, ratio), out="h")
        h = b.transpose(linear(b, "proj_out", h, dim, "torch", "last"), perm=(0, 2, 1))
        return b.add(x, b.reshape(h, shape=x.shape, out="h"), out="x"), own

    return forward


@cache
def _motion_module(groups: int, ratio: int) -> BlockBody:
    @module_class("MotionModule", x="B F dim H W")
    def forward(b: Builder, x: Var, *seen: Var, dim: int, heads: int) -> Var:
        """Each position attends along the frames that are seen, twice (AnimateDiff, Guo et al. 2023)."""
        batch, frames, _, rows, columns = x.shape
        h = b.transpose(_on_images(b, x, lambda images: _positions(b, images, groups)), perm=(0, 2, 1, 3), out="h")
        h = b.dense("proj_in", h, dim, out="h")
        at = b.constant([float(i) for i in range(int(frames))], "f32", out="at")
        place = b.timestep_embedding(at, dim=dim, max_period=10000.0, out="place")
        for i in ("1", "2"):
            own = b.add(_normed(b, f"norm{i}", h), place, out="own")
            h = b.add(h, _along(b, f"attention{i}", own, seen, dim, heads), out="h")
        h = b.add(h, _feed_forward(b, _normed(b, "norm3", h), dim, ratio), out="h")
        h = b.transpose(linear(b, "proj_out", h, dim, "torch", "last"), perm=(0, 2, 3, 1))
        return b.add(x, b.reshape(h, shape=(batch, frames, dim, rows, columns), out="h"), out="x")

    return forward


def _positions(b: Builder, x: Var, groups: int) -> Var:
    """The normalised feature map f32[N, C, H, W] as a sequence f32[N, H W, C]."""
    count, channels, rows, columns = x.shape
    h = b.reshape(group_norm(b, "norm", x, groups, 1, 1e-6), shape=(count, channels, rows * columns))
    return b.transpose(h, perm=(0, 2, 1), out="h")


def _self_attention(b: Builder, h: Var, others: tuple[Var, ...], frames: int, dim: Any, heads: Any) -> Var:
    """Attention of h [B T, N, C] to itself and to the feature map [B, N, C] that all frames see, if there is one."""
    q = split_heads(b, b.dense("attention.q", h, dim, False, out="q"), heads, dim // heads, "q")
    k, v = _keys_and_values(b, "attention", h, dim, heads)
    for other in others:
        more = (
            _of_every_frame(b, x, frames, x.value.name) for x in _keys_and_values(b, "attention", other, dim, heads)
        )
        k, v = (b.concat(own, found, axis=2, out=own.value.name) for own, found in zip((k, v), more, strict=True))
    h = b.attention(q, k, v, causal=False, scale=None, out="h")
    return b.dense("attention.proj", joined_heads(b, h, dim, out="h"), dim, out="h")  # type: ignore[no-any-return]


def _keys_and_values(b: Builder, name: str, x: Var, dim: Any, heads: Any) -> tuple[Var, Var]:
    kv = b.split(b.dense(f"{name}.kv", x, 2 * dim, False, out="kv"), axis=2, sizes=(dim, dim), out="k v")
    k, v = (split_heads(b, part, heads, dim // heads, out) for part, out in zip(kv, "kv", strict=True))
    return k, v


def _attended(b: Builder, name: str, h: Var, context: Var, dim: Any, heads: Any) -> Var:
    """Attention of h [N, T, C] to a context [N, L, D]."""
    q = split_heads(b, b.dense(f"{name}.q", h, dim, False, out="q"), heads, dim // heads, "q")
    h = b.attention(q, *_keys_and_values(b, name, context, dim, heads), causal=False, scale=None, out="h")
    return b.dense(f"{name}.proj", joined_heads(b, h, dim, out="h"), dim, out="h")  # type: ignore[no-any-return]


def _along(b: Builder, name: str, h: Var, seen: tuple[Var, ...], dim: Any, heads: Any) -> Var:
    """Attention of h [B, N, T, C] along its frames; positions count as further heads, which share what is seen."""
    batch, positions, frames, _ = h.shape
    qkv = b.split(b.dense(f"{name}.qkv", h, 3 * dim, False, out="qkv"), axis=3, sizes=(dim,) * 3, out="q k v")
    apart, parts = (batch, positions, frames, heads, dim // heads), []
    for part, out in zip(qkv, "qkv", strict=True):
        x = b.transpose(b.reshape(part, shape=apart), perm=(0, 1, 3, 2, 4), out=out)
        parts.append(b.reshape(x, shape=(batch, positions * heads, frames, dim // heads), out=out))
    h = b.attention(*parts, *seen, causal=False, scale=None, out="h")
    h = b.transpose(b.reshape(h, shape=(batch, positions, heads, frames, dim // heads)), perm=(0, 1, 3, 2, 4))
    return b.dense(f"{name}.proj", b.reshape(h, shape=(batch, positions, frames, dim), out="h"), dim, out="h")  # type: ignore[no-any-return]


def _feed_forward(b: Builder, h: Var, dim: Any, ratio: int) -> Var:
    """A gated feed-forward with GELU."""
    hidden, last = ratio * dim, h.type.rank - 1
    h, gate = b.split(
        b.dense("feed_forward.fc1", h, 2 * hidden, out="h"), axis=last, sizes=(hidden, hidden), out="h gate"
    )
    return b.dense("feed_forward.fc2", h * b.gelu(gate, approximate="none"), dim, out="h")  # type: ignore[no-any-return]


def _normed(b: Builder, name: str, h: Var) -> Var:
    params = (b.param(f"{name}.{n}", f32(h.shape[-1]), init) for n, init in (("weight", "ones"), ("bias", "zeros")))
    return b.layer_norm(h, *params, eps=1e-5, out="h")
