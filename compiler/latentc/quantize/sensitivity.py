"""The error of quantising one layer alone: of its weight, of its output, and of its network's outputs.

Layers that read the same value share a scale. They form one unit (`main.blocks.0.attn.qkv`) and are quantised together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc.export.recipes import folded_values, recovered
from latentc.export.store import expression
from latentc.ir.core import Module, Node
from latentc.ir.ops import OPS
from latentc.measure.calls import evenly
from latentc.measure.execute import Array, Feed
from latentc.measure.metrics import relative_norm, sqnr
from latentc.passes.quantize.plan import Layer, LayerQuant, Quantization
from latentc.quantize.calibration import Calibration
from latentc.quantize.model import Model, params_of
from latentc.quantize.scales import rounded_rows

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


def losses(model: Model, calibration: Calibration, quantization: Quantization) -> dict[str, Losses]:
    """{path of a layer's weight: its losses} for every layer of the plan."""
    networks = {entry.split(".")[0] for entry in calibration.feeds}
    methods = [entry for entry in model.unquantised.entries if entry.split(".")[0] in networks]
    params = params_of(model.only_methods(methods).quantised(quantization))
    weights = model.with_tensors(quantization)
    held = {path: expression(weights, path, param) for path, param in params.items()}
    dequantised = recovered(params, held, folded_values(params, lambda path, param: expression(weights, path, param)))
    exact, rough = model.layer_weight(), model.layer_weight(dequantised)
    found = {}
    for path, quant in quantization.plan.items():
        layer = model.layers[path]
        seen = calibration.inputs[layer.group]
        node, apply = _node(model.unquantised, path, layer), OPS[layer.op].evaluate
        assert apply is not None
        w, w_rough = np.asarray(exact(path), np.float32), np.asarray(rough(path), np.float32)
        x_rough = rounded_rows(seen, quant, model.settings.calibration.range)
        y, y_rough = (apply([a, b], node.attrs)[0] for a, b in ((seen.rows, w), (x_rough, w_rough)))
        found[path] = Losses(sqnr(w_rough, w), sqnr(y_rough, y))
    return found


def _node(module: Module, path: str, layer: Layer) -> Node:
    """The first node of a layer."""
    site = layer.sites[0]
    name = path.removeprefix(f"{site.prefix}.") if site.prefix else path
    nodes = module.functions[site.function].nodes
    return next(n for n in nodes if n.op == layer.op and n.inputs[1].name == name)


def units(plan: Mapping[str, LayerQuant], layers: Mapping[str, Layer]) -> dict[str, tuple[str, ...]]:
    """{unit: its layers in the plan}, in order."""
    found: dict[str, tuple[str, ...]] = {}
    for path in plan:
        unit = layers[path].group
        found[unit] = (*found.get(unit, ()), path)
    return found


def sensitivities(
    model: Model,
    calibration: Calibration,
    quantization: Quantization,
    own: Mapping[str, Losses],
    seconds: float,
    tell: Callable[[int, int], None],
) -> dict[str, Sensitivity]:
    """{unit: its sensitivity}, the most sensitive first; `own` are the losses of its layers.

    Each unit is quantised alone and its network run on a few calls, those with the worst outputs first, for as long as
    `seconds` allow. `tell(done, total)`. Raises as `executable`.
    """
    parts = units(quantization.plan, model.layers)
    loss = {unit: min(own[path].output for path in paths) for unit, paths in parts.items()}
    order = sorted(parts, key=lambda unit: loss[unit])
    few = {entry: [feeds[i] for i in evenly(len(feeds), POINTS)] for entry, feeds in calibration.feeds.items()}
    outputs = Outputs(model, few)
    exact = outputs.of(None)
    found: dict[str, Sensitivity] = {}
    begin = time.perf_counter()
    for done, unit in enumerate(order):
        spent = time.perf_counter() - begin
        if done and spent * (done + 1) / done > seconds:
            break
        tell(done, len(order))
        one_layer = Quantization({path: quantization.plan[path] for path in parts[unit]}, quantization.tensors)
        rough = outputs.of(one_layer, unit.split(".")[0])
        found[unit] = Sensitivity(max(_error(rough[entry], exact[entry]) for entry in rough))
    tell(len(order), len(order))
    # The error of the network is roughly proportional to that of the unit's own output.
    ratio = statistics.median(s.error / 10 ** (-loss[unit] / 20) for unit, s in found.items()) if found else 1.0
    for unit in order[len(found) :]:
        found[unit] = Sensitivity(ratio * 10 ** (-loss[unit] / 20), estimated=True)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


class Outputs:
    """Runs methods of networks on given calls, quantised or not."""

    def __init__(self, model: Model, feeds: Mapping[str, Sequence[Feed]]) -> None:
        self.model, self.feeds = model.only_methods(list(feeds)), feeds

    def of(self, quantization: Quantization | None, network: str | None = None) -> dict[str, list[list[Array]]]:
        """{method: each of its outputs for all calls}, of all networks or one. Raises as `executable`."""
        module = self.model.quantised(quantization)
        found = {}
        for entry, feeds in self.feeds.items():
            if network in (None, entry.split(".")[0]):
                call = self.model.executable(module, entry, quantization)
                found[entry] = [list(outputs) for outputs in zip(*map(call, feeds), strict=True)]
        return found


def _error(rough: Sequence[Sequence[Array]], exact: Sequence[Sequence[Array]]) -> float:
    """‖Δ‖ / ‖y‖ over all calls, the worst of the outputs."""
    return max(
        relative_norm(joined(ours), joined(theirs))
        for ours, theirs in zip(rough, exact, strict=True)
        if theirs[0].dtype.kind == "f"
    )


def joined(arrays: Sequence[Array]) -> Array:
    """All values of several arrays as one vector."""
    return np.concatenate([array.ravel() for array in arrays])
