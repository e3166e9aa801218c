"""Shared by transformers with two streams of tokens, of the image and of the text, that meet in attention.

Symbols: B batch, C channels, D width, P patch side, T patches, L tokens of the text, H heads, d channels of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import Field

from latentc.components import Component, OneOf
from latentc.components.backbone import Backbone, add_method
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.norms.rms_norm import RmsNorm
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, TimeEmbedding, ports_of, with_operands
from latentc.components.contract import Network, Port
from latentc.components.kit.patches import embedded_patches, problems_of_square
from latentc.components.kit.tokens import joined
from latentc.components.parts import Positions, Problem, Spec, dense, under
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, module_class
from latentc.ir.types import B, Named

EPS, INIT = 1e-6, "xavier"
MLP = GeluMlp(kind="gelu_mlp")
QK_NORM = RmsNorm(kind="rms_norm", eps=EPS)


class TwoStreams(Backbone):
    """Patches of the image, and tokens of conditions as a second stream.

    Vectors are added to the embedded time; if no condition has tokens, each is also a token of the second stream.
    """

    width: int = Field(gt=0, le=65_536, description="channels of a token (D)")
    depth: int = Field(gt=1, le=512, description="number of blocks with two streams")
    heads: int = Field(gt=0, le=1_024, description="heads of each attention")
    patch: int = Field(gt=0, le=1_024, description="side of a patch (P)")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of feed-forwards as a multiple of the width")
    positions: Annotated[Component | None, OneOf("blocks/positions")] = Field(
        description="position encoding of the patches; null: none"
    )
    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise"})
    TAKES: ClassVar[tuple[Form, ...]] = ("vector", "tokens")
    TIME: ClassVar[bool] = True
    EMITTED: ClassVar[str]
    """The name of the emitted class."""

    def problems(self, spec: Spec) -> Iterator[Problem]:
        yield from problems_of_square(self.kind, spec.data, self.patch)
        if self.width % self.heads:
            yield Problem(("heads",), f"{self.heads} heads do not divide a width of {self.width}")
        elif isinstance(self.positions, Positions):
            yield from under("positions", problems=self.positions.problems_of_head(self.width // self.heads))
        yield from self.problems_of_conditions(spec)
        if not self.takes(spec):
            message = f"a {self.kind} needs a condition, whose tokens are its second stream"
            yield Problem((), message, "add `conditioning.class: {kind: label}` or another, or use a patch_transformer")

    def sizes_of_blocks(self) -> dict[str, Any]:
        """The sizes that only this kind of network is constructed with."""
        return {}

    @abstractmethod
    def read(
        self, b: Builder, x: Var, y: Var, c: Var, mask: Sequence[Var], rotary: Sequence[Var], sizes: Mapping[str, Any]
    ) -> Var:
        """The patches f32[B, T, D] after all blocks, from patches x, tokens y [B, L, D] and the condition c [B, D].

        `mask`: bool[B, 1, 1, L + T], true for tokens that count, if not all do. `sizes`: the network's.
        """

    @abstractmethod
    def image(self, b: Builder, x: Var, sizes: Mapping[str, Any]) -> Var:
        """Projected patches f32[B, T, P P C] as an image f32[B, C, H, W]."""

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.shape is not None and isinstance(spec.time, TimeEmbedding)
        channels, size, _ = spec.data.shape
        static = {
            "size": size,
            "patch": self.patch,
            "channels": channels,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "hidden": self.ratio * self.width,
            **self.sizes_of_blocks(),
            **self.condition_sizes(spec),
            "out_channels": out_channels,
        }
        entries = self.entries(spec)
        ports = (Port("x", f32(B, channels, size, size), "state"), Port("t", f32(B), "time"), *ports_of(entries))
        forward = add_method(mb, name, "forward", _network(self, spec.time, entries), ports, static)
        return Network(name, {"forward": forward}, self.PROVIDES)


@cache
def _network(config: TwoStreams, time: TimeEmbedding, entries: tuple[Entry, ...]) -> BlockBody:
    positions = config.positions
    assert positions is None or isinstance(positions, Positions)

    @module_class(config.EMITTED, x="B channels size size")
    def forward(b: Builder, x: Var, t: Var, *conditions: Var, size: int, patch: int, width: int, **static: Any) -> Var:
        """Predicts from noisy x at time t, given the conditions."""
        grid = size // patch
        vectors, tokens = [time.vector(b, "t_embedder", t, width)], []
        for entry, operands in with_operands(entries, conditions):
            if entry.form == "tokens":
                tokens.append(entry.tokens(b, entry.prefix, operands, width, static))
            else:
                vectors.append(entry.vector(b, entry.prefix, operands, width, static))
        if not tokens:
            tokens = [(b.reshape(v, shape=(v.shape[0], 1, width), out="y"), None) for v in vectors[1:]]
        y, *mask = joined(b, tokens)
        x = embedded_patches(b, "x_embedder", x, width, patch, "xavier_matrix", Named(grid**2, "T"))
        rotary: tuple[Var, ...] = ()
        if positions is not None:
            x = positions.add(b, x, width, grid)
            rotary = positions.rotary(b, width // static["heads"], grid, y.shape[1])
        c = summed(b, "c", vectors)
        sizes = {"size": size, "patch": patch, "width": width, "grid": grid, **static}
        x = config.read(b, x, y, c, [_of_both(b, one, x) for one in mask], rotary, sizes)
        x = b.sub("final_layer", _final_layer, x, c, dim=width, features=patch * patch * static["out_channels"])
        return config.image(b, x, sizes)

    return forward


def _of_both(b: Builder, mask: Var, x: Var) -> Var:
    """A mask bool[B, L] of tokens before the patches x [B, T, D], which all count, as attention takes it."""
    ones = b.full(x, shape=x.shape[1:2], value=1.0, dtype="f32", out="ones")
    both = b.concat(mask, b.greater(ones, 0.5, out="ones"), axis=1, out="mask")
    return b.reshape(both, shape=(both.shape[0], 1, 1, both.shape[1]), out="mask")


@module_class("FinalLayer", x="B T dim", c="B dim")
def _final_layer(b: Builder, x: Var, c: Var, *, dim: int, features: int) -> Var:
    """Normalises, modulates and projects the patches."""
    shift, scale = modulation(b, "adaLN", c, dim, "shift scale")
    return dense(b, "linear", modulated(b, x, shift, scale), features, True, "zeros", out="x")


def modulation(b: Builder, name: str, c: Var, dim: Any, names: str) -> list[Var]:
    """Parts [B, 1, D] of a linear map of the condition c [B, D], by their names."""
    count = len(names.split())
    out = dense(b, name, b.silu(c), count * dim, True, "zeros", out="modulation")
    out = b.reshape(out, shape=(c.shape[0], 1, count * dim), out="modulation")
    return list(b.split(out, axis=2, sizes=(dim,) * count, out=names))


def modulated(b: Builder, x: Var, shift: Var, scale: Var) -> Var:
    """The norm of tokens x [B, N, D], scaled and shifted."""
    return b.add(b.layer_norm(x, eps=EPS) * (scale + 1.0), shift, out="h")  # type: ignore[no-any-return]


def heads_of(b: Builder, prefix: str, x: Var, dim: Any, heads: Any, norm: bool) -> tuple[Var, Var, Var]:
    """Queries, keys and values f32[B, H, N, d] of tokens x [B, N, D], their weights under `prefix`.

    `norm`: queries and keys are normalised, head by head.
    """
    qkv = b.split(dense(b, f"{prefix}qkv", x, 3 * dim, True, INIT, out="qkv"), axis=2, sizes=(dim,) * 3, out="q k v")
    q, k, v = (split_heads(b, one, heads, dim // heads, name) for one, name in zip(qkv, "qkv", strict=True))
    if norm:
        q, k = QK_NORM.apply(b, f"{prefix}q_norm", q), QK_NORM.apply(b, f"{prefix}k_norm", k)
    return q, k, v


@cache
def joint_attention(norm: bool, masked: bool, last: bool) -> BlockBody:
    """A module: patches x [B, T, D] and tokens y [B, L, D], each with weights of its own, attend to both.

    Returns those of x, and unless it is the `last`, those of y.
    """

    @module_class("LastJointAttention" if last else "JointAttention", x="B T dim", y="B L dim")
    def attention(b: Builder, x: Var, y: Var, *others: Var, dim: int, heads: int) -> Any:
        mask, rotary = others[:masked], others[masked:]
        pairs = zip(heads_of(b, "context_", y, dim, heads, norm), heads_of(b, "", x, dim, heads, norm), strict=True)
        q, k, v = (b.concat(*pair, axis=2, out=name) for pair, name in zip(pairs, "qkv", strict=True))
        if rotary:
            q, k = (b.rotary(one, *rotary, interleaved=True, out=name) for one, name in ((q, "q"), (k, "k")))
        h = joined_heads(b, b.attention(q, k, v, *mask, causal=False, scale=None, out="h"), dim, out="h")
        y, x = b.split(h, axis=1, sizes=(y.shape[1], x.shape[1]), out="y x")
        x = dense(b, "proj", x, dim, True, INIT, out="x")
        return x if last else (x, dense(b, "context_proj", y, dim, True, INIT, out="y"))

    attention.body.__doc__ = "Patches x [B, T, D] and tokens y [B, L, D] attend to both, with weights of their own."
    return attention


def fed(b: Builder, name: str, x: Var, modulation: Sequence[Var], dim: Any, hidden: Any) -> Var:
    """Tokens x [B, N, D] with a feed-forward layer added; `modulation`: its shift, scale and gate [B, 1, D]."""
    shift, scale, gate = modulation
    h = MLP.apply(b, name, modulated(b, x, shift, scale), INIT, dim=dim, hidden=hidden)
    return b.add(x, gate * h, out=x.value.name)  # type: ignore[no-any-return]
