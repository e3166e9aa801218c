"""What the inputs of layers are like while a network runs: their reach, their channels, how their values spread.

Evaluations are run one by one and their activations dropped; twice, because how values spread is asked once it is known
how far they reach and by what their channels are divided.

Symbols: B batch, T tokens, C channels (of a linear layer's input the last axis, of a convolution's axis 1).
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
"""Rows of an input that are kept, to see what a layer makes of them."""

AT_ONCE = 256 << 20
"""Bytes of activations that are held at a time."""


@dataclass(frozen=True)
class Observed:
    """One input of layers over all evaluations.

    `channels` f32[C]: the largest magnitude in each; `peaks` f32[E]: in each evaluation; `rows` f32[n, C] (of a
    convolution [n, C, H, W]): some of it; `count`: the values seen. `histogram` i64[BINS]: of the magnitudes, each
    channel divided by `smooth` f32[C], from 0 to `limit`, the largest.
    """

    channels: Array
    peaks: Array
    rows: Array
    count: int
    smooth: Array
    limit: float
    histogram: Array


Smoothing = Callable[[str, Array], Array]  # a layer input's path and its channels' reach to what they are divided by


def observed(
    module: Module,
    entry: str,
    weights: Mapping[str, Expr],
    feeds: Sequence[Feed],
    smoothing: Smoothing,
    opset: int,
    tell: Callable[[int, int], None],
) -> dict[str, Observed]:
    """{path of a layer's measured tensors: its input over all `feeds`} of the layers that a network's method runs.

    A layer that no evaluation reached, or that got no finite numbers, is left out. `tell(done, total)`. Raises as
    `executable`.
    """
    layers = quantizable(module, [entry])
    shown, paths = values_shown(module, entry, _wanted(layers))
    prefix = prefix_of(module, entry)
    names = [f"{prefix}.{path}" if prefix else path for path in paths]
    convolutions = {layer.group for layer in layers.values() if layer.op == "conv"}
    call = executable(shown, entry, weights, opset)
    extras = shown.entry(entry).outputs[-len(paths) :] if paths else ()
    first = len(shown.entry(entry).outputs) - len(paths)
    total = 2 * len(feeds)

    def activations(feed: Feed) -> Iterator[tuple[str, Array]]:
        """Each input as [rows, C] or [rows, C, H, W]."""
        rows = len(next(iter(feed.values())))
        for part in _parts([_bytes(v, rows) for v in extras]):
            for i, array in zip(part, call(feed, [first + i for i in part]), strict=True):
                yield names[i], array if names[i] in convolutions else array.reshape(-1, array.shape[-1])

    channels: dict[str, Array] = {}
    peaks: dict[str, list[float]] = {}
    rows: dict[str, list[Array]] = {}
    count: dict[str, int] = {}
    for done, feed in enumerate(feeds):
        tell(done, total)
        for name, x in activations(feed):
            reach = np.max(np.abs(x), axis=tuple(a for a in range(x.ndim) if a != 1), initial=0.0)
            channels[name] = np.maximum(channels.get(name, 0.0), reach)
            peaks.setdefault(name, []).append(float(reach.max(initial=0.0)))
            count[name] = count.get(name, 0) + x.size
            rows.setdefault(name, []).append(_some(x, -(-ROWS // len(feeds))))
    sound = {name for name, reach in channels.items() if count[name] and np.isfinite(reach).all()}
    smooth = {name: smoothing(name, channels[name]).astype(np.float32) for name in sound}
    limits = {name: float(np.max(channels[name] / smooth[name], initial=0.0)) for name in sound}
    histograms = {name: np.zeros(BINS, np.int64) for name in sound}
    for done, feed in enumerate(feeds):
        tell(len(feeds) + done, total)
        for name, x in activations(feed):
            if name in sound:
                histograms[name] += _histogram(x, smooth[name], limits[name])
    tell(total, total)
    return {
        name: Observed(
            channels[name].astype(np.float32),
            np.asarray(peaks[name], np.float32),
            np.concatenate(rows[name])[:ROWS],
            count[name],
            smooth[name],
            limits[name],
            histograms[name],
        )
        for name in channels
        if name in sound
    }


def _wanted(layers: Mapping[str, Layer]) -> dict[str, dict[Value, str]]:
    """What layers read, by function: {value: its name there, which is that of its first layer}."""
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
    """Runs of numbers 0.. whose sizes are together at most `AT_ONCE`, each at least one."""
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


def _some(x: Array, count: int) -> Array:
    """Rows spread evenly."""
    return x[np.unique(np.linspace(0, len(x) - 1, min(count, len(x))).astype(int))].copy()


def _histogram(x: Array, smooth: Array, limit: float) -> Array:
    if limit == 0.0:
        return np.bincount([0], [x.size], BINS).astype(np.int64)
    magnitude = np.abs(x) / (smooth if x.ndim == 2 else smooth[:, None, None])
    bins = np.minimum((magnitude * (BINS / limit)).astype(np.int64), BINS - 1)
    return np.bincount(bins.reshape(-1), minlength=BINS)


__all__ = ["BINS", "Observed", "Smoothing", "observed"]
