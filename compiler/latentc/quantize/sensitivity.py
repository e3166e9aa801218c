"""The error of quantising one layer alone: of its weight, of its output, and of its network's outputs.

Layers that read the same value share a scale. They form one unit (`main.blocks.0.attn.qkv`) and are quantised together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered
from latentc.export.recipes import kept, recovered
from latentc.export.store import expression
from latentc.ir.core import Module, Node, parameters
from latentc.ir.ops import OPS
from latentc.measure.execute import Array, Feed, executable
from latentc.passes.quantize import LARGEST, Layer, LayerQuant, Quantization, prefix_of
from latentc.quantize.calibrate import layer_weight
from latentc.quantize.calibration import Calibration
from latentc.quantize.observe import Observed
from latentc.quantize.quality import sqnr
from latentc.quantize.scales import reach, rounded
from latentc.spec import Spec
from latentc.weights import Array as InMemory
from latentc.weights import Expr

POINTS = 3
"""Calls of each method that a unit is tried on."""


@dataclass(frozen=True)
class Losses:
    """Signal to quantisation noise in dB of a layer's weight, and of its output on inputs seen in calibration."""

    weight: float
    output: float


@dataclass(frozen=True)
class Sensitivity:
    """The relative error ‖Δ‖ / ‖y‖ of a network's outputs when one unit alone is quantised, the worst of them.

    If there was no time to run it, it is `estimated` from the error of the unit's own output.
    """

    error: float
    estimated: bool = False


def losses(
    module: Module,
    quantised: Module,
    layers: Mapping[str, Layer],
    plan: Mapping[str, LayerQuant],
    calibration: Calibration,
    weights: Mapping[str, Expr],
    tensors: Mapping[str, Array],
    range: str,
) -> dict[str, Losses]:
    """{path of a layer's weight: its losses} for every layer of a plan.

    `module` is the module before the pass `quantize`, `quantised` after it.
    """
    own = with_tensors(weights, Quantization(plan, tensors))
    params = {
        path: param
        for entry, function in quantised.entries.items()
        for path, param in parameters(quantised, function, prefix_of(quantised, entry)).items()
    }
    beside = kept(params, lambda path, param: expression(own, path, param))
    back = recovered(params, {path: expression(own, path, param) for path, param in params.items()}, beside)
    exact, rough = layer_weight(module, weights), layer_weight(module, {**weights, **back})
    nodes = _nodes(module, layers)
    found = {}
    for path, quant in plan.items():
        layer = layers[path]
        seen = calibration.inputs[layer.group]
        w, w_rough = np.asarray(exact(path), np.float32), np.asarray(rough(path), np.float32)
        x, x_rough = seen.rows, _input(seen, quant, range)
        apply = OPS[layer.op].evaluate
        assert apply is not None
        y, y_rough = (apply([a, b], nodes[path].attrs)[0] for a, b in ((x, w), (x_rough, w_rough)))
        found[path] = Losses(sqnr(w_rough, w), sqnr(y_rough, y))
    return found


def _nodes(module: Module, layers: Mapping[str, Layer]) -> dict[str, Node]:
    """The first node of each layer."""
    found = {}
    for path, layer in layers.items():
        site = layer.sites[0]
        local = path.removeprefix(f"{site.prefix}.") if site.prefix else path
        fn = module.functions[site.function]
        found[path] = next(n for n in fn.nodes if n.op == layer.op and n.inputs[1].name == local)
    return found


def _input(seen: Observed, quant: LayerQuant, range: str) -> Array:
    """The kept rows of an input after quantising and dequantising."""
    divided = seen.smooth.reshape(-1, *[1] * (seen.rows.ndim - 2))
    if quant.scheme in LARGEST:
        end = reach(seen, quant.scheme, range)  # type: ignore[arg-type]
        return np.asarray(rounded(seen.rows / divided, end, quant.scheme) * divided, np.float32)
    if quant.scheme != "int8_dynamic":
        return seen.rows
    x = seen.rows / (divided if quant.smooth else 1.0)
    scale = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255 or 1.0
    return np.asarray(np.rint(x / scale) * scale * (divided if quant.smooth else 1.0), np.float32)


def units(plan: Mapping[str, LayerQuant], layers: Mapping[str, Layer]) -> dict[str, tuple[str, ...]]:
    """{unit: its layers in the plan}, in order."""
    found: dict[str, list[str]] = {}
    for path in plan:
        found.setdefault(layers[path].group, []).append(path)
    return {unit: tuple(paths) for unit, paths in found.items()}


def sensitivities(
    lowered: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    calibration: Calibration,
    plan: Mapping[str, LayerQuant],
    tensors: Mapping[str, Array],
    layers: Mapping[str, Layer],
    own: Mapping[str, Losses],
    seconds: float,
    tell: Callable[[int, int], None],
) -> dict[str, Sensitivity]:
    """{unit: its sensitivity}, the most sensitive first.

    Each unit is quantised alone and its network run on a few calls, those with the worst outputs first, for as long as
    `seconds` allow. `tell(done, total)`. Raises as `executable`.
    """
    parts = units(plan, layers)
    loss = {unit: min(own[path].output for path in paths) for unit, paths in parts.items()}
    order = sorted(parts, key=lambda unit: loss[unit])
    outputs = Outputs(lowered, spec, weights, {entry: few(feeds) for entry, feeds in calibration.feeds.items()})
    exact = outputs.of(None)
    found: dict[str, Sensitivity] = {}
    begin = time.perf_counter()
    for done, unit in enumerate(order):
        spent = time.perf_counter() - begin
        if done and spent * (done + 1) / done > seconds:
            break
        tell(done, len(order))
        alone = Quantization({path: plan[path] for path in parts[unit]}, tensors)
        rough = outputs.of(alone, unit.split(".")[0])
        found[unit] = Sensitivity(max(_error(rough[entry], exact[entry]) for entry in rough))
    tell(len(order), len(order))
    # The error of the network is roughly proportional to that of the unit's own output.
    ratio = statistics.median(s.error / 10 ** (-loss[unit] / 20) for unit, s in found.items()) if found else 1.0
    for unit in order[len(found) :]:
        found[unit] = Sensitivity(ratio * 10 ** (-loss[unit] / 20), estimated=True)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


def only_methods(lowered: Lowered, entries: Collection[str]) -> Lowered:
    """The lowered spec with these methods of networks as its only entries."""
    kept = {entry: fn for entry, fn in lowered.module.entries.items() if entry in entries}
    return replace(lowered, module=lowered.module.with_(entries=kept), programs=())


class Outputs:
    """Runs methods of networks on given calls, quantised or not."""

    def __init__(
        self, lowered: Lowered, spec: Spec, weights: Mapping[str, Expr], feeds: Mapping[str, Sequence[Feed]]
    ) -> None:
        self.lowered, self.spec, self.weights, self.feeds = only_methods(lowered, feeds), spec, weights, feeds

    def of(self, quantization: Quantization | None, network: str | None = None) -> dict[str, list[list[Array]]]:
        """{method: all its outputs for each call}, of all networks or one. Raises as `executable`."""
        module = pipeline.optimised(self.lowered, self.spec, "quantize", quantization).module
        own = with_tensors(self.weights, quantization)
        found = {}
        for entry, feeds in self.feeds.items():
            if network in (None, entry.split(".")[0]):
                call = executable(module, entry, own, self.spec.target.opset)
                found[entry] = [call(feed) for feed in feeds]
        return found


def with_tensors(weights: Mapping[str, Expr], quantization: Quantization | None) -> dict[str, Expr]:
    """The weights and the measured tensors of a quantisation, by whole path."""
    tensors = quantization.tensors if quantization is not None else {}
    return {**weights, **{path: InMemory(array) for path, array in tensors.items()}}


def few(feeds: Sequence[Feed]) -> list[Feed]:
    """`POINTS` of the calls, evenly spaced."""
    return [feeds[i] for i in sorted({round(i) for i in np.linspace(0, len(feeds) - 1, min(POINTS, len(feeds)))})]


def _error(rough: Sequence[Sequence[Array]], exact: Sequence[Sequence[Array]]) -> float:
    """‖Δ‖ / ‖y‖ over all calls, the worst of the outputs; infinite if it is not a number."""
    return max(
        _relative(ours, theirs)
        for ours, theirs in zip(zip(*rough, strict=True), zip(*exact, strict=True), strict=True)
        if theirs[0].dtype.kind == "f"
    )


def _relative(rough: Sequence[Array], exact: Sequence[Array]) -> float:
    noise = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(rough, exact, strict=True))
    signal = sum(float(np.sum(b.astype(np.float64) ** 2)) for b in exact)
    if not np.isfinite(noise):
        return float("inf")
    return float(np.sqrt(noise / signal)) if signal else float(noise > 0)


__all__ = ["Losses", "Outputs", "Sensitivity", "losses", "only_methods", "sensitivities", "units", "with_tensors"]
