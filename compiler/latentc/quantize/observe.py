"""Statistics of the inputs of layers while networks run: their range, their channels, the distribution of their values.

Calls are run one by one and their activations dropped. They are run twice, because the histogram needs the range, and
the range depends on the smoothing vector, which needs the channels.

Symbols: C channels (last axis of a linear layer's input, axis 1 of a convolution's), E calls of all methods.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentc.ir.core import Value, source_params
from latentc.measure.calls import evenly, rows_of, with_rows
from latentc.measure.execute import Array, Feed
from latentc.measure.probe import values_shown
from latentc.passes.quantize.plan import Layer, prefix_of, quantizable
from latentc.quantize.model import Model, params_of

BINS = 2048
ROWS = 32
"""Rows of an input that are kept, to apply its layers to."""

AT_ONCE = 256 << 20
"""Bytes of activations to hold at a time; a call of more runs in parts."""


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


@dataclass
class _Running:
    """An input while calls run; fields as in `Observed`."""

    peaks: Array
    channels: Array | float = 0.0
    count: int = 0
    rows: list[Array] = field(default_factory=list)

    def add(self, call: int, x: Array, kept: int) -> None:
        largest = np.max(np.abs(x), axis=tuple(a for a in range(x.ndim) if a != 1), initial=0.0)
        self.channels = np.maximum(self.channels, largest)
        self.peaks[call] = max(self.peaks[call], largest.max(initial=0.0))
        self.count += x.size
        self.rows.append(x[evenly(len(x), kept)].copy())

    def observed(self, smooth: Array) -> Observed:
        """The statistics so far, with an empty histogram."""
        channels = np.asarray(self.channels, np.float32)
        limit = float(np.max(channels / smooth, initial=0.0))
        rows = np.concatenate(self.rows)[:ROWS]
        return Observed(channels, self.peaks, rows, self.count, smooth, limit, np.zeros(BINS, np.int64))


def observed(
    model: Model, feeds: Mapping[str, Sequence[Feed]], smoothing: Smoothing, tell: Callable[[int, int], None]
) -> dict[str, Observed]:
    """{path of a layer's measured tensors: its input over all `feeds`, by method} of the layers that the methods run.

    A layer that no call reached, or whose input is not finite, is left out. `tell(done, total)`. Raises as
    `executable`.
    """
    layers = quantizable(model.unquantised, feeds)
    calls = [
        (activations, feed, -(-ROWS // len(found)))
        for entry, found in feeds.items()
        for activations in [_Activations(model, entry, layers)]
        for feed in found
    ]
    running: dict[str, _Running] = {}
    for done, (activations, feed, kept) in enumerate(calls):
        tell(done, 2 * len(calls))
        for name, x in activations(feed):
            if name not in running:
                running[name] = _Running(np.zeros(len(calls), np.float32))
            running[name].add(done, x, kept)
    found = {
        name: seen.observed(smoothing(name, np.asarray(seen.channels)).astype(np.float32))
        for name, seen in running.items()
        if seen.count and np.isfinite(seen.channels).all()
    }
    for done, (activations, feed, _) in enumerate(calls):
        tell(len(calls) + done, 2 * len(calls))
        for name, x in activations(feed):
            if name in found:
                found[name].histogram[:] += _histogram(x, found[name].smooth, found[name].limit)
    tell(2 * len(calls), 2 * len(calls))
    return {**_by_weight(model, feeds, found), **found}


def _by_weight(model: Model, ran: Iterable[str], found: Mapping[str, Observed]) -> dict[str, Observed]:
    """Inputs of layers of programs that no call reached, from layers of the same weight in the entries that `ran`.

    Decoding may read whole what the forward pass, which is the method that is run, cuts into queries, keys and values.
    A layer that a program runs once, apart from its loop, has another first name there.
    """
    params = params_of(model.unquantised)

    def sources(path: str) -> list[str]:
        owner = path.removesuffix(params[path].name)  # sources are named within the module that owns the weight
        return [owner + source.name for source in source_params(params[path]) if source.type.rank > 1]

    inputs = {path: found.get(layer.group) for path, layer in quantizable(model.unquantised, ran).items()}
    seen = {source: x for path, x in inputs.items() if x is not None for source in sources(path)}
    return {layer.group: seen[name] for path, layer in model.layers.items() for name in sources(path) if name in seen}


class _Activations:
    """A method of a network that gives the inputs of its layers: (path, [rows, C] or [rows, C, *space]) each."""

    def __init__(self, model: Model, entry: str, layers: Mapping[str, Layer]) -> None:
        shown, paths = values_shown(model.unquantised, entry, _wanted(layers))
        prefix, fn = prefix_of(shown, entry), shown.entry(entry)
        self.names = [f"{prefix}.{path}" if prefix else path for path in paths]
        self.own = len(fn.outputs) - len(paths)
        self.types = {value.name: value.type for value in fn.inputs}
        self.row_bytes = sum(4 * value.type.count() for value in fn.outputs)
        self.convolutions = {layer.group for layer in layers.values() if layer.op == "conv"}
        self.call = model.executable(shown, entry)

    def __call__(self, feed: Feed) -> Iterator[tuple[str, Array]]:
        rows = np.arange(max(rows_of(x, self.types[name]) for name, x in feed.items()))
        parts = -(-len(rows) * self.row_bytes // AT_ONCE)
        for part in np.array_split(rows, min(parts, len(rows))):
            outputs = self.call({name: with_rows(x, self.types[name], part) for name, x in feed.items()})
            for name, array in zip(self.names, outputs[self.own :], strict=True):
                yield name, array if name in self.convolutions else array.reshape(-1, array.shape[-1])


def _wanted(layers: Mapping[str, Layer]) -> dict[str, dict[Value, str]]:
    """The values that layers read, by function: {value: name of its measured tensors there}."""
    found: dict[str, dict[Value, str]] = {}
    for layer in layers.values():
        for site in layer.sites:
            local = layer.group.removeprefix(f"{site.prefix}.") if site.prefix else layer.group
            found.setdefault(site.function, {}).setdefault(site.value, local)
    return found


def _histogram(x: Array, smooth: Array, limit: float) -> Array:
    if limit == 0.0:
        return np.bincount([0], [x.size], BINS).astype(np.int64)
    magnitude = np.abs(x) / smooth.reshape(-1, *[1] * (x.ndim - 2))
    bins = np.minimum((magnitude * (BINS / limit)).astype(np.int64), BINS - 1)
    return np.bincount(bins.reshape(-1), minlength=BINS)
