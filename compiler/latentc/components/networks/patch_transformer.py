"""A transformer over image patches: DiT, SiT and their kin.

Symbols: B batch, C channels, T tokens (patches), P patch side, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import add_method, asks
from latentc.components.blocks.block import Block
from latentc.components.capabilities import Capability, Role
from latentc.components.condition import Entry, Form, Pair, TimeEmbedding, embedded_sum, ports_of, with_operands
from latentc.components.contract import Method, Network, Port
from latentc.components.kit.patches import embedded_patches, image, problems_of_square
from latentc.components.kit.tokens import joined
from latentc.components.networks._patch_blocks import PatchBlocks
from latentc.components.parts import BlockCondition, Norm, Positions, Problem, Spec, Weights, dense
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, items, module_class
from latentc.ir.types import B, Named


class Vectors(NamedTuple):
    """The time t [B] and the conditions that enter as vectors, before they are embedded.

    `sizes` are the static arguments of the network but its width and depth.
    """

    time: TimeEmbedding
    t: Var
    pairs: tuple[Pair, ...]
    width: Any
    depth: Any
    sizes: Mapping[str, Any]


class PatchTransformer(PatchBlocks):
    """Transformer over patches of an image or latent (DiT, Peebles and Xie 2022, arXiv:2212.09748).

    Takes x f32[B, C, H, W], t f32[B] and its conditions; returns f32[B, C_out, H, W]. Vectors are added to the embedded
    time; maps are concatenated to x; condition tokens need a block condition that attends to them. For a sequence x
    f32[B, C, T], each vector is a token, and maps are sequences of the same length.
    """

    kind: Literal["patch_transformer"]
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        description="position encoding; null: none, if convolutions or position biases suffice"
    )
    interleaved: Annotated[Component | None, OneOf("blocks/feed_forwards")] = Field(
        None, description="feed-forward of every second block, starting with the second; null: that of `block`"
    )
    weights: Weights = Field("xavier", description="initialisation of linear layers")
    unused_channels: int = Field(
        0,
        ge=0,
        le=65_536,
        description="output channels that are computed and discarded (SiT keeps DiT's variance channels)",
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {
        "kind": "patch_transformer",
        "width": 16,
        "depth": 2,
        "patch": 2,
        "positions": {"kind": "sincos_2d"},
        "block": {**Block.EXAMPLE, "norm": {"kind": "layer_norm"}, "condition": {"kind": "adaln_zero"}},
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
            yield from problems_of_square(self.kind, spec.data, self.patch)
            grid = max(spec.data.shape[1] // self.patch, 1)
        yield from self.block.problems_of_width(self.width, grid, any_heads=True)
        yield from self.block.problems_of_rotary(self.width, **self.encodings())
        yield from self._problems_of_second(grid)
        yield from self.problems_of_conditions(spec)
        yield from self.block.problems_of_condition(self.kind, "a vector", tokens=True)

    def _problems_of_second(self, grid: int | None) -> Iterator[Problem]:
        """Problems of every second block alone, at the fields that make it another."""
        known = {problem.path for problem in self.block.problems_of_width(self.width, grid, any_heads=True)}
        parts = self.interleaved_parts()
        for problem in self.second.problems_of_width(self.width, grid, any_heads=True):
            if problem.path in known:
                continue
            changed = [field for part, (field, _) in parts.items() if problem.path[1:2] == (part,)]
            changed += [field for field, _ in parts.values()]
            yield replace(problem, path=(changed[0], *problem.path[2:]))
        first, second = (block.parts()[0] for block in (self.block, self.second))
        sizes = [mixer.head_size(self.width) for mixer in (first, second)]
        if any(p is not None and p.ROTARY for p in self.encodings().values()) and sizes[0] != sizes[1]:
            message = f"rotary positions turn heads of {sizes[0]} channels, but these have {sizes[1]}"
            yield Problem((parts["mixer"][0],), message, "use as many `heads` in both mixers")

    def _problems_of_sequence(self, spec: Spec) -> Iterator[Problem]:
        if self.patch != 1:
            yield Problem(("patch",), "each vector of a sequence is one token", "set `patch: 1`")
        for name, positions in self.encodings().items():
            if positions is not None and positions.GRIDDED:
                message = f"`{positions.kind}` needs rows and columns, but the data are sequences"
                yield Problem((name,), message, f"use `{{kind: {'learned' if name == 'positions' else 'rope_1d'}}}`")
        for name, condition in self.takes(spec).items():
            types = [(port.type.dtype, *port.type.shape[2:]) for port in condition.ports(name, spec)]
            if self.form_of(condition) == "map" and types != [("f32", *(spec.data.shape or ())[1:])]:
                message = f"condition `{name}` is a map, but its length is not that of the sequences"
                yield Problem((), message, "list the other conditions in `conditions`")

    def chooses_experts(self, condition: str) -> bool:
        """Whether a condition that enters as a vector chooses the experts of blocks, and nothing else."""
        return False

    def encodings(self) -> dict[str, Positions | None]:
        """Its position encodings, by the fields that give them."""
        assert self.positions is None or isinstance(self.positions, Positions)
        return {"positions": self.positions}

    def interleaved_parts(self) -> dict[str, tuple[str, Component]]:
        """{part that every second block has instead of the first's: (the field that gives it, the part)}."""
        return {} if self.interleaved is None else {"feed_forward": ("interleaved", self.interleaved)}

    def vectors(self, b: Builder, given: Vectors) -> list[Var]:
        """The embedded time and conditions [B, D], params under their usual names."""
        time = given.time.vector(b, "t_embedder", given.t, given.width)
        return [time, *(entry.vector(b, entry.prefix, own, given.width, given.sizes) for entry, own in given.pairs)]

    def conditioned(self, b: Builder, vectors: list[Var], given: Vectors) -> tuple[list[Var], Var]:
        """The operand of each block for its condition, and the condition c [B, D] of the final layer.

        By default both are the sum of the embedded vectors.
        """
        c = summed(b, "c", vectors)
        return [self.block.parts()[3].shared(b, c, given.width)] * given.depth, c

    def embed(
        self, b: Builder, x: Var, vectors: list[Var], tokens: Any, width: Any, size: Any, patch: Any
    ) -> tuple[Var, list[Var]]:
        """Tokens [B, T, D] of the patches of x [B, C, H, W], and the vectors whose sum conditions the blocks."""
        return embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", tokens), vectors

    def after_blocks(self, b: Builder, x: Var) -> Var:
        """The tokens [B, T, D] that the last layer takes, from those that the last block returns."""
        return x

    def final_layer(self, b: Builder, norm: Norm, x: Var, c: Var, sequence: bool, **sizes: Any) -> Var:
        """The prediction from tokens x [B, T, D] and the condition c [B, D]."""
        return b.sub("final_layer", _final_layer(self, norm, sequence), x, c, **sizes)

    def further_methods(
        self, spec: Spec, name: str, add: Callable[..., Method], ports: tuple[Port, ...], static: Mapping[str, Any]
    ) -> dict[str, Method]:
        """Methods besides `forward`: `add(method, ports, static, outputs, doc=..., passage=...)` builds one."""
        return {}

    def tokens(self, shape: tuple[int, ...]) -> int:
        """T, for data of this shape."""
        return shape[1] if len(shape) == 2 else (shape[1] // self.patch) ** 2

    @property
    def second(self) -> Block:
        """Every second block, starting with the second."""
        given = {part: component for part, (_, component) in self.interleaved_parts().items()}
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
            **self.block_sizes(),
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
        time = spec.time

        def add(
            method: str, ports: tuple[Port, ...], static: Mapping[str, Any], outputs: Sequence[Role], **how: Any
        ) -> Method:
            body = _network(self, time, entries, sequence, method, **how)
            return add_method(mb, name, method, body, ports, static, outputs)

        methods = {"forward": add("forward", ports, static, ("output",))}
        if asks(spec, name, "embed_conditions"):
            vectors = tuple(entry for entry in entries if entry.form == "vector")
            sizes = {"width": self.width, **self.condition_sizes(spec)}
            methods["embed"] = add_method(mb, name, "embed", _embedding(vectors), ports_of(vectors), sizes)
        return Network(name, methods | self.further_methods(spec, name, add, ports, static), self.provides(spec))


@cache
def _embedding(entries: tuple[Entry, ...]) -> BlockBody:
    @module_class("DiT", "embed")
    def embed(b: Builder, *conditions: Var, width: int, **static: Any) -> Var:
        """The sum of the embedded conditions [B, D], without the time."""
        return embedded_sum(b, entries, conditions, width, static)

    return embed


class Passage:
    """How tokens pass through the blocks: all of them, if no subclass says otherwise.

    It is made of the operands [B, ...] of a method after those of `forward`, and of its static arguments.
    """

    def __init__(self, operands: tuple[Var, ...], static: Mapping[str, Any]) -> None:
        self.features: tuple[Var, ...] = ()
        """The outputs of the method after the prediction."""

    def enter(self, b: Builder, block: int, x: Var) -> Var:
        """The tokens [B, T, D] that block number `block` takes."""
        return x

    def leave(self, b: Builder, block: int, x: Var) -> Var:
        """The tokens [B, T, D] after block number `block`."""
        return x


@cache
def _network(
    config: PatchTransformer,
    time: TimeEmbedding,
    entries: tuple[Entry, ...],
    sequence: bool,
    method: str,
    doc: str = "Predicts from noisy x at time t, given the conditions.",
    passage: Callable[[tuple[Var, ...], Mapping[str, Any]], Passage] = Passage,
) -> BlockBody:
    """`forward`, or another method, whose tokens pass through the blocks otherwise."""
    mixer, feed_forward, norm, condition = config.block.parts()
    encodings = [encoding for encoding in config.encodings().values() if encoding is not None]
    first = condition.block(mixer, feed_forward, norm, config.weights)
    second = first
    if config.second is not config.block:
        second = condition.block(*config.second.parts()[:3], config.weights)
        second = BlockBody(second.body, f"Interleaved{second.cls}", second.method, second.shapes, second.names)
    count = len(ports_of(entries))

    @module_class("DiT", method, x="B channels length" if sequence else "B channels size size")
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
    ) -> Any:
        grid = 0 if sequence else size // patch
        tokens = length if sequence else Named(grid**2, "T")
        pairs = [(e, own, config.chooses_experts(e.name)) for e, own in with_operands(entries, others)]
        vectors = tuple((entry, own) for entry, own, chooses in pairs if entry.form == "vector" and not chooses)
        given = Vectors(time, t, vectors, width, depth, static)
        embedded, chosen, cond = config.vectors(b, given), [], []
        for entry, operands, chooses in pairs:
            if entry.form == "vector":
                chosen += [entry.vector(b, entry.prefix, operands, width, static)] if chooses else []
            elif entry.form == "tokens":
                cond.append(entry.tokens(b, entry.prefix, operands, width, static, condition.takes_any_width))
            else:
                x = b.concat(x, entry.map(b, operands, static, size), axis=1, out="x")
        if sequence:
            x = dense(b, "x_embedder", b.transpose(x, perm=(0, 2, 1), out="x"), width, True, config.weights, out="x")
        else:
            x, embedded = config.embed(b, x, embedded, tokens, width, size, patch)
        rotary: tuple[Var, ...] = ()
        for encoding in encodings:
            x = encoding.add(b, x, width, grid)
        for encoding in encodings:
            heads = static.get("heads", 1)  # some mixers have none
            rotary += encoding.rotary(b, static.get("head_width", width // heads), grid, length)
        sizes = config.block.own(width, {**static, "grid": grid})
        context = joined(b, cond)
        router = [summed(b, "chosen", chosen)] if chosen else []
        more = ({"context": len(context)} if condition.takes_tokens else {}) | ({"router": 1} if router else {})
        sizes |= more
        conditions, c = config.conditioned(b, embedded, given)
        way = passage(others[count:], static)
        seconds = {k: static[own] for k, own in config.interleaved_names().items()}
        seconds = config.second.own(width, {**static, **seconds, "grid": grid})
        seconds |= more
        for i, name in enumerate(items("blocks", depth)):
            block, own = (second, seconds) if i % 2 and second is not first else (first, sizes)
            x = way.enter(b, i, x)
            x = b.sub(name, block, x, conditions[i], *router, *context, *rotary, dim=width, **own)
            x = way.leave(b, i, x)
        ends: dict[str, Any] = {"dim": width, "out_channels": out_channels}
        ends |= {} if sequence else {"grid": grid, "patch": patch}
        x = config.final_layer(b, norm, config.after_blocks(b, x), c, sequence, **ends)
        return (x, *way.features) if way.features else x

    network.body.__doc__ = doc
    return network


def modulated(b: Builder, condition: BlockCondition, norm: Norm, x: Var, c: Var, dim: int) -> Var:
    """The norm of tokens x, scaled and shifted by the condition c [B, E]: of a final layer."""
    shift, scale = condition.final_modulation(b, c, dim)
    return norm.apply(b, "norm_final", x) * (scale + 1.0) + shift


def projected(
    b: Builder, config: PatchTransformer, x: Var, sequence: bool, out_channels: Any, grid: Any = 0, patch: Any = 1
) -> Var:
    """Tokens x [B, T, D], projected and laid out as the state."""
    x = dense(b, "linear", x, patch * patch * out_channels, True, "zeros", out="x")
    x = b.transpose(x, perm=(0, 2, 1)) if sequence else image(b, x, out_channels, grid, patch)
    if config.unused_channels:
        x = b.slice(x, axis=1, start=0, stop=out_channels - config.unused_channels)
    return x


@cache
def _final_layer(config: PatchTransformer, norm: Norm, sequence: bool) -> BlockBody:
    @module_class("FinalLayer")
    def final(b: Builder, x: Var, c: Var, *, dim: int, **sizes: int) -> Var:
        """Normalises, modulates and projects the tokens, then lays the patches out as an image."""
        return projected(b, config, modulated(b, config.block.parts()[3], norm, x, c, dim), sequence, **sizes)

    if sequence:
        final.body.__doc__ = "Normalises, modulates and projects the tokens."
    return final
