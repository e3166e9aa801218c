"""The methods of a transformer_flow: all its flows in a row, and back.

Symbols: B batch, F frames (1 of images), S tokens of a frame, T = F S, C channels of a token, L tokens of conditions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, reduce
from typing import TYPE_CHECKING, Any

from latentc.components.capabilities import TRAINING
from latentc.components.condition import Entry, ports_of
from latentc.components.networks._flow_block import flow, prior_variance, variances
from latentc.components.networks._flow_inverse import flow_inverse
from latentc.components.networks._flow_solver import Guidance
from latentc.components.networks._frames import Layout, patches, rotary_tables, sample_of
from latentc.components.sampler import FixedPoint
from latentc.ir.builder import BlockBody, Builder, Var, items, module_class
from latentc.ir.types import B, Named
from latentc.ir.var import as_tuple

if TYPE_CHECKING:
    from latentc.components.networks.transformer_flow import TransformerFlow


Method = Callable[["TransformerFlow", tuple[Entry, ...], Layout, FixedPoint | None], BlockBody]
OF_NETWORK = ("size", "rows", "columns", "frames", "patch", "channels", "width", "flows")
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


def _forward_of(norms: bool) -> Method:
    @cache
    def made(config: TransformerFlow, entries: tuple[Entry, ...], layout: Layout, _: FixedPoint | None) -> BlockBody:
        @module_class("TransformerFlow", *((TRAINING,) if norms else ()), x=layout.shape)
        def forward(b: Builder, x: Var, *conditions: Var, **static: Any) -> tuple[Var, ...]:
            """The latent of x, and the log-determinant of the map per dimension."""
            flows, features = static["flows"], static["channels"] * static["patch"] ** 2
            rows, columns = layout.grid(static)
            count = rows**2 if layout.square else rows * columns
            x = patches(b, config, layout, x, Named(count, "S" if layout.frames else "T"), static)
            order = b.arange(x.shape[1], out="order")
            if not config.reverse_first:
                order = _reversed(b, order, count)
            rotary, prefixed = rotary_tables(config, b, static, layout)
            total = b.full(x, shape=(), value=0.0, dtype="f32", out="log_det")
            squares: list[Var] = []
            for i, name in enumerate(items("blocks", flows)):
                order, last = _reversed(b, order, count), bool(layout.frames) and i == config.flows - 1
                tokens, own = count, order
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
        operands = len(ports_of(entries))
        shapes = {"z": "B T=(size//patch)**2 C"} if layout.square and not layout.frames else {}

        @module_class("TransformerFlow", "guided_inverse" if guided else "inverse", **shapes)
        def inverse(b: Builder, z: Var, *others: Var, **static: Any) -> Var:
            """The sample of which z is the latent."""
            flows, features = static["flows"], static["channels"] * static["patch"] ** 2
            rows, columns = layout.grid(static)
            count = rows**2 if layout.square else rows * columns
            tokens = Named(count, "S" if layout.frames else "T")
            x = z
            if config.scale == "none":
                x = b.mul(z, b.sqrt(prior_variance(b, tokens, features)), out="x")
            order = b.arange(tokens, out="order")
            if int(flows) % 2 != config.reverse_first:
                order = _reversed(b, order, tokens)
            rotary, prefixed = rotary_tables(config, b, static, layout)
            for name in reversed(items("blocks", flows)):
                i = int(name.i)
                order, last = _reversed(b, order, tokens), bool(layout.frames) and i == config.flows - 1
                if config.depth_of(i):
                    parts = config.flow(i, entries, layout)
                    how: Guidance = "none"
                    given = others[:operands] if parts.entries else ()
                    if guided and config.told_flow(i):
                        how, given = config.guidance, others
                    elif guided and config.guidance == "density":
                        how, given = "tempered", (*given, _of_frames(b, layout, others[-2], static))
                    x = b.sub(
                        name,
                        flow_inverse(parts, how, solve),
                        x,
                        _in_frames(b, order, static["frames"], count) if last else order,
                        *(prefixed if parts.prefix or last else rotary),
                        *given,
                        out="x",
                        features=features,
                        tokens=count * static["frames"] if last else count,
                        **config.sizes_of(i, static),
                    )
                if last:
                    x = b.reshape(x, shape=(B * static["frames"], tokens, features), out="x")
            return sample_of(b, config, layout, x, static)

        return inverse

    return made


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
    "variances": lambda *_: variances,
}

__all__ = ["METHODS", "OF_NETWORK"]
