"""Statistics of the inputs of layers while networks run: their range, their channels, the distribution of their values.

Calls are run one by one and their activations dropped. They are run twice, because the histogram needs the range, and
the range depends on the smoothing vector, which needs the channels.

Symbols: T tokens, C channels (last axis of a linear layer's input, axis 1 of a convolution's), E calls of all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc.ir.core import Module, Value
from latentc.ir.types import Sym
from latentc.measure.execute import Array, Feed, executable
from latentc.measure.probe import values_shown
from latentc.passes.quantize import Layer, prefix_of, quantizable
from latentc.weights import Expr

BINS = 2048
ROWS = 32
"""Rows of an input that are kept, to apply its layers to."""

AT_ONCE = 256 << 20
"""Bytes of activations held at a time."""


@dataclass(frozen=True)
class Observed:
    """One input of layers over all calls.

    `channels` f32[C]: largest magnitude per channel; `peaks` f32[E]: per call, 0 if the call does not reach the layer;
    `rows` f32[n, C] (of a convolution [n, C, *space]): an evenly spaced sample; `count`: number of values. `histogram`
    i64[BINS]: of the magnitudes, each channel divided by `smooth` f32[C], from 0 to `limit`, the largest.
    """

    channels: Array
    peaks: Array
    rows: Array
    count: int
    smooth: Array
    limit: float
    histogram: Array


Smoothing = Callable[[str, Array], Array]  # (layer input's path, largest magnitude per channel) -> divisor per channel


def observed(
    module: Module,
    weights: Mapping[str, Expr],
    feeds: Mapping[str, Sequence[Feed]],
    smoothing: Smoothing,
    opset: int,
    tell: Callable[[int, int], None],
) -> dict[str, Observed]:
    """{path of a layer's measured tensors: its input over all `feeds`, by method} of the layers that the methods run.

    A layer that no call reached, or whose input is not finite, is left out. `tell(done, total)`. Raises as
    `executable`.
    """
    layers = quantizable(module, feeds)
    calls = [
        (activations, feed, -(-ROWS // len(found)))
        for entry, found in feeds.items()
        for activations in [_Activations(module, entry, weights, layers, opset)]
        for feed in found
    ]
    channels: dict[str, Array] = {}
    peaks: dict[str, Array] = {}
    rows: dict[str, list[Array]] = {}
    count: dict[str, int] = {}
    for done, (activations, feed, some) in enumerate(calls):
        tell(done, 2 * len(calls))
        for name, x in activations(feed):
            reach = np.max(np.abs(x), axis=tuple(a for a in range(x.ndim) if a != 1), initial=0.0)
            channels[name] = np.maximum(channels.get(name, 0.0), reach)
            peaks.setdefault(name, np.zeros(len(calls), np.float32))[done] = reach.max(initial=0.0)
            count[name] = count.get(name, 0) + x.size
            rows.setdefault(name, []).append(_evenly(x, some))
    sound = {name for name, reach in channels.items() if count[name] and np.isfinite(reach).all()}
    smooth = {name: smoothing(name, channels[name]).astype(np.float32) for name in sound}
    limits = {name: float(np.max(channels[name] / smooth[name], initial=0.0)) for name in sound}
    histograms = {name: np.zeros(BINS, np.int64) for name in sound}
    for done, (activations, feed, _) in enumerate(calls):
        tell(len(calls) + done, 2 * len(calls))
        for name, x in activations(feed):
            if name in sound:
                histograms[name] += _histogram(x, smooth[name], limits[name])
    tell(2 * len(calls), 2 * len(calls))
    return {
        name: Observed(
            channels[name].astype(np.float32),
            peaks[name],
            np.concatenate(rows[name])[:ROWS],
            count[name],
            smooth[name],
            limits[name],
            histograms[name],
        )
        for name in channels
        if name in sound
    }


class _Activations:
    """A method of a network that gives the inputs of its layers: (path, [rows, C] or [rows, C, *space]) each."""

    def __init__(
        self, module: Module, entry: str, weights: Mapping[str, Expr], layers: Mapping[str, Layer], opset: int
    ) -> None:
        shown, paths = values_shown(module, entry, _wanted(layers))
        prefix, outputs = prefix_of(module, entry), shown.entry(entry).outputs
        self.names = [f"{prefix}.{path}" if prefix else path for path in paths]
        self.values, self.first = outputs[len(outputs) - len(paths) :], len(outputs) - len(paths)
        self.convolutions = {layer.group for layer in layers.values() if layer.op == "conv"}
        self.call = executable(shown, entry, weights, opset)

    def __call__(self, feed: Feed) -> Iterator[tuple[str, Array]]:
        rows = max(len(array) for array in feed.values() if array.ndim)
        for part in _parts([_bytes(v, rows) for v in self.values]):
            for i, array in zip(part, self.call(feed, [self.first + i for i in part]), strict=True):
                name = self.names[i]
                yield name, array if name in self.convolutions else array.reshape(-1, array.shape[-1])


def _wanted(layers: Mapping[str, Layer]) -> dict[str, dict[Value, str]]:
    """The values that layers read, by function: {value: name of its measured tensors there}."""
    found: dict[str, dict[Value, str]] = {}
    for layer in layers.values():
        for site in layer.sites:
            local = layer.group.removeprefix(f"{site.prefix}.") if site.prefix else layer.group
            found.setdefault(site.function, {}).setdefault(site.value, local)
    return found


def _bytes(value: Value, rows: int) -> int:
    size = 4
    for dim in value.type.shape:
        size *= dim.factor * rows if isinstance(dim, Sym) else int(dim)
    return size


def _parts(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Consecutive indices whose sizes add up to at most `AT_ONCE`, at least one each."""
    part: list[int] = []
    held = 0
    for i, size in enumerate(sizes):
        if part and held + size > AT_ONCE:
            yield part
            part, held = [], 0
        part.append(i)
        held += size
    if part:
        yield part


def _evenly(x: Array, count: int) -> Array:
    return x[np.unique(np.linspace(0, len(x) - 1, min(count, len(x))).astype(int))].copy()


def _histogram(x: Array, smooth: Array, limit: float) -> Array:
    if limit == 0.0:
        return np.bincount([0], [x.size], BINS).astype(np.int64)
    magnitude = np.abs(x) / smooth.reshape(-1, *[1] * (x.ndim - 2))
    bins = np.minimum((magnitude * (BINS / limit)).astype(np.int64), BINS - 1)
    return np.bincount(bins.reshape(-1), minlength=BINS)


__all__ = ["BINS", "Observed", "Smoothing", "observed"]
