"""A transformer that predicts tokens from noisy ones and their time: VQ-Diffusion.

No masked_transformer: time and class enter every norm through tables of the block's own, and the feed-forward layer may
be convolutions. Symbols: B batch, T tokens of a grid, V vocabulary (token V is the mask), D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from latentc.components.backbone import Backbone, add_method, asked
from latentc.components.blocks.heads import joined_heads, split_heads
from latentc.components.blocks.norms.layer_norm import LayerNorm
from latentc.components.capabilities import Capability
from latentc.components.condition import Entry, Form, ports_of
from latentc.components.contract import Network, Port
from latentc.components.parts import Problem, Spec, dense, table
from latentc.ir.builder import BlockBody, Builder, ModuleBuilder, Var, f32, i64, items, module_class
from latentc.ir.types import B, Named
from latentc.systems.cdcd.mask_and_replace_objective import MaskAndReplaceLoss

GridSide = Annotated[int, Field(gt=0, le=65_536)]

_NORM = LayerNorm(kind="layer_norm", eps=1e-5, affine=True)


class DiscreteDenoiser(Backbone):
    """VQ-Diffusion's transformer (Gu et al. 2022, arXiv:2111.14822).

    Takes tokens i64[B, T], with V as the mask, t f32[B] and one condition; returns logits f32[B, T, V]. A label enters
    the second norm of every block; an array [L, E] is read by cross-attention.
    """

    kind: Literal["discrete_denoiser"]
    width: int = Field(gt=0, le=65_536, multiple_of=2, description="channels of a token (D)")
    depth: int = Field(gt=0, le=512, description="number of blocks")
    heads: int = Field(gt=0, le=1_024, description="heads; must divide the width")
    ratio: int = Field(4, gt=0, le=64, description="hidden width of the feed-forward as a multiple of D")
    feed_forward: Literal["conv", "linear"] = Field(
        "conv", description="the feed-forward's two layers: 3 x 3 convolutions over the grid, or linear layers"
    )
    activation: Literal["gelu2", "gelu"] = Field("gelu2", description="activation; gelu2 is x sigmoid(1.702 x)")
    times: Literal["table", "sinusoids"] = Field(
        "table", description="time input of the norms: a learned vector per step, or sinusoids of 4000 t / steps"
    )
    positions: Literal["axial", "none"] = Field("axial", description="learned vectors per row and column, or none")
    position_grid: tuple[GridSide, GridSide] | None = Field(
        None, description="grid whose first T positions axial positions use; null: that of the tokens"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="dropout of the outputs of attention and feed-forward, in training"
    )
    EXAMPLE: ClassVar[dict[str, Any]] = {"kind": "discrete_denoiser", "width": 16, "depth": 1, "heads": 2}

    PROVIDES: ClassVar[frozenset[Capability]] = frozenset({"denoise_tokens"})
    TAKES: ClassVar[tuple[Form, ...]] = ("array", "vector")

    def problems(self, spec: Spec) -> Iterator[Problem]:
        tokens = spec.data.tokens
        if tokens is None or len(tokens.grid) != 2:
            yield Problem((), f"a {self.kind} takes tokens [rows, columns], but the data has {spec.data.words}")
        if self.width % self.heads:
            yield Problem(("heads",), f"{self.heads} heads do not divide the width of {self.width}")
        if self.position_grid and tokens and math.prod(self.position_grid) < tokens.length:
            message = (
                f"`position_grid` has {math.prod(self.position_grid)} positions, but samples have "
                f"{tokens.length} tokens"
            )
            yield Problem(("position_grid",), message, "use at least as many positions as tokens")
        if not isinstance(spec.objective, MaskAndReplaceLoss):
            yield Problem(
                (), f"a {self.kind} needs an objective that diffuses tokens in steps", "use `{kind: mask_and_replace}`"
            )
        yield from self.problems_of_conditions(spec)
        entries = self.entries(spec)
        if len(entries) > 1:
            yield Problem(("conditions",), f"blocks take one condition, but there are {len(entries)}", "list one")
        for entry in entries:
            if entry.form == "array" and entry.ports[0].type.rank != 3:
                message = f"condition `{entry.name}` is not a sequence, so blocks cannot attend to it"
                yield Problem((), message, "give its data field the shape [tokens, channels]")

    def build(self, mb: ModuleBuilder, name: str, spec: Spec, out_channels: int) -> Network:
        assert spec.data.tokens is not None
        rows, columns = spec.data.tokens.grid
        vocabulary, entries = spec.data.tokens.vocabulary, self.entries(spec)
        static = {
            "rows": rows,
            "columns": columns,
            "vocabulary": vocabulary,
            "steps": spec.objective.diffusion(vocabulary).steps,  # type: ignore[union-attr]
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "hidden": self.ratio * self.width,
            **self.condition_sizes(spec),
        }
        tokens = i64(B, Named(rows * columns, "N"))
        ports = (
            Port("idx", tokens, "state", vocabulary + 1, vocabulary),
            Port("t", f32(B), "time"),
            *ports_of(entries),
        )
        methods = {"forward": add_method(mb, name, "forward", _network(self, entries), ports, static, ("logits",))}
        if asked(spec, name, "importance"):
            draw, note = _of_steps()
            u, t, loss = Port("u", f32(B), "noise"), Port("t", i64(B), "time"), Port("loss", f32(B), "state")
            methods["draw_steps"] = add_method(mb, name, "draw_steps", draw, [u], static, ("output", "output"))
            methods["note_losses"] = add_method(mb, name, "note_losses", note, [loss, t], static)
        # In name maps, blocks of two attentions number them, and convolutions have other names than linear layers.
        crosses = any(entry.form == "array" for entry in entries)
        sizes = {"crosses": int(crosses), "convolves": int(self.feed_forward == "conv")}
        return Network(name, methods, self.PROVIDES, sizes)


def _modulated(b: Builder, name: str, x: Var, embedded: Var) -> Var:
    """x [B, T, D] normalised, then scaled and shifted by a projection of `embedded` [B, D]."""
    dim = x.shape[2]
    modulation = dense(b, f"{name}.linear", b.silu(embedded), 2 * dim, True, "normal", out="modulation")
    modulation = b.reshape(modulation, shape=(x.shape[0], 1, 2 * dim), out="modulation")
    scale, shift = b.split(modulation, axis=2, sizes=(dim, dim), out="scale shift")
    return b.add(b.layer_norm(x, eps=1e-5) * (scale + 1.0), shift, out="h")


@cache
def _attention(dropout: float) -> BlockBody:
    @module_class("Attention", x="B T dim", context="B S context_dim")
    def attention(b: Builder, x: Var, context: Var, *, dim: int, context_dim: int, heads: int) -> Var:
        """Multi-head attention of x to a context, which may be x."""

        def parts(name: str, y: Var) -> Var:
            y = dense(b, name, y, dim, True, "normal", out=name)
            return split_heads(b, y, heads, dim // heads, name)

        q, k, v = parts("query", x), parts("key", context), parts("value", context)
        y = joined_heads(b, b.attention(q, k, v, causal=False, scale=None, out="x"), dim)
        y = dense(b, "proj", y, dim, True, "normal", out="x")
        return b.dropout(y, p=dropout, out="x") if dropout else y

    return attention


@cache
def _feed_forward(config: DiscreteDenoiser) -> BlockBody:
    @module_class("FeedForward")
    def feed_forward(b: Builder, x: Var, *, dim: int, hidden: int, rows: int, columns: int) -> Var:
        """Two layers with an activation between them."""
        conv = config.feed_forward == "conv"
        if conv:
            x = b.reshape(b.transpose(x, perm=(0, 2, 1)), shape=(x.shape[0], dim, rows, columns), out="x")

        def layer(name: str, y: Var, features: Any) -> Var:
            if not conv:
                return dense(b, name, y, features, True, "normal", out="x")
            fan_in: dict[str, Any] = {"fan_in": y.shape[1] * 9}
            weight = b.param(f"{name}.weight", f32(features, y.shape[1], 3, 3), "linear_default", **fan_in)
            bias = b.param(f"{name}.bias", f32(features), "linear_default", **fan_in)
            return b.conv(y, weight, bias, padding=1, out="x")

        x = layer("fc1", x, hidden)
        x = x * b.sigmoid(x * 1.702) if config.activation == "gelu2" else b.gelu(x, approximate="none", out="x")
        x = layer("fc2", x, dim)
        if conv:
            x = b.transpose(b.reshape(x, shape=(x.shape[0], dim, rows * columns)), perm=(0, 2, 1), out="x")
        return b.dropout(x, p=config.dropout, out="x") if config.dropout else x

    return feed_forward


@cache
def _block(config: DiscreteDenoiser, entries: tuple[Entry, ...]) -> BlockBody:
    attention, feed_forward = _attention(config.dropout), _feed_forward(config)
    entry = entries[0] if entries else None
    crosses = entry is not None and entry.form == "array"

    @module_class("Block")
    def block(b: Builder, x: Var, t: Var, *condition: Var, dim: int, heads: int, hidden: int, **static: Any) -> Var:
        """A transformer block whose norms know the time, and the class if there is one."""

        def timed(name: str, x: Var) -> Var:
            if config.times == "sinusoids":
                return _modulated(b, name, x, t)
            return _modulated(
                b, name, x, b.embedding(table(b, f"{name}.emb.weight", static["steps"], dim, "normal"), t)
            )

        h = timed("ln1", x)
        x = x + b.sub("attn", attention, h, h, dim=dim, context_dim=dim, heads=heads)
        if crosses:
            context, h = condition[0], timed("ln1_1", x)
            x = x + b.sub("cross", attention, h, context, dim=dim, context_dim=context.shape[2], heads=heads)
        if entry is None or crosses:
            h = _NORM.apply(b, "ln2", x)
        else:
            h = _modulated(b, "ln2", x, entry.vector(b, "ln2.emb", condition, dim, static))
        sizes = {"rows": static["rows"], "columns": static["columns"]}
        return x + b.sub("mlp", feed_forward, h, dim=dim, hidden=hidden, **sizes)

    return block


@cache
def _of_steps() -> tuple[BlockBody, BlockBody]:
    """Steps drawn by their past losses, and what keeps those, in buffers of the network that inference never reads."""

    @module_class("DiscreteDenoiser", "draw_steps")
    def draw_steps(b: Builder, u: Var, *, steps: int, **static: Any) -> tuple[Var, Var]:
        """Steps i64[B] that are drawn by the root of their mean square loss, and weights f32[B] that make up for it.

        Until each has been drawn more than 10 times, all are as likely.
        """
        root = b.sqrt(b.param("loss_history", f32(steps), "count", "buffer") + 1e-10) + 1e-4
        # The first step's loss is a likelihood; it is drawn as often as the second.
        second = b.slice(root, axis=0, start=1, stop=2)
        root = b.concat(second, b.slice(root, axis=0, start=1, stop=steps), axis=0, out="root")
        counts = b.param("loss_counts", f32(steps), "count", "buffer")
        rare = b.sum(b.cast(b.op("less_equal", counts, 10.0), to="f32"), axes=(0,), keepdims=False, out="rare")
        root = b.where(b.op("greater", rare, 0.0), b.fill_like(root, 1.0), root, out="root")
        p = b.div(root, b.sum(root, axes=(0,), keepdims=True), out="p")
        reach = b.reshape(b.cumsum(p, axis=0), shape=(1, steps), out="reach")
        below = b.cast(b.less_equal(reach, b.reshape(u, shape=(u.shape[0], 1))), to="f32")
        t = b.cast(b.sum(below, axes=(1,), keepdims=False), to="i64", out="t")
        t = b.minimum(t, b.scalar(steps - 1, t), out="t")
        return t, b.div(1.0, b.take(p, t, axis=0) * b.scalar(steps, p), out="weight")

    @module_class("DiscreteDenoiser", "note_losses")
    def note_losses(b: Builder, loss: Var, t: Var, *, steps: int, **static: Any) -> Var:
        """The losses f32[B] at steps t i64[B], of whose squares training keeps averages."""
        history = b.param("loss_history", f32(steps), "count", "buffer")
        counts = b.param("loss_counts", f32(steps), "count", "buffer")
        return b.noted(loss, history, counts, t, momentum=0.9, out="loss")

    return draw_steps, note_losses


@cache
def _network(config: DiscreteDenoiser, entries: tuple[Entry, ...]) -> BlockBody:
    block = _block(config, entries)

    @module_class("DiscreteDenoiser", idx="B N=rows*columns")
    def forward(
        b: Builder, idx: Var, t: Var, *condition: Var, vocabulary: int, width: int, depth: int, **static: Any
    ) -> Var:
        """Logits of the true tokens, given noisy ones at time t."""
        rows, columns = static["rows"], static["columns"]
        x = b.embedding(table(b, "embed.weight", vocabulary + 1, width, "normal"), idx, out="x")
        if config.positions == "axial":
            high, wide = config.position_grid or (rows, columns)
            height = b.reshape(table(b, "height.weight", high, width, "normal"), shape=(high, 1, width), out="height")
            across = b.reshape(table(b, "width.weight", wide, width, "normal"), shape=(1, wide, width))
            every = b.reshape(height + across, shape=(high * wide, width), out="positions")
            if config.position_grid:
                every = b.slice(every, axis=0, start=0, stop=rows * columns, out="positions")
            x = x + every
        if config.times == "sinusoids":
            half = int(width) // 2
            angles = b.timestep_embedding(t * (4000.0 / static["steps"]), dim=width, max_period=10000.0, endpoint=True)
            cosines, sines = b.split(angles, axis=1, sizes=(half, half), out="cosines sines")
            when = b.concat(sines, cosines, axis=1, out="time")
        else:
            when = b.cast(t, to="i64", out="step")
        for name in items("blocks", depth):
            x = b.sub(name, block, x, when, *condition, dim=width, **static)
        return dense(b, "to_logits", _NORM.apply(b, "norm", x), vocabulary, True, "normal", out="logits")

    return forward
