"""Shared by U-Nets of GroupNorm blocks and their encoders: the embedding of time and conditions, the way down.

Symbols: B batch, C channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.blocks.unet.layers import Way, conv, halving_conv, linear, resampled
from latentc.components.blocks.unet.residual import ResidualBlock
from latentc.components.condition import Condition, Entry, Form, Pair, TimeFeatures, with_operands
from latentc.components.contract import Sizes
from latentc.components.kit.tokens import joined
from latentc.components.networks._levels import Levels, Path, scaled, whole
from latentc.components.parts import Problem, Spec
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, module_class


class Unet(Levels):
    """Levels of residual blocks with GroupNorm, given an embedding of time and conditions."""

    stem: float = Field(1.0, gt=0, le=1_024, description="channels of the first convolution as a multiple of `width`")
    embedding: int = Field(
        4, gt=0, le=1_024, description="size of the embedding of time and conditions as a multiple of `width`"
    )
    early: tuple[str, ...] = Field(
        (), description="conditions added to the timestep features; others are added to the time embedding"
    )
    time_embedding: bool = Field(
        True,
        description="an embedding of time and vectors for the blocks (Song et al.'s `conditional`); false: the "
        "network has no time input and takes no vectors",
    )
    block: ResidualBlock = Field(ResidualBlock(), description="the residual block")
    resampling: Literal["block", "conv", "padded_conv", "filter"] = Field(
        "block",
        description="resampling between levels: by residual blocks (BigGAN); by convolutions, whose stride-2 ones "
        "pad on both sides (ADM) or only at the end (`padded_conv`: DDPM); or only by `block.resample`",
    )

    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map", "tokens")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from super().problems(spec)
        if spec.data.shape is None:
            return
        if self.block.resample == "planes":
            if len(spec.data.shape) != 4:
                message = "planes need data [C, D, H, W], but the data has " + spec.data.words
                yield Problem(("block", "resample"), message, "use `box`")
            if self.pads_at_end:
                message = "convolutions that pad only at the end halve all axes, but `planes` halves only the last two"
                yield Problem(("block", "resample"), message, "use `box`, or another of `resampling` and `encoder`")
        if not whole(self.width, self.stem):
            yield Problem(("stem",), f"{self.stem} * {self.width} channels is not a positive integer")
        for i, name in enumerate(self.early):
            if name not in self.takes(spec):
                known = ", ".join(self.takes(spec)) or "none"
                yield Problem(("early", i), f"no condition `{name}`", f"conditions of this network: {known}")
        vectors = [name for name, part in self.takes(spec).items() if self.form_of(part) == "vector"]
        if vectors and not self.time_embedding:
            message = f"without an embedding, blocks cannot take condition `{vectors[0]}`"
            yield Problem(("time_embedding",), message, "leave it out, or list `conditions` without it")
        if self.block.transformer is not None:
            yield from self._problems_of_transformer(spec)

    def times(self, pairs: list[Pair]) -> tuple[list[Var], list[Pair]]:
        """Conditions whose features, made as those of the time, are concatenated to them, and the other conditions."""
        return [], pairs

    @property
    def pads_at_end(self) -> bool:
        """Whether convolutions that halve the resolution pad only at the end."""
        return self.resampling == "padded_conv"

    def _problems_of_transformer(self, spec: Spec) -> Iterator[Problem]:
        """Without tokens to attend to, or with a norm whose groups do not fit: it has no least channels per group."""
        if not any(self.form_of(part) == "tokens" for part in self.takes(spec).values()):
            message = "a transformer attends to condition tokens, but this network takes none"
            yield Problem(("block", "transformer"), message, "leave it out, or add a condition that enters as tokens")
        last = len(self.multipliers) - 1  # where the middle block attends
        for level, multiplier in enumerate(self.multipliers):
            channels = whole(self.width, multiplier)
            groups = min(self.block.groups, channels or 1)
            if channels and channels % groups and (level == last or self.attends(level)):
                message = f"the transformer's {groups} groups do not divide the {channels} channels of level {level}"
                yield Problem(("multipliers", level), message, "choose another `width`, or `block.groups`")

    def static(self, spec: Spec) -> dict[str, Any]:
        """Without the sizes of the features of the time, if blocks do not take it."""
        own = super().static(spec)
        if self.time_embedding:
            return own
        assert isinstance(spec.time, TimeFeatures)
        return {name: size for name, size in own.items() if name not in spec.time.static()}

    def halved_sides(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return super().halved_sides(shape)[1:] if self.block.resample == "planes" else super().halved_sides(shape)

    def form_of(self, condition: Condition) -> Form | None:
        form = super().form_of(condition)
        return None if form == "tokens" and self.block.transformer is None else form

    def groups_that_do_not_fit(self, channels: int) -> int | None:
        return self.block.groups_that_do_not_fit(channels)

    def heads_of_level(self, channels: int) -> int:
        return int(self.block.head_count(channels))

    def sizes(self, spec: Spec) -> Sizes:
        """As of every U-Net; `transformer`: blocks of each transformer."""
        depth = 0 if self.block.transformer is None else self.block.transformer.depth
        return {**super().sizes(spec), "transformer": depth}


class Parts(Path):
    """The parts of a U-Net while one of its methods is built: the embedding c, and blocks by name."""

    config: Unet

    def start(self, time: TimeFeatures, x: Var, t: Var, static: Mapping[str, Any]) -> None:
        b, config, width = self.b, self.config, self.width
        self.residual = config.block
        for entry, operands in self.conditions("map"):
            x = b.concat(x, entry.map(b, operands, static, x.shape[-1]), axis=1, out="x")
        self.x = x
        sequences = [
            entry.tokens(b, f"{entry.name}_embedder", operands, config.embedding * width, static, any_width=True)
            for entry, operands in self.conditions("tokens")
        ]
        self.context = joined(b, sequences)
        self.c: Var | None = None
        if not config.time_embedding:
            return
        cond = self.conditions("vector")
        vectors = [operand for _, operands in cond for operand in operands]
        embedder = _embedder(config, time, tuple(entry for entry, _ in cond))
        embedding = config.embedding * width
        self.c = b.sub("embedder", embedder, t, *vectors, embedding=embedding, out="c", **static)

    def enter(self) -> Var:
        return conv(
            self.b, "in_conv", self.x, scaled(self.width, self.config.stem), 3, self.config.block.weights, out="x"
        )

    def block(self, name: str, x: Var, features: Any, attends: bool = False, way: Way = "same") -> Var:
        return self.residual.apply(self.b, name, x, self.c, features, attends, way, self.context)

    def halved(self, level: int, x: Var) -> Var:
        b, block = self.b, self.config.block
        if self.config.resampling == "block":
            return super().halved(level, x)
        if self.config.resampling == "filter":
            return resampled(b, x, "down", block.resample, out="x")
        if self.config.resampling == "padded_conv":
            return halving_conv(b, f"down.{level - 1}", x, x.shape[1], block.weights, out="x")
        stride = (1, 2, 2) if block.resample == "planes" else 2
        return conv(b, f"down.{level - 1}", x, x.shape[1], 3, block.weights, stride=stride, out="x")


@cache
def _embedder(config: Unet, time: TimeFeatures, entries: tuple[Entry, ...]) -> BlockBody:
    block = config.block

    @module_class("Embedder")
    def embedder(b: Builder, t: Var, *operands: Var, embedding: int, **static: Any) -> Var:
        """Embeds time and conditions."""
        own = {k: static[k] for k in time.static()}
        size, pairs = time.count(static["frequencies"]), list(with_operands(entries, operands))
        times, pairs = config.times(pairs)
        parts = [time.features(b, each, **own) for each in (t, *times)]
        c, size = (parts[0], size) if not times else (b.concat(*parts, axis=1, out="c"), len(parts) * size)

        def added(c: Var, width: Any, first: bool) -> Var:
            for entry, given in pairs:
                if (entry.name in config.early) == first:
                    embedded = entry.vector(b, entry.prefix, given, width, static)
                    c = b.add(c, embedded, out="c")
            return c

        c = linear(b, "fc1", added(c, size, True), embedding, block.weights, size=size)
        c = linear(b, "fc2", block.activated(b, c, "c"), embedding, block.weights, out="c")
        return block.activated(b, added(c, embedding, False), "c")

    return embedder


@cache
def embedding_of(config: Unet, entries: tuple[Entry, ...]) -> BlockBody:
    """`embed` of a U-Net: the embedded vectors f32[B, ...], those that are added early first, without the time."""

    @module_class("Embedder", "embed")
    def embedded(b: Builder, *operands: Var, embedding: int, **static: Any) -> Var:
        """The sum of the embedded conditions, without the time."""
        sums = []
        for first in (True, False):
            width = static["frequencies"] if first else embedding
            vectors = [
                entry.vector(b, entry.prefix, own, width, static)
                for entry, own in with_operands(entries, operands)
                if (entry.name in config.early) == first
            ]
            sums += [summed(b, "c", vectors)] if vectors else []
        return sums[0] if len(sums) == 1 else b.concat(*sums, axis=1, out="c")

    @module_class("UNet", "embed")
    def embed(b: Builder, *operands: Var, width: int, **static: Any) -> Var:
        """The embedded conditions, without the time."""
        return b.sub("embedder", embedded, *operands, embedding=config.embedding * width, out="c", **static)

    return embed
