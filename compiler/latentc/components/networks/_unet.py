"""Shared by U-Nets and their encoders: sizes of levels, the embedding of time and conditions, the downsampling path.

Level 0 has the resolution of the input, each further level half of it. Symbols: B batch, C channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Level, Multiplier
from latentc.components.backbone import Backbone
from latentc.components.blocks.unet.layers import SHAPES, Way, conv, linear
from latentc.components.blocks.unet.residual import ResidualBlock
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Port
from latentc.components.parts import Problem
from latentc.ir.builder import BlockBody, Builder, Var, f32, items, module_class
from latentc.ir.types import B

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class Unet(Backbone):
    """Levels of residual blocks, each at half the resolution of the one before."""

    width: int = Field(gt=0, le=65_536, multiple_of=2, description="channels that the multipliers multiply")
    multipliers: tuple[Multiplier, ...] = Field(
        min_length=1, max_length=16, description="channels of each level over `width`"
    )
    stem: float = Field(1.0, gt=0, le=1_024, description="channels of the first convolution over `width`")
    blocks: int = Field(gt=0, le=64, description="residual blocks per level on the way down")
    attention: tuple[Level, ...] = Field(
        (), max_length=64, description="levels whose blocks end with self-attention, from 0"
    )
    embedding: int = Field(4, gt=0, le=1_024, description="size of the embedding of time and conditions over `width`")
    frequencies: int | None = Field(
        None,
        gt=2,
        le=65_536,
        multiple_of=2,
        description="size of the features of the time; null: as in `conditioning.time`",
    )
    early: tuple[str, ...] = Field(
        (), description="conditions added to the features of the time; others are added to its embedding"
    )
    block: ResidualBlock = Field(ResidualBlock(), description="the residual block")
    resampling: Literal["block", "conv"] = Field(
        "block", description="levels are joined by residual blocks that resample (BigGAN), or by convolutions (DDPM)"
    )
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map")
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) - 1 not in SHAPES:
            wanted = "arrays [C, L], [C, H, W] or [C, D, H, W]"
            yield Problem((), f"a {self.kind} takes {wanted}, but the data has {spec.data.words}")
            return
        yield from self.problems_of_conditions(spec)
        yield from self.problems_of_time(spec)
        last_level = len(self.multipliers) - 1
        for side in shape[1:]:
            if side % 2**last_level:
                yield Problem(("multipliers",), f"a side of {side} cannot be halved {last_level} times")
        for i, level in enumerate(self.attention):
            if level not in range(len(self.multipliers)):
                yield Problem(("attention", i), f"level {level} is out of range: there are levels 0 to {last_level}")
        for i, multiplier in enumerate(self.multipliers):
            yield from self._problems_of_level(i, multiplier)
        if not _whole(self.width, self.stem):
            yield Problem(("stem",), f"{self.stem} * {self.width} channels is no positive whole number")
        for i, name in enumerate(self.early):
            if name not in self.told(spec):
                known = ", ".join(self.told(spec)) or "none"
                yield Problem(("early", i), f"no condition `{name}`", f"conditions of this network: {known}")

    def _problems_of_level(self, level: int, multiplier: float) -> Iterator[Problem]:
        channels = _whole(self.width, multiplier)
        if not channels:
            yield Problem(("multipliers", level), f"{multiplier} * {self.width} channels is no positive whole number")
            return
        groups = self.groups_that_do_not_fit(channels)
        if groups is not None:
            message = f"{groups} groups do not divide the {channels} channels of level {level}"
            yield Problem(("multipliers", level), message, "choose another `width`, or `block.groups`")
        middle = level == len(self.multipliers) - 1  # the middle block attends at the last level
        heads = self.block.head_count(channels)
        if (level in self.attention or middle) and (not heads or channels % heads):
            message = f"{heads} heads do not divide the {channels} channels of level {level}"
            if level not in self.attention:
                message += ", where the middle block attends"
            yield Problem(("attention",), message, "set `block.heads` or `block.head_channels`")

    def groups_that_do_not_fit(self, channels: int) -> int | None:
        """Groups of a norm of so many channels, if they do not divide them."""
        groups = min(self.block.groups, channels // self.block.group_size)
        return groups if not groups or channels % groups else None

    def features(self, width: Any, level: int) -> Any:
        """Channels of a level."""
        return scaled(width, self.multipliers[level])

    def attends(self, level: int) -> bool:
        return level in self.attention

    def ports(self, spec: Spec) -> tuple[Port, ...]:
        """State, time and conditions."""
        assert spec.data.shape is not None
        return (
            Port("x", f32(B, *spec.data.shape), "state"),
            Port("t", f32(B), "time"),
            *ports_of(self.entries(spec)),
        )

    def static(self, spec: Spec) -> dict[str, Any]:
        """The sizes that the emitted class is constructed with."""
        assert spec.data.shape is not None and isinstance(spec.time, TimeFeatures)
        return {
            "channels": spec.data.shape[0],
            "width": self.width,
            "blocks": self.blocks,
            **spec.time.static(),
            **({} if self.frequencies is None else {"frequencies": self.frequencies}),
            **self.condition_sizes(spec),
        }

    def sizes(self, spec: Spec) -> dict[str, int | tuple[int, ...]]:
        """Further numbers for name maps; `attention` is 1 for each level that has it, else 0."""
        assert spec.data.shape is not None
        levels = len(self.multipliers)
        attention = tuple(int(level in self.attention) for level in range(levels))
        return {"levels": levels, "side": spec.data.shape[-1], "attention": attention, "blocks": self.blocks}


def _ratio(multiplier: float) -> Fraction:
    return Fraction(multiplier).limit_denominator(64)


def _whole(width: int, multiplier: float) -> int:
    """`multiplier * width`, or 0 if that is no positive whole number."""
    channels = width * _ratio(multiplier)
    return int(channels) if channels.denominator == 1 and channels > 0 else 0


def scaled(width: Any, multiplier: float) -> Any:
    """`multiplier * width`, for a symbolic width too."""
    ratio = _ratio(multiplier)
    if ratio == 1:
        return width
    return ratio.numerator * width if ratio.denominator == 1 else ratio.numerator * width // ratio.denominator


class Parts:
    """The parts of a U-Net while one of its methods is built: the embedding c, and blocks by name."""

    def __init__(
        self,
        b: Builder,
        config: Unet,
        time: TimeFeatures,
        entries: tuple[Entry, ...],
        x: Var,
        t: Var,
        conditions: tuple[Var, ...],
        width: Any,
        blocks: int,
        static: Mapping[str, Any],
    ) -> None:
        self.b, self.config, self.width, self.blocks = b, config, width, blocks
        vectors = [v for entry, vs in with_operands(entries, conditions) if entry.form == "vector" for v in vs]
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "map":
                x = b.concat(x, entry.map(b, operands, static, x.shape[-1]), axis=1, out="x")
        self.x = x
        told = tuple(entry for entry in entries if entry.form == "vector")
        embedder = _embedder(config.early, config.block.weights, time, told)
        embedding = config.embedding * width
        self.c: Var = b.sub("embedder", embedder, t, *vectors, embedding=embedding, out="c", **static)

    def block(self, name: str, x: Var, features: Any, attends: bool = False, way: Way = "same") -> Var:
        """A residual block."""
        return self.config.block.apply(self.b, name, x, self.c, features, attends, way)

    def down(self) -> tuple[Var, list[Var]]:
        """The way down: the feature map of the last level, and the skips, newest last."""
        b, config = self.b, self.config
        weights = config.block.weights
        x, aux = conv(b, "in_conv", self.x, scaled(self.width, config.stem), 3, weights, out="x"), self.x
        skips = [x]
        for level in range(len(config.multipliers)):
            if level:
                x, aux = self._halved(level, x, aux)
                skips.append(x)
            features = config.features(self.width, level)
            for name in items(f"enc_{level}", self.blocks):
                x = self.block(name, x, features, config.attends(level))
                skips.append(x)
        return x, skips

    def _halved(self, level: int, x: Var, aux: Var) -> tuple[Var, Var]:
        """The step down to a level: (x, the auxiliary branch)."""
        if self.config.resampling == "conv":
            return conv(self.b, f"down_{level}", x, x.shape[1], 3, self.config.block.weights, stride=2, out="x"), aux
        return self.block(f"down_{level}", x, x.shape[1], way="down"), aux

    def middle(self, x: Var) -> Var:
        """Two blocks at the last level, the first of which attends."""
        x = self.block("mid_0", x, x.shape[1], True)
        return self.block("mid_1", x, x.shape[1])


@cache
def _embedder(early: tuple[str, ...], weights: Any, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *operands: Var, embedding: int, **static: Any) -> Var:
        """Embeds time and conditions."""
        c = time.features(b, t, **{k: static[k] for k in time.static()})
        size = static["frequencies"]
        pairs = list(with_operands(entries, operands))

        def added(c: Var, width: Any, first: bool) -> Var:
            for entry, own in pairs:
                if (entry.name in early) == first:
                    embedded = entry.vector(b, f"{entry.ports[0].name}_embedder", own, width, static)
                    c = b.add(c, embedded, out="c")
            return c

        c = b.silu(linear(b, "fc1", added(c, size, True), embedding, weights, size=size), out="c")
        c = linear(b, "fc2", c, embedding, weights, out="c")
        return b.silu(added(c, embedding, False), out="c")

    return embedder


__all__ = ["Parts", "Unet", "scaled"]
