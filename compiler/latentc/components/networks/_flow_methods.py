"""The methods of a transformer_flow: all its flows in a row, and back.

Symbols: B batch, F frames (1 of images), S tokens of a frame, T = F S, C channels of a token, L tokens of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

from latentc.components.capabilities import TRAINING
from latentc.components.condition import Entry, ports_of
from latentc.components.networks._flow_block import flow, prior_variance, variances
from latentc.components.networks._flow_inverse import flow_inverse
from latentc.components.networks._flow_solver import Guidance
from latentc.components.networks._frames import Layout, Tables, patches, rotary_tables, sample_of
from latentc.components.sampler import FixedPoint
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.ir.types import B, Named
from latentc.ir.var import as_tuple

if TYPE_CHECKING:
    from latentc.components.networks.transformer_flow import TransformerFlow


Method = Callable[["TransformerFlow", tuple[Entry, ...], Layout, FixedPoint | None], BlockBody]
OF_NETWORK = ("size", "rows", "columns", "frames", "given_frames", "patch", "channels", "width", "flows")
"""Static arguments of the network that its flows do not have."""


def _reversed(b: Builder, order: Var, tokens: Any) -> Var:
    return b.op("sub", b.scalar(tokens - 1, order), order, out="order")  # type: ignore[no-any-return]


def _in_frames(b: Builder, order: Var, frames: Any, tokens: Any) -> Var:
    """i64[T]: the order i64[S] of the tokens of a frame, frame after frame."""
    first = b.reshape(b.op("mul", b.arange(frames), tokens), shape=(frames, 1), out="first")
    wide = b.add(b.reshape(order, shape=(1, tokens)), first)
    return b.reshape(wide, shape=(frames * tokens,), out="order")  # type: ignore[no-any-return]


def _of_sample(b: Builder, x: Var, frames: Any) -> Var:
    """f32[B]: the mean over the frames of x f32[B F]."""
    return b.mean(b.reshape(x, shape=(B, frames)), axes=(1,), keepdims=False, out=x.value.name)  # type: ignore[no-any-return]


def _normalised(
    b: Builder,
    config: TransformerFlow,
    entries: tuple[Entry, ...],
    layout: Layout,
    x: Var,
    conditions: Sequence[Var],
    static: Mapping[str, Any],
    tables: tuple[Tables, Tables],
    within: bool = False,
    norms: bool = False,
) -> tuple[Var, Var, list[Var]]:
    """A sample mapped to its latent f32[B, T, C], the log-determinant and, for `norms`, mean squares of all inputs.

    `within`: only by the flows within frames, to f32[B F, S, C].
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
        order, last = _reversed(b, order, count), bool(layout.frames) and i == config.flows - 1
        tokens, own = count, order
        if last and within:
            break
        if last:
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
                *(prefixed if parts.prefix or last else rotary),
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
    def made(config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, _: FixedPoint | None) -> BlockBody:
        @module_class("TransformerFlow", *((TRAINING,) if norms else ()), x=layout.shape)
        def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
            """The latent of x, and the log-determinant of the map per dimension."""
            tables = rotary_tables(config, b, static, layout)
            x, total, squares = _normalised(b, config, entries, layout, x, conditions, static, tables, norms=norms)
            if not norms:
                return x, total
            return x, total, reduce(lambda a, s: b.add(a, s, out="penalty"), squares)

        if norms:
            forward.body.__doc__ = "The same, and the sum of the mean squares of the flows' inputs."
        return forward

    return made


def _inverse_of(guided: bool) -> Method:
    @cache
    def made(
        config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, solve: FixedPoint | None
    ) -> BlockBody:
        shapes = {"z": "B T=(size//patch)**2 C"} if layout.square and not layout.frames else {}

        @module_class("TransformerFlow", "guided_inverse" if guided else "inverse", **shapes)
        def inverse(b: Builder, z: Var, *others: Var, **static: Any) -> Var:
            """The sample of which z is the latent."""
            tables = rotary_tables(config, b, static, layout)
            return _inverted(b, config, entries, layout, solve, guided, z, others, static, tables)

        return inverse

    return made


def _extend_of(guided: bool) -> Method:
    @cache
    def made(
        config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, solve: FixedPoint | None
    ) -> BlockBody:
        @module_class("TransformerFlow", "guided_extend" if guided else "extend", given="B channels given_frames H W")
        def extend(b: Builder, given: Var, z: Var, *others: Var, **static: Any) -> Var:
            """The video that begins with the frames `given`; z is the latent of those behind them.

            Only the flow over all frames depends on frames before, so it is given what the others make of them.
            """
            frames, features = static["given_frames"], static["channels"] * static["patch"] ** 2
            tables, own = rotary_tables(config, b, static, layout), {**static, "frames": frames}
            known, *_ = _normalised(b, config, entries, layout, given, (), own, tables, within=True)
            count = known.shape[1]
            known = b.reshape(known, shape=(B, count * frames, features), out="known")
            x = b.concat(known, z, axis=1, out="x")
            x = b.reshape(x, shape=(B, count * static["frames"], features), out="x")
            return _inverted(b, config, entries, layout, solve, guided, x, others, static, tables, int(count * frames))

        return extend

    return made


def _inverted(
    b: Builder,
    config: TransformerFlow,
    entries: tuple[Entry, ...],
    layout: Layout,
    solve: FixedPoint | None,
    guided: bool,
    z: Var,
    others: Sequence[Var],
    static: Mapping[str, Any],
    tables: tuple[Tables, Tables],
    given: int = 0,
) -> Var:
    """The sample of which z is the latent, or, of its first `given` tokens, what the last flow makes that of."""
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
            if last:
                parts = replace(parts, given=given)
            how: Guidance = "none"
            told = others[:operands] if parts.entries else ()
            if guided and config.told_flow(i):
                how, told = config.guidance, others
            elif guided and config.guidance == "density":
                how, told = "tempered", (*told, _of_frames(b, layout, others[-2], static))
            x = b.sub(
                name,
                flow_inverse(parts, how, solve),
                x,
                _in_frames(b, order, static["frames"], count) if last else order,
                *(prefixed if parts.prefix or last else rotary),
                *told,
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
    return b.reshape(wide, shape=(B * static["frames"],), out="temperature")  # type: ignore[no-any-return]


METHODS: dict[str, Method] = {
    "forward": _forward_of(norms=False),
    TRAINING: _forward_of(norms=True),
    "inverse": _inverse_of(False),
    "guided_inverse": _inverse_of(True),
    "extend": _extend_of(False),
    "guided_extend": _extend_of(True),
    "variances": lambda *_: variances,
}

__all__ = ["METHODS", "OF_NETWORK"]
