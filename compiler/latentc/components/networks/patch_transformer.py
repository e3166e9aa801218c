"""A transformer over image patches: DiT, SiT and their kin.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache, reduce
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.blocks.generated import generated_patches
from latentc.components.blocks.merged_experts import problems_of_routed_by
from latentc.components.capabilities import Capability, Role, routed_method
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, image
from latentc.components.kit.tokens import joined
from latentc.components.networks._routes import (
    Alignment,
    Route,
    Routing,
    kept_at,
    kept_names,
    problems_of_training,
    projector,
)
from latentc.components.networks._told_blocks import ToldBlocks
from latentc.components.parts import BlockCondition, Norm, Positions, Problem, Weights, a_divisor, dense
from latentc.components.sampler import Sampler
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


class PatchTransformer(ToldBlocks):
    """Transformer over patches of an image or latent (DiT, Peebles and Xie 2022, arXiv:2212.09748).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Vectors are added to the embedded
    time; maps are concatenated to x; condition tokens need a block condition that attends to them. For a sequence x
    f32[B, C, T], each vector is a token, and maps are sequences of the same length.
    """

    kind: Literal["patch_transformer"]
    patch: int = Field(gt=0, le=1_024, description="side of a patch, in pixels of the network's input (P)")
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        description="position encoding; null: none, if convolutions or position biases suffice"
    )
    rotary: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        None, description="additional rotary positions; null: none"
    )
    interleaved: Annotated[Component | None, OneOf("blocks/feed_forwards")] = Field(
        None, description="feed-forward of every second block, starting with the second; null: that of `block`"
    )
    interleaved_mixer: Annotated[Component | None, OneOf("blocks/mixers")] = Field(
        None, description="mixer of every second block, likewise; null: that of `block`"
    )
    generated_patches: bool = Field(
        False, description="the patch embedding's weight is a learned weight plus a linear map of the condition (CAN)"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    output: Literal["modulated", "silu"] = Field(
        "modulated",
        description="before the last layer, tokens are normalised, then scaled and shifted by the condition (DiT) or "
        "passed through SiLU (DiffiT)",
    )
    final_norm: bool = Field(False, description="norm after the last block, of the blocks' kind (ViTok)")
    unused_channels: int = Field(
        0,
        ge=0,
        le=65_536,
        description="output channels that are computed and discarded (SiT keeps DiT's variance channels)",
    )
    routes: tuple[Route, ...] = Field(
        (), max_length=64, description="blocks that some tokens skip in training, from first to last"
    )
    routed_by: tuple[str, ...] = Field(
        (),
        description="conditions whose embeddings choose the experts of blocks, and nothing else; empty: the sum of the "
        "time and all vectors chooses them",
    )
    alignment: Alignment | None = Field(None, description="projection heads for a feature alignment loss; null: none")
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "patch_transformer",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "positions": {"kind": "sincos_2d"},
        "block": {
            "mixer": {"kind": "attention", "heads": 2},
            "feed_forward": {"kind": "gelu_mlp"},
            "norm": {"kind": "layer_norm"},
            "condition": {"kind": "adaln_zero"},
        },
    }

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise", "embed_conditions"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "map", "tokens")
    TIME: ClassVar[bool] = True

    def problems(self, spec: Spec) -> Iterator[Problem]:
        grid: int | None = 1
        if spec.data.shape is not None and len(spec.data.shape) == 2:
            grid = None
            yield from self._problems_of_sequence(spec)
        elif spec.data.shape is None or len(spec.data.shape) != 3:
            message = f"a patch_transformer takes arrays [C, H, W] or [C, T], but the data has {spec.data.words}"
            yield Problem((), message, "use a token_transformer")
        else:
            _, height, width = spec.data.shape
            if height != width:
                yield Problem((), f"a patch_transformer takes square inputs, not {height} by {width}")
            elif height % self.patch:
                message = f"patches of {self.patch} do not tile a side of {height}"
                yield Problem(("patch",), message, a_divisor(height))
            else:
                grid = height // self.patch
        yield from self.block.problems_of_width(self.width, grid, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, positions=self.positions, rotary=self.rotary)
        yield from self._problems_of_second(grid)
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "vector", tokens=True)
        yield from self._problems_of_training()
        vectors = [name for name, part in self.told(spec).items() if self.form_of(part) == "vector"]
        parts = [part for block in (self.block, self.second) for part in block.parts()[:2]]
        yield from problems_of_routed_by(self.routed_by, vectors, any(part.routes for part in parts))
        if self.routes and (self.block.spatial or self.second.spatial):
            message = (
                f"the tokens left after others skip blocks are not a square, but `{self.block.mixer.kind}` needs one"
            )
            yield Problem(("routes",), message, "use a mixer of sequences, such as `{kind: attention}`")

    def _problems_of_second(self, grid: int | None) -> Iterator[Problem]:
        """What is wrong with every second block alone, at the fields that make it another."""
        known = {problem.path for problem in self.block.problems_of_width(self.width, grid, any_heads=True)}
        fields = {"mixer": "interleaved_mixer", "feed_forward": "interleaved"}
        for problem in self.second.problems_of_width(self.width, grid, any_heads=True):
            if problem.path in known:
                continue
            changed = [own for part, own in fields.items() if problem.path[1:2] == (part,)]
            changed += [own for own in ("interleaved_mixer", "interleaved") if getattr(self, own) is not None]
            yield replace(problem, path=(changed[0], *problem.path[2:]))
        first, second = (block.parts()[0] for block in (self.block, self.second))
        sizes = [mixer.head_size(self.width) for mixer in (first, second)]
        if any(getattr(p, "ROTARY", False) for p in (self.positions, self.rotary)) and sizes[0] != sizes[1]:
            message = f"rotary positions turn heads of {sizes[0]} channels, but these have {sizes[1]}"
            yield Problem(("interleaved_mixer",), message, "use as many `heads` in both mixers")

    def _problems_of_sequence(self, spec: Spec) -> Iterator[Problem]:
        if self.patch != 1:
            yield Problem(("patch",), "each vector of a sequence is one token", "set `patch: 1`")
        for name, positions in (("positions", self.positions), ("rotary", self.rotary)):
            if isinstance(positions, Positions) and positions.GRIDDED:
                message = f"`{positions.kind}` needs rows and columns, but the data are sequences"
                yield Problem((name,), message, f"use `{{kind: {'learned' if name == 'positions' else 'rope_1d'}}}`")
        if self.generated_patches:
            yield Problem(("generated_patches",), "data that are sequences have no patches to generate", "leave it out")
        for name, condition in self.told(spec).items():
            types = [(port.type.dtype, *port.type.shape[2:]) for port in condition.ports(name, spec)]
            if self.form_of(condition) == "map" and types != [("f32", *(spec.data.shape or ())[1:])]:
                message = f"condition `{name}` is a map, but its length is not that of the sequences"
                yield Problem((), message, "list the other conditions in `conditions`")

    def _problems_of_training(self) -> Iterator[Problem]:
        """Routes and an alignment that do not fit the blocks."""
        for name, positions in (("positions", self.positions), ("rotary", self.rotary)):
            if self.routes and isinstance(positions, Positions) and positions.ROTARY:
                message = f"`{positions.kind}` assigns positions inside blocks, which tokens that skip blocks lose"
                yield Problem((name,), message, "use `{kind: sincos_2d}`")
        if isinstance(self.rotary, Positions):
            if not self.rotary.ROTARY:
                yield Problem(("rotary",), f"`{self.rotary.kind}` is not rotary", "make it `positions`")
            elif isinstance(self.positions, Positions) and self.positions.ROTARY:
                yield Problem(("rotary",), "`positions` are already rotary", "leave out either")
        yield from problems_of_training(self.routes, self.alignment, self.depth)

    def provides(self, spec: Spec) -> frozenset[Capability]:
        return super().provides(spec) | (frozenset({"skip_tokens"}) if self.routes else frozenset())

    def outputs(self, spec: Spec) -> tuple[str, ...]:
        return ("features",) if self.alignment is not None else ()

    def feature_shapes(self, spec: Spec) -> tuple[tuple[int, int], ...]:
        if self.alignment is None or spec.data.shape is None:
            return ()
        return tuple((self._tokens(spec.data.shape), channels) for channels in self.alignment.features)

    def _tokens(self, shape: tuple[int, ...]) -> int:
        return shape[1] if len(shape) == 2 else (shape[1] // self.patch) ** 2

    @property
    def second(self) -> Block:
        """Every second block, starting with the second."""
        own = {"mixer": self.interleaved_mixer, "feed_forward": self.interleaved}
        given = {name: part for name, part in own.items() if part is not None}
        return self.block.model_copy(update=given) if given else self.block

    def _interleaved_sizes(self) -> dict[str, Any]:
        """The sizes of every second block, by the names that it gives them, if it is another."""
        return {} if self.second is self.block else self.second.static(self.width)

    def interleaved_names(self) -> dict[str, str]:
        """{size of every second block, if it is another: the network's static argument that gives it}."""
        first = self.block.static(self.width)
        return {
            k: k if first.get(k, size) == size else f"interleaved_{k}" for k, size in self._interleaved_sizes().items()
        }

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, *space = spec.data.shape
        sequence = len(space) == 1
        static: dict[str, Any] = {
            **({"length": space[0]} if sequence else {"size": space[0], "patch": self.patch}),
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            **self.block.static(self.width),
            **{own: self._interleaved_sizes()[k] for k, own in self.interleaved_names().items()},
            **self.condition_sizes(spec),
            "out_channels": out_channels + self.unused_channels,
        }
        entries = self.entries(spec)
        if maps := sum(entry.form == "map" for entry in entries):
            static["maps"] = maps  # a network of the same sizes without them has other weights
        ports = (
            Port("x", f32(B, channels, *space), "state"),
            Port("t", f32(B), "time"),
            *ports_of(entries),
        )
        methods = {
            "forward": add_method(mb, name, "forward", _network(self, spec.time, entries, sequence), ports, static)
        }
        if asks(spec, name, "embed_conditions"):
            vectors = tuple(entry for entry in entries if entry.form == "vector")
            sizes = {"width": self.width, **self.condition_sizes(spec)}
            methods["embed"] = add_method(mb, name, "embed", _embedding(vectors), ports_of(vectors), sizes)
        shares = spec.sampler.shares(name) if self.routes and isinstance(spec.sampler, Sampler) else ()
        tokens, plain = Named(self._tokens(spec.data.shape), "T"), dict(static)
        routed = (*ports, *(Port(f"scores_{i}", f32(B, tokens), "noise") for i, _ in enumerate(self.routes)))
        if self.routes or self.alignment is not None:
            static |= {
                n: tokens - int(tokens * r.ratio) for n, r in zip(kept_names(self.routes), self.routes, strict=True)
            }
            outputs: list[Role] = ["output"]
            if self.alignment is not None:
                static["projection"] = self.alignment.hidden
                outputs += ["features"] * len(self.alignment.features)
            body = _network(self, spec.time, entries, sequence, training=True)
            methods["train_forward"] = add_method(mb, name, "train_forward", body, routed, static, outputs)
        for share in shares:
            # In the authors' code `share` of the tokens, rounded down, skip blocks; the others are kept.
            sizes = {**plain, kept_at(share): tokens - int(tokens * share)}
            body = _network(self, spec.time, entries, sequence, skips=share)
            methods[routed_method(share)] = add_method(mb, name, routed_method(share), body, routed, sizes)
        return Network(name, methods, self.provides(spec))


@cache
def _embedding(entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("DiT", "embed")
    def embed(b: Builder, *conditions: Var, width: int, **static: Any) -> Var:
        """The sum of the embedded conditions [B, D], without the time."""
        embedded = [
            entry.vector(b, f"{entry.ports[0].name}_embedder", operands, width, static)
            for entry, operands in with_operands(entries, conditions)
        ]
        return reduce(lambda total, vector: b.op("add", total, vector, out="c"), embedded)

    return embed


@cache
def _network(
    config: PatchTransformer,
    time: TimeEmbedding,
    entries: tuple[Entry, ...],
    sequence: bool,
    training: bool = False,
    skips: float | None = None,
) -> BlockBody:
    """`forward`, or `train_forward`, which also takes scores of the tokens for each route, and returns projections.

    `skips`: the method in which this share of the tokens skips the blocks of every route.
    """
    mixer, feed_forward, norm, condition = config.block.parts()
    positions, beside = config.positions, config.rotary
    assert positions is None or isinstance(positions, Positions)
    assert beside is None or isinstance(beside, Positions)
    first = condition.block(mixer, feed_forward, norm, config.weights)
    second = first
    if config.second is not config.block:
        second = condition.block(*config.second.parts()[:3], config.weights)
        second = BlockBody(second.body, f"Interleaved{second.cls}", second.method, second.shapes)
    count = len(ports_of(entries))

    def network(
        b: Builder,
        x: Var,
        t: Var,
        *others: Var,
        channels: int,
        width: int,
        depth: int,
        out_channels: int,
        size: int = 0,
        patch: int = 1,
        length: int = 0,
        **static: Any,
    ) -> tuple[Var, ...]:
        grid = 0 if sequence else size // patch
        tokens = length if sequence else Named(grid**2, "T")
        chosen: list[Var] = []
        embedded, told = [time.vector(b, "t_embedder", t, width)], []
        for entry, operands in with_operands(entries, others):
            prefix = f"{entry.ports[0].name}_embedder"
            if entry.form == "vector":
                vectors = chosen if entry.name in config.routed_by else embedded
                vectors.append(entry.vector(b, prefix, operands, width, static))
            elif entry.form == "tokens":
                told.append(entry.tokens(b, prefix, operands, width, static))
            else:
                x = b.concat(x, entry.map(b, operands, static, size), axis=1, out="x")
        if config.generated_patches:
            c = reduce(lambda total, vector: b.op("add", total, vector, out="c"), embedded)
            x = b.sub("x_embedder", generated_patches, x, c, size=size, patch=patch, channels=x.shape[1], width=width)
            embedded = [c]
        elif sequence:
            x = dense(b, "x_embedder", b.transpose(x, perm=(0, 2, 1), out="x"), width, True, config.weights, out="x")
        else:
            x = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", tokens)
        rotary: tuple[Var, ...] = ()
        if positions is not None:
            x = positions.add(b, x, width, grid)
        for tables in (positions, beside):
            if tables is not None:
                heads = static.get("heads", 1)  # some mixers have none
                rotary += tables.rotary(b, static.get("head_width", width // heads), grid, length)
        c = reduce(lambda total, vector: b.op("add", total, vector, out="c"), embedded)
        sizes = config.block.own(width, {**static, "grid": grid})
        context = joined(b, told)
        router = [reduce(lambda total, vector: b.op("add", total, vector, out="chosen"), chosen)] if chosen else []
        more = ({"context": len(context)} if condition.takes_tokens else {}) | ({"router": 1} if router else {})
        sizes |= more
        shared = condition.shared(b, c, width)
        names = (kept_at(skips),) * len(config.routes) if skips else kept_names(config.routes)
        skipping = bool(training or skips)
        routes = Routing(config.routes, config.depth, others[count:], [static[n] for n in names]) if skipping else None
        features: tuple[Var, ...] = ()
        seconds = {k: static[own] for k, own in config.interleaved_names().items()}
        seconds = config.second.own(width, {**static, **seconds, "grid": grid})
        seconds |= more
        for i, name in enumerate(items("blocks", depth)):
            block, own = (second, seconds) if i % 2 and second is not first else (first, sizes)
            x = routes.enter(b, i, x) if routes else x
            x = b.sub(name, block, x, shared, *router, *context, *rotary, dim=width, **own)
            x = routes.leave(b, i, x) if routes else x
            if training and config.alignment is not None and i + 1 == config.alignment.blocks:
                features = tuple(
                    b.sub(f"projectors.{k}", projector, x, dim=width, hidden=static["projection"], out_dim=out)
                    for k, out in enumerate(config.alignment.features)
                )
        if config.final_norm:
            x = norm.apply(b, "norm", x)
        ends: dict[str, Any] = {"dim": width, "out_channels": out_channels}
        ends |= {} if sequence else {"grid": grid, "patch": patch}
        operands = (x, c) if config.output == "modulated" else (x,)
        x = b.sub("final_layer", _final_layer(config, norm, sequence), *operands, **ends)
        return x, *features

    shape = "B channels length" if sequence else "B channels size size"
    if training:

        @module_class("DiT", "train_forward", x=shape)
        def train_forward(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> tuple[Var, ...]:
            """The forward pass in training: tokens of high scores skip blocks; projected features come last."""
            return network(b, x, t, *others, **static)

        return train_forward

    if skips is not None:

        @module_class("DiT", routed_method(skips), x=shape)
        def forward_skips(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> Var:
            """Predicts as forward does, but tokens of high scores skip the blocks of the routes."""
            return network(b, x, t, *others, **static)[0]

        return forward_skips

    @module_class("DiT", x=shape)
    def forward(b: Builder, x: Var, t: Var, *others: Var, **static: Any) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        return network(b, x, t, *others, **static)[0]

    return forward


def modulated(b: Builder, condition: BlockCondition, norm: Norm, x: Var, c: Var, dim: int) -> Var:
    """The norm of tokens x, scaled and shifted by the condition c [B, E]: of a final layer."""
    shift, scale = condition.final_modulation(b, c, dim)
    return norm.apply(b, "norm_final", x) * (scale + 1.0) + shift


@cache
def _final_layer(config: PatchTransformer, norm: Norm, sequence: bool) -> BlockBody:
    def projected(b: Builder, x: Var, out_channels: int, grid: int = 0, patch: int = 1) -> Var:
        x = dense(b, "linear", x, patch * patch * out_channels, True, "zeros", out="x")
        x = b.transpose(x, perm=(0, 2, 1)) if sequence else image(b, x, out_channels, grid, patch)
        if config.unused_channels:
            x = b.slice(x, axis=1, start=0, stop=out_channels - config.unused_channels)
        return x

    @module_class("FinalLayer")
    def modulates(b: Builder, x: Var, c: Var, *, dim: int, **sizes: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        return projected(b, modulated(b, config.block.parts()[3], norm, x, c, dim), **sizes)

    @module_class("FinalLayer")
    def activates(b: Builder, x: Var, *, dim: int, **sizes: int) -> Var:
        """Normalises, activates and projects the tokens, then lays the patches out as an image."""
        return projected(b, b.silu(norm.apply(b, "norm_final", x), out="x"), **sizes)

    chosen = modulates if config.output == "modulated" else activates
    if sequence:
        chosen.body.__doc__ = (chosen.body.__doc__ or "").replace(", then lays the patches out as an image", "")
    return chosen
