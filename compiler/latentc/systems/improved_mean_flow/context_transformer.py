"""A transformer over image patches whose conditions are tokens of the sequence, as improved MeanFlow has it.

It is a file of its own because DiT (`patch_transformer`) has no tokens beside those of the patches, and no second head;
U-ViT (`uvit`) has long skips and one token per condition.

Symbols: B batch, C channels, T tokens (patches), D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, image, problems_of_square
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.parts import Positions, Problem, Spec, dense, table
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class ContextTransformer(PatchBlocks):
    """Transformer over the tokens of conditions and patches (improved MeanFlow, Geng et al. 2025, arXiv:2512.02012).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Each condition becomes a number
    of tokens: its embedding added to learned vectors. In training a second head also predicts the instantaneous
    velocity.
    """

    kind: Literal["context_transformer"]
    positions: Annotated[Component, OneOf("blocks/positions")] = Field(description="position encoding")
    weights: Literal["xavier", "normal", "small_lecun"] = Field(
        "xavier",
        description="initialisation of linear layers; small_lecun: standard deviation 0.32 / sqrt(inputs), and 1 / "
        "sqrt(width) for the condition tokens (improved MeanFlow), instead of 0.02",
    )
    tokens: dict[str, Annotated[int, Field(gt=0, le=1_024)]] = Field(
        {}, description="tokens per condition, with `time` for the time; others: 1"
    )
    tells_time: bool = Field(True, description="the time is a condition; in improved MeanFlow only the span is")
    velocity_head: int | None = Field(
        None,
        gt=0,
        le=512,
        description="blocks of a second head, used only in training, that predicts the velocity; `depth` counts those "
        "of one head",
    )
    EMITTED: ClassVar[str] = "ContextTransformer"
    """The name of the emitted class."""
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map")
    TIME: ClassVar[bool] = True
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "context_transformer",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "positions": {"kind": "rope_1d"},
        "block": {**Block.EXAMPLE, "norm": {"kind": "rms_norm"}, "condition": {"kind": "in_context", "gated": True}},
    }

    def __hash__(self) -> int:
        return hash(self.model_dump_json(exclude={"tokens"}))  # a mapping cannot be hashed; == compares it

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        yield from self.block.problems_of_width(self.width)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions)
        yield from self.block.problems_of_condition(self.kind, None)
        if self.velocity_head is not None and self.velocity_head >= self.depth:
            yield Problem(
                ("velocity_head",),
                f"`velocity_head: {self.velocity_head}` leaves none of the {self.depth} blocks to share",
            )
        for name, count in self.tokens.items():
            if name not in (*spec.conditions, "time"):
                known = ", ".join((*spec.conditions, "time"))
                yield Problem(
                    ("tokens", name),
                    f"`{name}` is neither a condition nor `time`, so it cannot have {count} tokens",
                    f"give tokens for one of {known}",
                )
        yield from self.problems_of_conditions(spec)

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("features",) if self.velocity_head else ()

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, _ = spec.data.shape
        static = self.sizes(spec, out_channels)
        entries = self.entries(spec)
        ports = (Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward, train_forward = _network(self, spec.time, entries)
        methods = {"forward": add_method(mb, name, "forward", forward, ports, static)}
        if self.velocity_head:
            outputs: tuple[Role, ...] = ("output", "features")
            methods["train_forward"] = add_method(mb, name, "train_forward", train_forward, ports, static, outputs)
        return Network(name, methods, self.PROVIDES)

    def sizes(self, spec: Spec, out_channels: int) -> dict[str, Any]:
        """The static arguments of its methods."""
        return self.static_of_square(spec, out_channels)

    def embedded(self, b: Builder, x: Var, tokens: Any, static: Mapping[str, Any]) -> Var:
        """f32[B, T, D]: the patches of x."""
        return embedded_patches(b, "x_embedder", x, static["width"], static["patch"], "xavier_matrix", tokens)

    def placed(self, b: Builder, prefix: list[Var], x: Var, grid: Any) -> Var:
        """f32[B, L + T, D]: the tokens of conditions, then those of patches x, with positions."""
        assert isinstance(self.positions, Positions)
        x = self.positions.add(b, x, x.shape[2], grid)
        return b.concat(*prefix, x, axis=1, out="x") if prefix else x

    def rotary(self, b: Builder, channels: Any, grid: Any, context: int) -> tuple[Var, ...]:
        """Tables of rotary positions of heads of so many channels, `context` tokens being those of conditions."""
        assert isinstance(self.positions, Positions)
        return self.positions.rotary(b, channels, grid, context)

    def predicted(self, b: Builder, name: str, made: Var, x: Var, t: Var) -> Var:
        """What a head returns, f32[B, C_out, H, W], given the image that it made."""
        return made


@cache
def _network(
    config: ContextTransformer, time: TimeEmbedding, entries: tuple[Entry, ...]
) -> tuple[BlockBody, BlockBody]:
    """`forward` and `train_forward`."""
    mixer, feed_forward, norm, condition = config.block.parts()
    heads = config.velocity_head or 0
    learned = "lecun" if config.weights == "small_lecun" else "normal"
    block = condition.block(mixer, feed_forward, norm, config.weights)

    def network(
        b: Builder,
        x: Var,
        t: Var,
        *conditions: Var,
        size: int,
        patch: int,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        velocity: bool,
        **static: Any,
    ) -> tuple[Var, ...]:
        grid = size // patch
        patches, sizes = Named(grid**2, "T"), config.block.own(width, static)
        state, prefix = x, []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "vector":
                vector = entry.vector(b, entry.prefix, operands, width, static)
                prefix.append(_tokens(b, entry.name, vector, config.tokens.get(entry.name, 1), width, learned))
            else:
                x = b.concat(x, entry.map(b, operands, static, size), axis=1, out="x")
        if config.tells_time:
            vector = time.vector(b, "t_embedder", t, width)
            prefix.append(_tokens(b, "time", vector, config.tokens.get("time", 1), width, learned))
        x = config.embedded(b, x, patches, {**static, "width": width, "patch": patch})
        context = sum(int(tokens.shape[1]) for tokens in prefix)
        x = config.placed(b, prefix, x, grid)
        rotary = config.rotary(b, width // static.get("heads", 1), grid, context)

        def run(name: str, count: Any, x: Var) -> Var:
            for item in items(name, count):
                x = b.sub(item, block, x, *rotary, dim=width, **sizes)
            return x

        def read(name: str, x: Var) -> Var:
            x = norm.apply(b, f"{name}_norm", b.slice(x, axis=1, start=context, stop=patches + context, out="x"))
            x = dense(b, name, x, patch * patch * out_channels, True, "zeros", out="x")
            return config.predicted(b, name, image(b, x, out_channels, grid, patch, size, out=name), state, t)

        x = run("blocks", depth - heads, x)
        average = read("output", run("head", heads, x) if heads else x)
        return (average, read("velocity", run("velocity_head", heads, x))) if velocity else (average,)

    @module_class(config.EMITTED, x="B channels size size")
    def forward(b: Builder, x: Var, t: Var, *conditions: Var, **static: Any) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        return network(b, x, t, *conditions, velocity=False, **static)[0]

    @module_class(config.EMITTED, "train_forward", x="B channels size size")
    def train_forward(b: Builder, x: Var, t: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
        """The same in training, with the velocity that the second head predicts."""
        return network(b, x, t, *conditions, velocity=True, **static)

    return forward, train_forward


def _tokens(b: Builder, name: str, vector: Var, count: int, width: Any, init: str) -> Var:
    """f32[B, count, D]: learned tokens, which start as `init` says, and the embedding of a condition."""
    learned = table(b, f"{name}_tokens", count, width, init)
    return b.op("add", learned, b.reshape(vector, shape=(vector.shape[0], 1, width)), out=f"{name}_tokens")
