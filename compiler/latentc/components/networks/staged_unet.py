"""U-shaped networks of transformer blocks: stages at several resolutions, joined by skips.

A file of its own, as `unet` is made of residual blocks and `patch_transformer` has one resolution: here the blocks of
the latter work at the resolutions of the former.

Symbols: B batch, C channels, D width, E size of the condition, T tokens of a square.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import add_method
from latentc.components.blocks.feature_map import as_map, as_tokens
from latentc.components.blocks.resampling import Resampling, downsample, upsample
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.layers import conv
from latentc.components.networks._stages import Staged, whole
from latentc.components.networks.patch_transformer import modulated
from latentc.components.parts import Norm, Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B


class StagedUnet(Staged):
    """Stages of blocks, each at half the previous resolution, then as many upwards (DiCo, DiffiT, AsCAN).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Vectors are added to the embedded
    time; maps are concatenated to x. Stages are listed on the way down, in the middle, and on the way up, so their
    number is odd.
    """

    kind: Literal["staged_unet"]
    resampling: Resampling = Field(
        "pixel_shuffle", description="resampling between stages: space-to-depth, or strided convolutions"
    )
    embedding: int | None = Field(
        None,
        gt=0,
        le=65_536,
        description="size of the embedded time and conditions; null: one per width, of the same size",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "staged_unet",
        "width": 8,
        "multipliers": [1, 2, 2],
        "depths": [1, 1, 1],
        "block": {
            "mixer": {"kind": "depthwise_conv"},
            "feed_forward": {"kind": "gelu_mlp", "ratio": 2.0},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    LISTS: ClassVar[str] = "."
    """Between the name of a module and its level: a list of all levels, or (`_`) a module for each."""
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map")
    TIME: ClassVar[bool] = True

    @property
    def fixed(self) -> tuple[str, ...]:
        return ("size", "embedding")

    @property
    def lowest(self) -> int:
        """The stage in the middle, and the number of levels above it."""
        return self.stages // 2

    def level(self, stage: int) -> int:
        return min(stage, self.stages - 1 - stage)

    def stage(self, stage: int) -> str:
        if stage == self.lowest:
            return "middle"
        return self.at_level("encoder" if stage < self.lowest else "decoder", self.level(stage))

    def at_level(self, name: str, level: int) -> str:
        """The name of a module of which each level has one."""
        return f"{name}{self.LISTS}{level}"

    def problems(self, spec: Spec) -> Iterator[Problem]:
        shape = spec.data.shape
        if shape is None or len(shape) != 3:
            yield Problem((), f"a {self.kind} takes arrays [C, H, W], but the data has {spec.data.words}")
            return
        if shape[1] != shape[2]:
            yield from self._problems_of_rectangle(spec, *shape[1:])
        if self.stages % 2 == 0:
            message = f"{self.stages} stages have no middle one"
            yield Problem(
                ("multipliers",), message, "give as many for the way up as for the way down, and one in the middle"
            )
            return
        yield from self.problems_of_stages(spec, shape[1])
        yield from self._problems_of_joints()
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector")

    def _problems_of_rectangle(self, spec: Spec, height: int, width: int) -> Iterator[Problem]:
        """Parts that need a square of pixels, for data that is none."""
        if width % 2**self.lowest:
            yield Problem(("multipliers",), f"a side of {width} cannot be halved {self.lowest} times")
        for entry in self.entries(spec):
            if entry.form == "map":
                yield Problem(
                    (),
                    f"condition `{entry.name}` is a square map, but the data are not square",
                    "leave it out",
                )

    def _problems_of_joints(self) -> Iterator[Problem]:
        for stage in range(1, self.lowest + 1):
            width = whole(self.width, self.multipliers[stage])
            if self.resampling == "pixel_shuffle" and width % 4:
                message = f"pixel shuffling needs channels divisible by 4, not {width}"
                yield Problem(("multipliers", stage), message, "use a multiple of 4 channels, or `resampling: conv`")

    def path(self) -> type[Path]:
        """The stages while the network is built."""
        return Path

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, columns = spec.data.shape
        static: dict[str, Any] = {
            "size": size,
            **({} if columns == size else {"columns": columns}),
            "channels": channels,
            "width": self.width,
            **self.depth_sizes(),
            **({} if self.embedding is None else {"embedding": self.embedding}),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        entries = self.entries(spec)
        ports = (Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries, columns == size), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES, sizes={"levels": self.lowest})


@cache
def _network(config: StagedUnet, time: TimeEmbedding, entries: tuple[Entry, ...], square: bool) -> BlockBody:
    @module_class("StagedUNet", x=f"B channels size {'size' if square else 'columns'}")
    def forward(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        channels: int,
        width: int,
        out_channels: int,
        columns: int = 0,
        **static: Any,
    ) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "map":
                x = b.concat(x, entry.map(b, operands, static, size), axis=1, out="x")
        pairs = [pair for pair in with_operands(entries, conditions) if pair[0].form == "vector"]
        path = config.path()(b, config, time, t, pairs, width, (size, size if square else columns), static)
        x = path.through(path.enter(x))
        return path.leave(x, out_channels)

    return forward


class Path:
    """The stages of a network while it is built, and the embedded condition of each width."""

    def __init__(
        self,
        b: Builder,
        config: StagedUnet,
        time: TimeEmbedding,
        t: Var,
        pairs: list[tuple[Entry, tuple[Var, ...]]],
        width: Any,
        sides: tuple[Any, Any],
        static: Mapping[str, Any],
    ) -> None:
        self.b, self.config, self.width, self.static = b, config, width, static
        self.size, self.columns = sides
        mixer, feed_forward, self.norm, condition = config.block.parts()
        self.block = condition.block(mixer, feed_forward, self.norm, config.weights)
        self.c = [self._embedded(time, t, pairs, *of) for of in self._embeddings()]

    def _embeddings(self) -> list[tuple[str, Any]]:
        """Suffix and size of each embedding: of the only one, or one for each width in the order of the path."""
        config = self.config
        if config.embedding is not None:
            return [("", self.static["embedding"])]
        stages = [config.multipliers.index(m) for m in dict.fromkeys(config.multipliers)]
        return [(config.at_level("", i), config.features(self.width, stage)) for i, stage in enumerate(stages)]

    def _embedded(
        self, time: TimeEmbedding, t: Var, pairs: list[tuple[Entry, tuple[Var, ...]]], suffix: str, size: Any
    ) -> Var:
        b = self.b
        vectors = [time.vector(b, f"t_embedder{suffix}", t, size)]
        for entry, operands in pairs:
            vectors.append(entry.vector(b, f"{entry.prefix}{suffix}", operands, size, self.static))
        return summed(b, "c", vectors)

    def condition(self, stage: int) -> Var:
        """The embedded condition of a stage."""
        multipliers = self.config.multipliers
        return self.c[0 if len(self.c) == 1 else list(dict.fromkeys(multipliers)).index(multipliers[stage])]

    def grid(self, stage: int) -> Any:
        """The rows of tokens at a stage."""
        return self.size // 2 ** self.config.level(stage)

    def enter(self, x: Var) -> Var:
        b, features = self.b, self.config.features(self.width, 0)
        x = conv(b, "x_embedder", x, features, 3, "xavier_matrix", out="x")
        return as_tokens(b, x, self.size * self.columns)

    def through(self, x: Var) -> Var:
        """All stages, on the tokens of the first one."""
        b, config, skips = self.b, self.config, []
        for stage in range(config.stages):
            features, grid = config.features(self.width, stage), self.grid(stage)
            level = config.level(stage)
            if 0 < stage <= config.lowest:
                skips.append(x)
                sizes = {"dim": x.shape[2], "features": features, "grid": self.grid(stage - 1)}
                x = b.sub(config.at_level("down", level - 1), downsample(config.resampling, config.weights), x, **sizes)
            elif stage > config.lowest:
                skip = skips.pop()
                sizes = {"dim": x.shape[2], "features": skip.shape[2], "grid": self.grid(stage - 1)}
                x = b.sub(config.at_level("up", level), upsample(config.resampling, config.weights), x, **sizes)
                x = b.concat(x, skip, axis=2, out="x")
                x = dense(b, config.at_level("merge", level), x, features, True, config.weights, out="x")
            x = self.blocks(stage, x, grid)
        return x

    def blocks(self, stage: int, x: Var, grid: Any) -> Var:
        """The blocks of a stage."""
        return self.config.run(self.b, self.block, x, (self.condition(stage),), stage, grid, self.static)

    def leave(self, x: Var, out_channels: Any) -> Var:
        """The prediction, from the tokens of the last stage."""
        return self.final(_final_layer(self.config, self.norm), out_channels, x, self.condition(self.config.stages - 1))

    def final(self, layer: BlockBody, out_channels: Any, x: Var, *operands: Var) -> Var:
        """The last layer, of tokens x and other operands."""
        sizes = {"dim": x.shape[2], "grid": self.size, "out_channels": out_channels}
        return self.b.sub("final_layer", layer, x, *operands, **sizes)


@cache
def _final_layer(config: StagedUnet, norm: Norm) -> BlockBody:
    @module_class("FinalLayer")
    def final_layer(b: Builder, x: Var, c: Var, *, dim: int, grid: int, out_channels: int) -> Var:
        """Normalises and modulates the tokens, then maps each pixel's neighbourhood to the output."""
        x = modulated(b, config.block.parts()[3], norm, x, c, dim)
        return conv(b, "conv", as_map(b, x, grid), out_channels, 3, "zeros")

    return final_layer
