"""What each layer loses when it alone is quantised: its weight, its output, and the output of the whole network.

Layers that read the same value share a scale and are one unit (`main.blocks.0.attn.qkv`): they are quantised together.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered
from latentc.export.recipes import kept, recovered
from latentc.export.store import expression
from latentc.ir.core import Module, Node, parameters
from latentc.ir.ops import OPS
from latentc.measure.calibrate import layer_weight
from latentc.measure.calibration import Calibration
from latentc.measure.execute import Array, Feed, executable
from latentc.measure.observe import Observed
from latentc.measure.quality import sqnr
from latentc.measure.scales import reach, rounded
from latentc.passes.quantize import LARGEST, Layer, LayerQuant, Quantization, prefix_of
from latentc.spec import Spec
from latentc.weights import Array as InMemory
from latentc.weights import Expr

POINTS = 3
"""Evaluations of each network that a unit is tried on."""


@dataclass(frozen=True)
class Losses:
    """Signal over quantisation noise in dB: of a layer's weight and of its output, on what it saw in calibration."""

    weight: float
    output: float


@dataclass(frozen=True)
class Sensitivity:
    """The relative error ‖Δ‖ / ‖y‖ of a network's output when one unit alone is quantised.

    Where time did not reach, it is `estimated` from the unit's own output.
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
    """{path of a layer's weight: its losses} of every layer of a plan; `module` before the pass, `quantised` after."""
    own = {**weights, **{path: InMemory(array) for path, array in tensors.items()}}
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
    """The kept rows of an input as the scheme gives them back."""
    divided = seen.smooth if seen.rows.ndim == 2 else seen.smooth[:, None, None]
    if quant.scheme in LARGEST:
        end = reach(seen, quant.scheme, range)  # type: ignore[arg-type]
        return np.asarray(rounded(seen.rows / divided, end, quant.scheme) * divided, np.float32)
    if quant.scheme != "int8_dynamic":
        return seen.rows
    x = seen.rows / (divided if quant.smooth else 1.0)
    scale = (max(float(x.max()), 0.0) - min(float(x.min()), 0.0)) / 255 or 1.0
    return np.asarray(np.rint(x / scale) * scale * (divided if quant.smooth else 1.0), np.float32)


def units(plan: Mapping[str, LayerQuant], layers: Mapping[str, Layer]) -> dict[str, tuple[str, ...]]:
    """{unit: the layers of the plan that it consists of}, in order."""
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
    """{unit: what it does to its network} of every unit, the most sensitive first.

    Each unit that `seconds` allow, those with the worst outputs first, is quantised alone and its network run on
    evaluations along the trajectory. `tell(done, total)`. Raises as `executable`.
    """
    parts = units(plan, layers)
    loss = {unit: min(own[path].output for path in paths) for unit, paths in parts.items()}
    order = sorted(parts, key=lambda unit: loss[unit])
    networks = only_networks(lowered)
    exact = _outputs(networks, spec, weights, calibration, None)
    found: dict[str, Sensitivity] = {}
    begin = time.perf_counter()
    for done, unit in enumerate(order):
        spent = time.perf_counter() - begin
        if done and spent * (done + 1) / done > seconds:
            break
        tell(done, len(order))
        alone = Quantization({path: plan[path] for path in parts[unit]}, tensors)
        rough = _outputs(networks, spec, weights, calibration, alone, unit.split(".")[0])
        found[unit] = Sensitivity(max(_error(rough[name], exact[name]) for name in rough))
    tell(len(order), len(order))
    # An output's own error passes on to the network's about as that of the units that were tried.
    ratio = statistics.median(s.error / 10 ** (-loss[unit] / 20) for unit, s in found.items()) if found else 1.0
    for unit in order[len(found) :]:
        found[unit] = Sensitivity(ratio * 10 ** (-loss[unit] / 20), estimated=True)
    return dict(sorted(found.items(), key=lambda item: -item[1].error))


def only_networks(lowered: Lowered) -> Lowered:
    """The forwards of the sampled networks alone."""
    entries = {f"{name}.forward": lowered.networks[name].methods["forward"].function for name in lowered.sampled}
    return replace(lowered, module=lowered.module.with_(entries=entries), programs=())


def _outputs(
    networks: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    calibration: Calibration,
    quantization: Quantization | None,
    network: str | None = None,
) -> dict[str, list[Array]]:
    """What each network (or one) gives on a few evaluations."""
    module = pipeline.optimised(networks, spec, "quantize", quantization).module
    own = dict(weights)
    if quantization is not None:
        own |= {path: InMemory(array) for path, array in quantization.tensors.items()}
    found = {}
    for name in calibration.feeds:
        if network in (None, name):
            call = executable(module, f"{name}.forward", own, spec.target.opset)
            found[name] = [call(feed)[0] for feed in _few(calibration.feeds[name])]
    return found


def _few(feeds: Sequence[Feed]) -> list[Feed]:
    return [feeds[i] for i in sorted({round(i) for i in np.linspace(0, len(feeds) - 1, min(POINTS, len(feeds)))})]


def _error(rough: Sequence[Array], exact: Sequence[Array]) -> float:
    """‖Δ‖ / ‖y‖ over all; infinite where it is no number."""
    noise = sum(float(np.sum((a.astype(np.float64) - b) ** 2)) for a, b in zip(rough, exact, strict=True))
    signal = sum(float(np.sum(b.astype(np.float64) ** 2)) for b in exact)
    if not np.isfinite(noise):
        return float("inf")
    return float(np.sqrt(noise / signal)) if signal else float(noise > 0)


__all__ = ["Losses", "Sensitivity", "losses", "only_networks", "sensitivities", "units"]
