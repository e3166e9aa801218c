"""Shared by all U-Nets: the sizes of their levels, and the ways down and up through them.

Level 0 has the resolution of the input, each further level half of it. Symbols: B batch, C channels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any, ClassVar

from pydantic import Field

from latentc.components import Level, Multiplier
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.unet.layers import SHAPES, Way
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeFeatures, ports_of, with_operands
from latentc.components.contract import Network, Port, Sizes
from latentc.components.parts import Problem, Spec
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B


class Levels(Backbone):
    """Levels of blocks, each at half the resolution of the one before."""

    width: int = Field(gt=0, le=65_536, multiple_of=2, description="base channels, multiplied by `multipliers`")
    multipliers: tuple[Multiplier, ...] = Field(
        min_length=1, max_length=16, description="channels of each level as a multiple of `width`"
    )
    blocks: int = Field(gt=0, le=64, description="residual blocks per level of the downward path")
    attention: tuple[Level, ...] = Field(
        (), max_length=64, description="levels whose blocks end with self-attention, counted from 0"
    )
    frequencies: int | None = Field(
        None,
        gt=2,
        le=65_536,
        multiple_of=2,
        description="size of the timestep features; null: as in `conditioning.time`",
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
        for side in self.halved_sides(shape):
            if side % 2**last_level:
                mend = f"use fewer levels, or sides that are multiples of {2**last_level}"
                yield Problem(("multipliers",), f"a side of {side} cannot be halved {last_level} times", mend)
        for i, level in enumerate(self.attention):
            if level not in range(len(self.multipliers)):
                yield Problem(("attention", i), f"level {level} is out of range: there are levels 0 to {last_level}")
        for i, multiplier in enumerate(self.multipliers):
            yield from self._problems_of_level(i, multiplier)

    def _problems_of_level(self, level: int, multiplier: float) -> Iterator[Problem]:
        channels = whole(self.width, multiplier)
        if not channels:
            yield Problem(("multipliers", level), f"{multiplier} * {self.width} channels is not a positive integer")
            return
        groups = self.groups_that_do_not_fit(channels)
        if groups is not None:
            message = f"{groups} groups do not divide the {channels} channels of level {level}"
            yield Problem(("multipliers", level), message, "choose another `width`, or `block.groups`")
        middle = level == len(self.multipliers) - 1  # the middle block attends at the last level
        heads = self.heads_of_level(channels)
        if (level in self.attention or middle) and (not heads or channels % heads):
            message = f"{heads} heads do not divide the {channels} channels of level {level}"
            if not heads:
                message = f"a head of attention has more channels than level {level}, which has {channels}"
            if level not in self.attention:
                message += ", where the middle block attends"
            yield Problem(("attention",), message, "set `block.heads` or `block.head_channels`")

    def halved_sides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of the data that each level halves."""
        return shape[1:]

    @abstractmethod
    def heads_of_level(self, channels: int) -> int:
        """Heads of an attention over so many channels."""

    def groups_that_do_not_fit(self, channels: int) -> int | None:
        """Groups of a norm of so many channels, if they do not divide them."""
        return None

    def features(self, width: Any, level: int) -> Any:
        """Channels of a level."""
        return scaled(width, self.multipliers[level])

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level attend on the way down."""
        return level in self.attention

    def attends_up(self, level: int, block: int) -> bool:
        """Whether a block of a level attends on the way up."""
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
            **self.condition_sizes(spec),
            **({} if self.frequencies is None else {"frequencies": self.frequencies}),
        }

    def sizes(self, spec: Spec) -> Sizes:
        """Further numbers for name maps; `attention` is 1 for each level that has it, else 0."""
        assert spec.data.shape is not None
        levels = len(self.multipliers)
        attention = tuple(int(level in self.attention) for level in range(levels))
        return {"levels": levels, "side": spec.data.shape[-1], "attention": attention, "blocks": self.blocks}


class LevelsDenoiser(Levels):
    """Levels that predict from a noisy sample, by one method."""

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})

    @abstractmethod
    def body(self, time: TimeFeatures, entries: tuple[Entry, ...], axes: int) -> BlockBody:
        """The method `forward` for samples with so many spatial axes."""

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeFeatures)
        static, ports = {**self.static(spec), "out_channels": out_channels}, self.ports(spec)
        body = self.body(spec.time, self.entries(spec), ports[0].type.rank - 2)
        method = add_method(mb, name, "forward", body, ports, static)
        return Network(name, {"forward": method}, self.PROVIDES, sizes=self.sizes(spec))


def _ratio(multiplier: float) -> Fraction:
    return Fraction(multiplier).limit_denominator(64)


def whole(width: int, multiplier: float) -> int:
    """`multiplier * width`, or 0 if that is not a positive integer."""
    channels = width * _ratio(multiplier)
    return int(channels) if channels.denominator == 1 and channels > 0 else 0


def scaled(width: Any, multiplier: float) -> Any:
    """`multiplier * width`, for a symbolic width too."""
    ratio = _ratio(multiplier)
    if ratio == 1:
        return width
    return ratio.numerator * width if ratio.denominator == 1 else ratio.numerator * width // ratio.denominator


class Path(ABC):
    """The ways through the levels while a method of a U-Net is built; subclasses say what blocks and joints are."""

    out_channels: Any = None
    """Channels of the prediction."""

    def __init__(
        self,
        b: Builder,
        config: Levels,
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
        self._pairs = tuple(with_operands(entries, conditions))
        self.start(time, x, t, static)

    @abstractmethod
    def start(self, time: TimeFeatures, x: Var, t: Var, static: Mapping[str, Any]) -> None:
        """Embeds time and conditions, and keeps the input."""

    def conditions(self, form: Form) -> list[tuple[Entry, tuple[Var, ...]]]:
        """The conditions that enter in this form, each with its operands."""
        return [(entry, operands) for entry, operands in self._pairs if entry.form == form]

    @abstractmethod
    def enter(self) -> Var:
        """The feature map of level 0, from the input."""

    @abstractmethod
    def block(self, name: str, x: Var, features: Any, attends: bool = False, way: Way = "same") -> Var:
        """A residual block; `way` says whether it changes the resolution."""

    def halved(self, level: int, x: Var) -> Var:
        """The step down to a level."""
        return self.block(f"down.{level - 1}", x, x.shape[1], way="down")

    def doubled(self, level: int, x: Var) -> Var:
        """The step up to a level."""
        return self.block(f"up.{level}", x, x.shape[1], way="up")

    def joined(self, x: Var, skip: Var) -> Var:
        """x with what the way down left for this block."""
        return self.b.concat(x, skip, axis=1, out="x")

    def left(self, level: int, x: Var) -> Var:
        """The feature map that leaves a level on the way up."""
        return x

    def down(self) -> tuple[Var, list[Var]]:
        """The way down: the feature map of the last level, and the skips, newest last."""
        config, x = self.config, self.enter()
        skips = [x]
        for level in range(len(config.multipliers)):
            if level:
                x = self.halved(level, x)
                skips.append(x)
            features = config.features(self.width, level)
            for name in items(f"enc.{level}", self.blocks):
                x = self.block(name, x, features, config.attends(level))
                skips.append(x)
        return x, skips

    def middle(self, x: Var) -> Var:
        """Two blocks at the last level, the first of which attends."""
        x = self.block("mid_0", x, x.shape[1], True)
        return self.block("mid_1", x, x.shape[1])

    def up(self, x: Var, skips: list[Var]) -> Var:
        """The way up, which takes the skips from the end."""
        config, last = self.config, len(self.config.multipliers) - 1
        for level in range(last, -1, -1):
            if level < last:
                x = self.doubled(level, x)
            features = config.features(self.width, level)
            for i, name in enumerate(items(f"dec.{level}", self.blocks + 1)):
                x = self.block(name, self.joined(x, skips.pop()), features, config.attends_up(level, i))
            x = self.left(level, x)
        return x

    def read(self, x: Var) -> Var:
        """The prediction [B, C_out, ...], from the last feature map [B, C, ...] of level 0."""
        return x


@cache
def denoising(
    cls: str, path: type[Path], config: Levels, time: TimeFeatures, entries: tuple[Entry, ...], axes: int
) -> BlockBody:
    """The method `forward` of emitted class `cls`: down and up through the levels."""

    @module_class(cls, x=SHAPES[axes])
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        channels: int,
        width: int,
        blocks: int,
        out_channels: int,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        parts = path(b, config, time, entries, x, t, conditions, width, blocks, static)
        parts.out_channels = out_channels
        x, skips = parts.down()
        return parts.read(parts.up(parts.middle(x), skips))

    return forward
