"""Calibration: the inputs of every layer that can be quantised, along real trajectories of the sampler.

The sampler runs in float32 from seeded noise, with both branches of guidance. `trajectories` keeps some of the calls it
makes of each network's methods; these are run again one by one, and the inputs of their layers measured.

Symbols: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.export.store import expression
from latentc.ir.core import Module, Param, parameters
from latentc.measure.execute import Array
from latentc.passes.quantize import Layer, prefix_of, quantizable
from latentc.quantize.calibration import FORMAT, Calibration, identity, weights_hash
from latentc.quantize.observe import observed
from latentc.quantize.trajectories import classes_for, recorded
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Expr, materialise

Tell = Callable[[int, int, str], None]


def unquantised(lowered: Lowered, spec: Spec) -> Lowered:
    """The lowered spec as the target's pass `quantize` receives it."""
    names = [p.name for p in pipeline.PASSES[spec.target.engine]]
    return pipeline.optimised(lowered, spec, names[names.index("quantize") - 1])


def calibrate(
    lowered: Lowered, spec: Spec, weights: Mapping[str, Expr], asked: Quantize, tell: Tell | None = None
) -> Calibration:
    """Measure the layers of a spec along trajectories of its first sampler.

    `lowered` as the spec was lowered, `weights` by whole path (`main.blocks.0.…`). Raises DiagnosticError: E0410 for a
    missing weight, E0801 for a layer without values.
    """
    tell = tell or (lambda done, total, what: None)
    tell(0, 1, "sampling trajectories")
    wanted = asked.calibration
    seen = recorded(lowered, spec, weights, classes_for(spec, asked), wanted.seed, wanted.steps)
    module = unquantised(lowered, spec).module
    layers = chosen(quantizable(module), asked)
    reach = _weight_reach(layers, module, weights) if asked.smooth is not None else {}

    def smoothing(path: str, channels: Array) -> Array:
        return smoothed(channels, reach[path], asked.smooth or 0.0) if path in reach else np.ones_like(channels)

    inputs = observed(
        module,
        weights,
        seen.feeds,
        smoothing,
        spec.target.opset,
        lambda done, total: tell(done, total, "measuring layer inputs"),
    )
    about = {"format": FORMAT, "name": spec.name, **identity(spec, asked), "weights": weights_hash(weights)}
    found = Calibration(about, inputs, seen.feeds, seen.points, seen.samples)
    check_complete(found, layers)
    return found


def check_complete(calibration: Calibration, layers: Mapping[str, Layer]) -> None:
    """DiagnosticError E0801 if layers to be quantised saw no finite values, or only zeros."""
    inputs = calibration.inputs
    unseen = [path for path, layer in layers.items() if layer.group not in inputs]
    silent = [path for path, layer in layers.items() if layer.group in inputs and inputs[layer.group].limit == 0.0]
    problems = []
    for paths, what in ((unseen, "saw no finite values"), (silent, "saw nothing but zeros")):
        if paths:
            others = f" (and {len(paths) - 1} more layers)" if len(paths) > 1 else ""
            message = f"the layer {paths[0]}{others} {what} in calibration, so its scale is unknown"
            mend = f"exclude it with `optimize.quantize.exclude: ['{paths[0].removesuffix('.weight')}']`"
            help = f"are the weights those of a trained model? Otherwise {mend}"
            problems.append(Diagnostic("E0801", message, help=help))
    if problems:
        raise DiagnosticError(*problems)


def chosen(layers: Mapping[str, Layer], asked: Quantize) -> dict[str, Layer]:
    """The layers that the spec does not exclude. DiagnosticError E0802 for a pattern that matches no layer."""
    patterns = {pattern: [path for path in layers if _matches(path, pattern)] for pattern in asked.exclude}
    idle = [pattern for pattern, found in patterns.items() if not found]
    if idle:
        known = ", ".join(path.removesuffix(".weight") for path in list(layers)[:4])
        mend = f"a pattern is a path or its last parts, with * for any text: `*.adaLN`; paths are such as {known}"
        raise DiagnosticError(*(Diagnostic("E0802", f"no layer is called `{p}`", help=mend) for p in idle))
    excluded = {path for found in patterns.values() for path in found}
    return {path: layer for path, layer in layers.items() if path not in excluded}


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern fits the path of a weight, with or without the network's name."""
    whole = path.removesuffix(".weight")
    return any(fnmatchcase(name, pattern) for name in (whole, whole.split(".", 1)[-1]))


# ---- SmoothQuant


def smoothed(channels: Array, weights: Array, alpha: float) -> Array:
    """SmoothQuant scale per input channel: max|x|^alpha / max|w|^(1 - alpha); 1 if either maximum is 0.

    `channels`, `weights` f32[C]: largest magnitudes. Xiao et al. 2023, arXiv:2211.10438, equation 4.
    """
    live = (channels > 1e-30) & (weights > 1e-30)
    ratio = np.where(live, channels, 1.0) ** alpha / np.where(live, weights, 1.0) ** (1.0 - alpha)
    return np.clip(np.where(live, ratio, 1.0), 1e-5, 1e5).astype(np.float32)


def layer_weight(module: Module, weights: Mapping[str, Expr]) -> Callable[[str], Array]:
    """A function that gives the weight of a layer by its whole path, also if a pass merged it from others."""
    params: dict[str, Param] = {}
    for entry, function in module.entries.items():
        params |= parameters(module, function, prefix_of(module, entry))
    return lambda path: materialise(expression(weights, path, params[path]))


def _weight_reach(layers: Mapping[str, Layer], module: Module, weights: Mapping[str, Expr]) -> dict[str, Array]:
    """{path of measured tensors: max|w| f32[C] per input channel, over the linear layers that read the input}."""
    weight, found = layer_weight(module, weights), dict[str, Array]()
    for path, layer in layers.items():
        if layer.op == "linear":
            reach = np.max(np.abs(weight(path)), axis=0)
            found[layer.group] = np.maximum(found.get(layer.group, 0.0), reach)
    return found


__all__ = ["Tell", "calibrate", "check_complete", "chosen", "layer_weight", "smoothed", "unquantised"]
