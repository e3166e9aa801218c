"""A branch that turns the noisy sample into a condition for each token, and what networks with it share.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width of the branch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import patchify, problems_of_square
from latentc.components.networks._alignment import Alignment, projector
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.parts import Positions, Problem, Spec, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.ddt.token_adaln import TokenAdaln

TRAINING = "train_forward"


class EncodedCondition(PatchBlocks):
    """A network whose encoder branch conditions its `decoded` part token by token.

    `width`, `depth` and `block` are those of the branch. Its call `encoder` can be cached over steps
    (`optimize.cache: {parts: [encoder]}`).
    """

    positions: Annotated[Component, OneOf("blocks/positions")] = Field(
        description="positions of patches: added in the encoder, rotary ones in every attention"
    )
    alignment: Alignment | None = Field(
        None, description="projection of an encoder block's output for a feature alignment loss (REPA); null: none"
    )
    BLOCK: ClassVar[dict[str, Any]] = {
        **Block.EXAMPLE,
        "feed_forward": {"kind": "swiglu", "multiple_of": 8},
        "norm": {"kind": "rms_norm"},
        "condition": {"kind": "token_adaln"},
    }
    CLASS_NAME: ClassVar[str]
    """Name of the emitted class."""
    WEIGHTS: ClassVar[str] = "linear_default"
    """How linear layers of the blocks start."""
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector",)
    TIME: ClassVar[bool] = True

    @abstractmethod
    def decoder_sizes(self) -> dict[str, Any]:
        """The static arguments of the network that only `decoded` reads."""

    @abstractmethod
    def decoded(self, b: Builder, patches: Var, s: Var, sizes: Mapping[str, Any]) -> Var:
        """The prediction [B, C_out, H, W] from patches [B, T, C P P] and their condition s [B, T, D].

        `sizes`: the static arguments of the network and `grid`, the number of patches along a side.
        """

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        shape = spec.data.shape
        grid = max(shape[1] // self.patch, 1) if shape is not None and len(shape) == 3 else 1
        yield from self.block.problems_of_width(self.width, grid, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.problems_of_conditions(spec)
        if not isinstance(self.block.condition, TokenAdaln):
            message = f"blocks of a {self.kind} have a condition for each token, not `{self.block.condition.kind}`"
            yield Problem(("block", "condition"), message, f"use `{{kind: {self.BLOCK['condition']['kind']}}}`")
        if self.alignment is not None:
            yield from self.alignment.problems_of_depth(self.depth)

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return () if self.alignment is None else ("features",)

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        if spec.data.shape is None or self.alignment is None:
            return ()
        tokens = (spec.data.shape[1] // self.patch) ** 2
        return tuple((tokens, channels) for channels in self.alignment.features)

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert isinstance(spec.time, TimeEmbedding) and spec.data.shape is not None
        entries = self.entries(spec)
        static = {**self.static_of_square(spec, out_channels), **self.decoder_sizes()}
        ports = (Port("x", f32(B, *spec.data.shape), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        body = _network(self, spec.time, entries, "forward")
        methods = {"forward": add_method(mb, name, "forward", body, ports, static)}
        if self.alignment is not None:
            outputs: list[Role] = ["output"]
            outputs += ["features"] * len(self.alignment.features)
            body, sizes = _network(self, spec.time, entries, TRAINING), {**static, "projection": self.alignment.hidden}
            methods[TRAINING] = add_method(mb, name, TRAINING, body, ports, sizes, outputs)
        return Network(name, methods, self.provides(spec))

    def blocks_of(self, part: str) -> BlockBody:
        """The repeated block, emitted as a class of its own for a part of the network."""
        mixer, feed_forward, norm, condition = self.block.parts()
        block = condition.block(mixer, feed_forward, norm, self.WEIGHTS)
        return BlockBody(block.body, f"{part}Block", block.method, block.shapes, block.names)

    def turned(self, b: Builder, sizes: Mapping[str, Any], width: Any) -> tuple[Var, ...]:
        """The rotary tables of blocks of this width and with the `heads` among `sizes`, if positions turn tokens."""
        assert isinstance(self.positions, Positions)
        head = sizes.get("head_width", width // sizes.get("heads", 1))
        return self.positions.rotary(b, head, sizes["grid"], 0)


@cache
def _network(config: EncodedCondition, time: TimeEmbedding, entries: tuple[Entry, ...], method: str) -> BlockBody:
    aligned = config.alignment if method == TRAINING else None

    @module_class(config.CLASS_NAME, method, x="B channels size size")
    def network(
        b: Builder, x: Var, t: Var, *conditions: Var, size: int, patch: int, width: int, depth: int, **static: Any
    ) -> Any:
        grid = size // patch
        sizes = {**static, "size": size, "patch": patch, "width": width, "grid": grid}
        batch, tokens = t.shape[0], Named(grid**2, "T")
        t = time.vector(b, "t_embedder", t, width)
        vectors = [e.vector(b, e.prefix, given, width, static) for e, given in with_operands(entries, conditions)]
        c = b.silu(summed(b, "c", [t, *vectors]), out="c")
        c, t = (b.reshape(v, shape=(batch, 1, width), out=out) for v, out in ((c, "c"), (t, "t")))
        patches = patchify(b, x, patch, "patches", tokens)
        own = {**config.block.static(int(width)), "grid": 0}
        encoder = {"features": patches.shape[2], "width": width, "depth": depth, **{name: sizes[name] for name in own}}
        made = b.sub("encoder", _encoder(config, method), patches, c, t, out="s tokens" if aligned else "s", **encoder)
        s, *features = made if aligned else (made,)
        x = config.decoded(b, patches, s, sizes)
        if aligned is None:
            return x
        (h,) = features
        return x, *(
            b.sub(f"projectors.{i}", projector, h, dim=width, hidden=static["projection"], out_dim=channels)
            for i, channels in enumerate(aligned.features)
        )

    network.body.__doc__ = "Predicts from noisy x at time t, given the conditions."
    if aligned is not None:
        network.body.__doc__ = "The forward pass in training: projected features come last."
    return network


@cache
def _encoder(config: EncodedCondition, method: str) -> BlockBody:
    block = config.blocks_of("Encoder")
    aligned = config.alignment if method == TRAINING else None

    @module_class("ConditionEncoder", method, patches="B T features")
    def encoder(
        b: Builder, patches: Var, c: Var, t: Var, *, features: int, width: int, depth: int, grid: int, **static: Any
    ) -> Any:
        assert isinstance(config.positions, Positions)
        sizes = {**static, "grid": grid}
        s = dense(b, "embedder", patches, width, True, "xavier", out="s")
        s = config.positions.add(b, s, width, grid)
        rotary, tokens = config.turned(b, sizes, width), s
        for i, name in enumerate(items("blocks", depth)):
            s = b.sub(name, block, s, c, *rotary, dim=width, **config.block.own(width, sizes))
            if aligned is not None and i + 1 == aligned.blocks:
                tokens = s
        s = b.silu(b.add(s, t, out="s"), out="s")
        return s if aligned is None else (s, tokens)

    encoder.body.__doc__ = (
        "The condition of each token of patches [B, T, C P P], given condition c and time t [B, 1, D]."
    )
    if aligned is not None:
        encoder.body.__doc__ += " Also the tokens that are aligned."
    return encoder
