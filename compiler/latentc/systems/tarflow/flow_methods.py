"""The methods of a transformer_flow: all its flows in a row, and back.

Symbols: B batch, F frames (1 of images), S tokens of a frame, T = F S, C channels of a token, L tokens of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latentc.components.blocks.mixing import cached_blocks
from latentc.components.capabilities import TRAINING
from latentc.components.condition import Entry, ports_of
from latentc.components.decoding import BlockForm
from latentc.components.kit.stacks import entry
from latentc.components.sums import summed
from latentc.ir.builder import BlockBody, Builder, Var, as_tuple, f32, items, module_class
from latentc.ir.types import B, Named, TensorType
from latentc.systems.tarflow.flow_block import Flow, flow, prior_variance, variances
from latentc.systems.tarflow.frames import Layout, Tables, patches, rotary_tables, sample_of

if TYPE_CHECKING:
    from latentc.systems.tarflow.transformer_flow import TransformerFlow


Guidance = Literal["none", "tempered", "linear", "density"]
"""How a flow is inverted: under its conditions alone, the same with an attention temperature, or guided away from other
conditions, of scale and shift (TarFlow) or of the densities they stand for (STARFlow)."""


Places = Callable[[Builder, Flow, Var, Var, Any, Sequence[Var]], tuple[Var, list[Var]]]
_OF_FLOW = ("features", "tokens", "dim", "depth")
"""Static arguments of a flow that its blocks do not have."""


@dataclass(frozen=True)
class Solver:
    """Finds the next tokens by a method of the flow with these static arguments, under guidance or not.

    A branch is its attention temperature, and the operands of the conditions.
    """

    parts: Flow
    static: Mapping[str, Any]
    guidance: Guidance

    def __call__(
        self,
        b: Builder,
        method: BlockBody,
        shared: Sequence[Var],
        branches: Sequence[Sequence[Var]],
        rest: Sequence[Var],
        z: Var,
        scale: Sequence[Var],
    ) -> list[Var]:
        """[z * scale + shift, *grown caches]; `rest` are the position and the caches, of both branches."""
        own, *null = branches
        operands = (*shared, *own, *rest)
        fn = b.module.define(
            method, [self._of_one_branch(x, z) for x in operands], self.static, [x.value.name for x in operands]
        )
        caches = 2 * int(self.static["depth"])
        names = " ".join([*self.parts.outputs, *["cache"] * caches])
        if self.guidance == "linear":
            # Indices and position tables have no batch, so both branches share them.
            tables = ("carried",) * (len(shared) - 1)
            shared_kinds = ("shared", *tables)
            kinds = (*shared_kinds, *("conditional",) * len(own), *("carried",) * len(rest))
            guided = {name: self.parts.guides in ("both", name.rpartition("_")[2]) for name in self.parts.outputs}
            guides = (*("guided" if each else "carried" for each in guided.values()), *("carried",) * caches)
            found = b.guided(fn, "", operands, kinds, tuple(null[0]), scale[0], guides, out=names)
            made = [x if each else self._own(b, x, z) for x, each in zip(found, guided.values(), strict=False)]
        elif self.guidance == "density":
            token, *others = shared
            both = [b.concat(x, other, axis=0) for x, other in zip(own, null[0], strict=True)]
            doubled = (b.concat(token, token, axis=0), *others, *both, *rest)
            raw, shift, *grown = b.call(fn, "", *doubled, args=self.static, out=names)
            return [self._guided(b, raw, shift, z, scale[0]), *grown]
        else:
            found = b.call(fn, "", *operands, args=self.static, out=names)
            made = list(found[: len(self.parts.outputs)])
        *raws, shift = made
        for raw in raws:
            z = b.mul(z, self.parts.scale(b, raw))
        return [b.add(z, shift, out="token"), *found[len(made) :]]

    def _own(self, b: Builder, x: Var, z: Var) -> Var:
        """The half of x [2 * B, 1, C] of the branch with the conditions."""
        own, _ = b.split(x, axis=0, sizes=(z.shape[0], z.shape[0]), out=f"{x.value.name} other")
        return own

    def _guided(self, b: Builder, raw: Var, shift: Var, z: Var, scale: Var) -> Var:
        """The token that z means under p_c (p_c / p_u)^(scale - 1), of the normal densities of both branches.

        That is a normal density again. With w = scale - 1 and s the ratio of their variances, at most 1, its mean is
        ((1 + w) mu_c - w s mu_u) / (1 + w - w s), and its variance that of p_c over the same denominator.
        """
        batch = z.shape[0]
        sigma, other_sigma = b.split(self.parts.scale(b, raw), axis=0, sizes=(batch, batch), out="sigma other_sigma")
        mu, other_mu = b.split(shift, axis=0, sizes=(batch, batch), out="mu other_mu")
        w = b.add(b.reshape(scale, shape=(batch, 1, 1)), -1.0, out="w")
        ratio = b.minimum(sigma / other_sigma, 1.0, out="ratio")
        ws = b.mul(w, ratio * ratio, out="ws")
        total = b.op("sub", w + 1.0, ws, out="total")
        mu = b.div(b.op("sub", (w + 1.0) * mu, ws * other_mu), total, out="mu")
        return b.add(b.mul(z, b.div(sigma, b.sqrt(total), out="sigma")), mu, out="token")

    def _of_one_branch(self, x: Var, z: Var) -> TensorType:
        """Caches hold both branches; a method is of one."""
        if x.type.rank != 4:
            return x.type
        heads = self.static.get("kv_heads", self.static["heads"])
        length = self.parts.prefix + self.static["tokens"]
        return f32(z.shape[0], heads, length, self.static.get("head_width", self.static["dim"] // self.static["heads"]))


def stacked(b: Builder, x: Var) -> Var:
    """x with a leading axis of size 1."""
    return b.reshape(x, shape=(1, *x.shape), out="x")


@dataclass(frozen=True)
class Rest:
    """The predicted tokens: latents z f32[T, B, 1, C], in `order`.

    Input i of the network, at cache position i after the conditions, is a start token or the token before the one that
    it predicts.
    """

    parts: Flow
    solve: Solver
    decode: BlockBody
    order: Var
    z: Var
    scales: Sequence[Var]
    rotary: Sequence[Var]
    branches: Sequence[Sequence[Var]]

    @property
    def invariants(self) -> list[Var]:
        return [*self.rotary, *(x for branch in self.branches for x in branch)]

    def apart(self, kept: Sequence[Var]) -> tuple[Sequence[Var], list[list[Var]]]:
        """The rotary tables and the branches of `invariants`."""
        rotary, flat = kept[: 2 * self.parts.rotary], kept[2 * self.parts.rotary :]
        width = len(self.branches[0])
        return rotary, [list(flat[j : j + width]) for j in range(0, len(flat), width)]

    def one_by_one(self, b: Builder, token: Var, caches: Sequence[Var], done: int) -> Var:
        """Those after the first `done`, f32[N, B, 1, C], from the last of these and the caches."""
        first, tokens = self.parts.first, self.z.shape[0]
        # In step i the token before it is at `place` of the grid, or is predicted there: both have its position.
        places = b.slice(self.order, axis=0, start=done - first, stop=tokens - first, out="place")
        positions = b.slice(b.arange(tokens), axis=0, start=done - first, stop=tokens - first, out="position")
        if self.parts.prefix:
            positions = b.op("add", positions, self.parts.prefix, out="position")
        rest = b.slice(self.z, axis=0, start=done, stop=tokens, out="z")
        tables = [positions, places, rest]
        tables += [
            b.slice(scale, axis=0, start=done - first, stop=tokens - first, out="scale") for scale in self.scales
        ]

        def step(b: Builder, i: Var, kept: Any, state: Any, rows: Any) -> tuple[Sequence[Var], Sequence[Var]]:
            (token, *caches), (position, place, z, *scale) = state, rows
            rotary, own = self.apart(kept)
            token, *caches = self.solve(b, self.decode, [token, place, *rotary], own, [position, *caches], z, scale)
            return (token, *caches), (token,)

        trip = int(tokens) - done
        *_, found = b.loop("inverse", trip, step, invariants=self.invariants, carried=[token, *caches], tables=tables)
        return found


@dataclass(frozen=True)
class Inversion:
    """How the inverse of a flow finds its tokens: one after the other."""

    @property
    def suffix(self) -> str:
        """The end of the name of a flow's method."""
        return ""

    @property
    def words(self) -> str:
        """The end of the method's docstring."""
        return ", one after the other"

    def decoding(self, parts: Flow) -> BlockBody:
        """The method of a flow that predicts tokens from caches."""
        return _decode(parts)

    def found(self, b: Builder, rest: Rest, start: Var, token: Var, caches: Sequence[Var]) -> list[Var]:
        """Predicted tokens, each f32[N, B, 1, C]; `token` is the first, found with these caches from input `start`."""
        first = rest.parts.first
        if int(rest.z.shape[0]) == first + 1:
            return [stacked(b, token)]
        return [stacked(b, token), rest.one_by_one(b, token, caches, first + 1)]


_METHODS: dict[Guidance, str] = {
    "none": "inverse",
    "tempered": "tempered_inverse",
    "linear": "guided_inverse",
    "density": "guided_inverse",
}


def _of_one(
    b: Builder, parts: Flow, h: Var, position: Var, length: Any, rotary: Sequence[Var]
) -> tuple[Var, list[Var]]:
    """Cache positions seen by one input, or by the first with the conditions before it, and rows of rotary tables."""
    count = h.shape[1]
    if parts.prefix and int(count) > 1:
        seen = b.less_equal(b.arange(length), b.reshape(b.arange(count), shape=(count, 1)))
        return seen, [b.slice(table, axis=0, start=0, stop=count, out="row") for table in rotary]
    seen = b.less_equal(b.arange(length), position)
    return seen, [b.reshape(b.take(table, position, axis=0), shape=(1, table.shape[1]), out="row") for table in rotary]


def _step(
    parts: Flow,
    b: Builder,
    h: Var,
    position: Var,
    temperature: Var,
    caches: Sequence[Var],
    rotary: Sequence[Var],
    sizes: Mapping[str, Any],
    places: Places = _of_one,
    last: bool = True,
) -> tuple[Var, ...]:
    """Embedded inputs h f32[B, N, D], the first at cache position `position`; `places` says what they attend to.

    Returns raw scale, if flows scale, and shift of the tokens that they predict, or of the `last`, and the grown
    caches.
    """
    mixer, feed_forward, norm, condition = parts.block.parts()
    block = condition.block(mixer, feed_forward, norm, parts.init, BlockForm("decode", plain=True, tempered=True))
    length, count, features, dim = caches[0].shape[2], h.shape[1], sizes["features"], sizes["dim"]
    seen, rows = places(b, parts, h, position, length, rotary)
    mask = b.reshape(seen, shape=(1, 1, count, length), out="mask")
    own = parts.block.own(dim, {name: size for name, size in sizes.items() if name not in _OF_FLOW})
    at, others = (position, mask), (temperature, *rows)
    h, grown = cached_blocks(b, "attn_blocks", block, len(caches) // 2, h, caches, at, others, out="h", dim=dim, **own)
    if last and int(count) > 1:
        h = b.slice(h, axis=1, start=count - 1, stop=count, out="h")
    return *parts.separate(b, parts.predictions(b, h, features), features), *grown


@cache
def _prefill(parts: Flow) -> BlockBody:
    context = f"B {parts.prefix} dim"

    @module_class(parts.cls, "prefill", token="B 1 features", c=context if parts.prefix else "B 1 dim")
    def prefill(b: Builder, token: Var, place: Var, *others: Var, **sizes: Any) -> tuple[Var, ...]:
        """Processes the first input; returns scale and shift of the next token, and the KV caches."""
        rotary, temperature, cond = others[: 2 * parts.rotary], others[2 * parts.rotary], others[2 * parts.rotary + 1 :]
        length, dim, heads = parts.prefix + sizes["tokens"], sizes["dim"], sizes["heads"]
        shape = (sizes.get("kv_heads", heads), length, sizes.get("head_width", dim // heads))
        caches = [
            b.full(token, shape=shape, value=0.0, dtype="f32", out="cache") for _ in range(2 * int(sizes["depth"]))
        ]
        h = parts.embedded(b, token, place, [] if parts.prefix else cond, sizes["tokens"], dim)
        if parts.prefix:
            h = b.concat(*cond, h, axis=1, out="h")
        return _step(parts, b, h, b.constant(np.int64(0)), temperature, caches, rotary, sizes)

    return prefill


def decoding(parts: Flow, method: str, token: str, places: Places, last: bool) -> BlockBody:
    """The method of a flow that predicts what follows inputs of shape `token`; see `_step`."""
    own = parts.block.parts()[0].static(1)
    heads, size = "kv_heads" if "kv_heads" in own else "heads", "head_width" if "head_width" in own else "dim//heads"
    length = f"tokens+{parts.prefix}" if parts.prefix else "tokens"
    shapes = {"token": token, "c": "B 1 dim", "caches": f"B {heads} {length} {size}"}

    @module_class(parts.cls, method, **shapes)
    def decode(b: Builder, token: Var, place: Var, *others: Var, **sizes: Any) -> tuple[Var, ...]:
        """Predicted scale and shift of the next token, and the extended KV caches."""
        conditional = bool(parts.entries) and not parts.prefix
        rotary, (temperature, *rest) = others[: 2 * parts.rotary], others[2 * parts.rotary :]
        c, (position, *caches) = rest[:conditional], rest[conditional:]
        h = parts.embedded(b, token, place, c, sizes["tokens"], sizes["dim"])
        return _step(parts, b, h, position, temperature, caches, rotary, sizes, places, last)

    return decode


@cache
def _decode(parts: Flow) -> BlockBody:
    return decoding(parts, "decode", "B 1 features", _of_one, last=True)


@cache
def flow_inverse(parts: Flow, guidance: Guidance, inversion: Inversion) -> BlockBody:
    """The inverse of a flow: tokens f32[B, T, C] of latents z f32[B, T, C].

    A guided one also takes the conditions of the other branch, an attention temperature f32[B] (of that branch; of both
    for `density`), and the guidance scale of every predicted token f32[N, B]; a tempered one the temperature alone.
    """
    count = len(ports_of(parts.entries))
    prefill, decode = _prefill(parts), inversion.decoding(parts)
    guided = guidance in ("linear", "density")

    @module_class(parts.cls, _METHODS[guidance] + inversion.suffix, z="B tokens features", order="tokens")
    def inverse(
        b: Builder, z: Var, order: Var, *others: Var, features: int, tokens: int, dim: int, depth: int, **static: Any
    ) -> Var:
        """Finds the tokens that the flow maps to z, one after the other."""
        sizes = {"features": features, "tokens": tokens, "dim": dim, "depth": depth, **static}
        rotary, others = list(others[: 2 * parts.rotary]), others[2 * parts.rotary :]

        def cond(operands: Sequence[Var]) -> list[Var]:
            vectors, context = parts.vectors(b, operands, dim, static), parts.prefix_tokens(b, operands, dim, static)
            return [*vectors, *context]

        given = others[-2:-1] if guided else others[-1:] if guidance == "tempered" else ()
        tempered = given and guidance != "linear"
        own = given[0] if tempered else b.full(z, shape=(), value=1.0, dtype="f32", out="one")
        branches = [[own, *cond(others[:count])]]
        if guided:
            branches.append([*given, *cond(others[count : 2 * count])])
        solve = Solver(parts, sizes, guidance)
        scales = [others[-1]] if guided else []
        z = b.transpose(b.take(z, order, axis=1), perm=(1, 0, 2), out="z")
        z = b.reshape(z, shape=(tokens, z.shape[1], 1, features), out="z")
        first = parts.first
        known = [] if parts.start else [entry(b, z, 0, "first")]
        weight = [entry(b, scale, 0, "weight") for scale in scales]
        start = known[0] if known else parts.start_token(b, entry(b, z, 0, "like"), features)
        shared = [start, entry(b, order, 0, "place"), *rotary]
        token, *caches = solve(b, prefill, shared, branches, [], entry(b, z, first, "target"), weight)
        if parts.prefix:  # the caches hold the conditions
            branches = [branch[:1] for branch in branches]
        rest = Rest(parts, solve, decode, order, z, scales, rotary, branches)
        found = [stacked(b, x) for x in known]
        found += inversion.found(b, rest, start, token, caches)
        x = b.concat(*found, axis=0) if len(found) > 1 else found[0]
        x = b.reshape(x, shape=(tokens, z.shape[1], features), out="x")
        return b.take(b.transpose(x, perm=(1, 0, 2)), order, axis=1, out="x")

    inverse.body.__doc__ = f"Finds the tokens that the flow maps to z{inversion.words}."
    return inverse


Method = Callable[["TransformerFlow", tuple[Entry, ...], Layout, Inversion], BlockBody]
OF_NETWORK = ("size", "rows", "columns", "frames", "patch", "channels", "width", "flows")
"""Static arguments of the network that its flows do not have."""


def _reversed(b: Builder, order: Var, tokens: Any) -> Var:
    return b.op("sub", b.scalar(tokens - 1, order), order, out="order")


def _in_frames(b: Builder, order: Var, frames: Any, tokens: Any) -> Var:
    """i64[T]: the order i64[S] of the tokens of a frame, frame after frame."""
    first = b.reshape(b.op("mul", b.arange(frames), tokens), shape=(frames, 1), out="first")
    wide = b.add(b.reshape(order, shape=(1, tokens)), first)
    return b.reshape(wide, shape=(frames * tokens,), out="order")


def _of_sample(b: Builder, x: Var, frames: Any) -> Var:
    """f32[B]: the mean over the frames of x f32[B F]."""
    return b.mean(b.reshape(x, shape=(B, frames)), axes=(1,), keepdims=False, out=x.value.name)


def normalised(
    b: Builder,
    config: TransformerFlow,
    entries: tuple[Entry, ...],
    layout: Layout,
    x: Var,
    conditions: Sequence[Var],
    static: Mapping[str, Any],
    tables: tuple[Tables, Tables],
    last: int | None = None,
    norms: bool = False,
) -> tuple[Var, Var, list[Var]]:
    """A sample mapped to its latent f32[B, T, C], the log-determinant and, for `norms`, mean squares of all inputs.

    Only by the flows before number `last`, if given; those within frames lead to f32[B F, S, C].
    """
    flows, features = static["flows"], static["channels"] * static["patch"] ** 2
    rows, columns = layout.grid(static)
    count = rows**2 if layout.square else rows * columns
    x = patches(b, config, layout, x, Named(count, "S" if layout.frames else "T"), static)
    order = b.arange(x.shape[1], out="order")
    if not config.reverse_first:
        order = _reversed(b, order, count)
    rotary, prefixed = tables
    total = b.full(x, shape=(), value=0.0, dtype="f32", out="log_det")
    squares: list[Var] = []
    for i, name in enumerate(items("blocks", flows)):
        order, whole = _reversed(b, order, count), bool(layout.frames) and i == config.flows - 1
        tokens, own = count, order
        if i == last:
            break
        if whole:
            total = _of_sample(b, total, static["frames"])
            squares = [_of_sample(b, square, static["frames"]) for square in squares]
            tokens = count * static["frames"]
            x = b.reshape(x, shape=(B, Named(tokens, "T"), features), out="x")
            own = _in_frames(b, order, static["frames"], count)
        if norms:
            squares.append(b.mean(x * x, axes=(1, 2), keepdims=False, out="squares"))
        if not config.depth_of(i):
            continue
        parts = config.flow(i, entries, layout)
        x, *log_det = as_tuple(
            b.sub(
                name,
                flow(parts),
                x,
                own,
                *(prefixed if parts.prefix or whole else rotary),
                *(conditions if parts.entries else ()),
                out="x log_det" if parts.scales else "x",
                features=features,
                tokens=tokens,
                **config.sizes_of(i, static),
            )
        )
        for change in log_det:
            total = b.add(total, change, out="log_det")
    return x, total, squares


def _forward_of(norms: bool) -> Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, _: Inversion) -> BlockBody:
        @module_class("TransformerFlow", *((TRAINING,) if norms else ()), x=layout.shape)
        def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
            """The latent of x, and the log-determinant of the map per dimension."""
            tables = rotary_tables(config, b, static, layout)
            x, total, squares = normalised(b, config, entries, layout, x, conditions, static, tables, norms=norms)
            if not norms:
                return x, total
            return x, total, summed(b, "penalty", squares)

        if norms:
            forward.body.__doc__ = "The same, and the sum of the mean squares of the flows' inputs."
        return forward

    return made


def _inverse_of(guided: bool) -> Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, inversion: Inversion) -> BlockBody:
        shapes = {"z": "B T=(size//patch)**2 C"} if layout.square and not layout.frames else {}

        @module_class("TransformerFlow", "guided_inverse" if guided else "inverse", **shapes)
        def inverse(b: Builder, z: Var, *others: Var, **static: Any) -> Var:
            """The sample of which z is the latent."""
            tables = rotary_tables(config, b, static, layout)
            return inverted(b, config, entries, layout, (inversion, inversion), guided, z, others, static, tables)

        return inverse

    return made


def inverted(
    b: Builder,
    config: TransformerFlow,
    entries: tuple[Entry, ...],
    layout: Layout,
    inversions: tuple[Inversion, Inversion],
    guided: bool,
    z: Var,
    others: Sequence[Var],
    static: Mapping[str, Any],
    tables: tuple[Tables, Tables],
) -> Var:
    """The sample of which z is the latent. `inversions`: of flows within frames, and of the one over all frames."""
    flows, features, operands = static["flows"], static["channels"] * static["patch"] ** 2, len(ports_of(entries))
    rows, columns = layout.grid(static)
    count = rows**2 if layout.square else rows * columns
    tokens = Named(count, "S" if layout.frames else "T")
    x = z
    if config.scale == "none":
        x = b.mul(z, b.sqrt(prior_variance(b, tokens, features)), out="x")
    order = b.arange(tokens, out="order")
    if int(flows) % 2 != config.reverse_first:
        order = _reversed(b, order, tokens)
    rotary, prefixed = tables
    for name in reversed(items("blocks", flows)):
        i = int(name.i)
        order, last = _reversed(b, order, tokens), bool(layout.frames) and i == config.flows - 1
        if config.depth_of(i):
            parts = config.flow(i, entries, layout)
            how: Guidance = "none"
            cond = others[:operands] if parts.entries else ()
            if guided and config.conditioned(i):
                how, cond = config.guidance, others
            elif guided and config.guidance == "density":
                how, cond = "tempered", (*cond, _of_frames(b, layout, others[-2], static))
            x = b.sub(
                name,
                flow_inverse(parts, how, inversions[last]),
                x,
                _in_frames(b, order, static["frames"], count) if last else order,
                *(prefixed if parts.prefix or last else rotary),
                *cond,
                out="x",
                features=features,
                tokens=count * static["frames"] if last else count,
                **config.sizes_of(i, static),
            )
        if last:
            x = b.reshape(x, shape=(B * static["frames"], tokens, features), out="x")
    return sample_of(b, config, layout, x, static)


def _of_frames(b: Builder, layout: Layout, temperature: Var, static: Mapping[str, Any]) -> Var:
    """The temperature f32[B] for each frame, f32[B F]."""
    if not layout.frames:
        return temperature
    wide = b.broadcast_to(b.reshape(temperature, shape=(B, 1)), shape=(B, static["frames"]))
    return b.reshape(wide, shape=(B * static["frames"],), out="temperature")


METHODS: dict[str, Method] = {
    "forward": _forward_of(norms=False),
    TRAINING: _forward_of(norms=True),
    "inverse": _inverse_of(False),
    "guided_inverse": _inverse_of(True),
    "variances": lambda *_: variances,
}
