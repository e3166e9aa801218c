"""Calibration: the inputs of every layer that can be quantised, along real trajectories of the sampler.

The sampler runs in float32 from seeded noise, with both branches of guidance. `trajectories` keeps some of its
calls of each network's methods; these are run again one by one, and the inputs of their layers measured.

Symbols: C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.measure.execute import Array
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import Layer
from latentc.quantize.calibration import FORMAT, Calibration, identity, weights_hash
from latentc.quantize.model import Model
from latentc.quantize.observe import observed
from latentc.quantize.trajectories import recorded

Tell = Callable[[int, int, str], None]  # done, total, stage


def calibrate(model: Model, tell: Tell = lambda done, total, stage: None) -> Calibration:
    """Measure the layers of a model along trajectories of its first program.

    Raises DiagnosticError: E0410 for a missing weight, E0801 for a layer without values.
    """
    tell(0, 1, "sampling trajectories")
    settings = model.settings
    seen = recorded(model, model.classes(), settings.calibration.seed, settings.calibration.steps)
    largest = {} if settings.smooth is None else _largest_weights(model)

    def smoothing(path: str, channels: Array) -> Array:
        return smoothed(channels, largest[path], settings.smooth or 0.0) if path in largest else np.ones_like(channels)

    inputs = observed(model, seen.feeds, smoothing, lambda done, total: tell(done, total, "measuring layer inputs"))
    about = {"format": FORMAT, "name": model.spec.name, **identity(model), "weights": weights_hash(model.weights)}
    found = Calibration(about, inputs, seen.feeds, seen.points, seen.samples)
    scheme, engine = settings.scheme, model.spec.target.engine
    check_complete(found, {path: layer for path, layer in model.chosen.items() if fits(layer, scheme, engine)})
    return found


def check_complete(calibration: Calibration, layers: Mapping[str, Layer]) -> None:
    """DiagnosticError E0801 if layers to be quantised were not called, saw no finite values, or only zeros."""
    inputs = calibration.inputs
    called = {entry.split(".")[0] for entry in calibration.feeds}
    for network in dict.fromkeys(path.split(".")[0] for path in layers):
        if network not in called:
            message = f"calibration sees no calls of network `{network}`: programs only differentiate it"
            mend = f"leave it in full precision: `optimize.quantize.exclude: ['{network}.*']`"
            raise DiagnosticError(Diagnostic("E0801", message, help=mend))
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


def smoothed(channels: Array, weights: Array, alpha: float) -> Array:
    """SmoothQuant scale per input channel: max|x|^alpha / max|w|^(1 - alpha); 1 if either maximum is 0.

    `channels`, `weights` f32[C]: largest magnitudes. Xiao et al. 2023, arXiv:2211.10438, equation 4.
    """
    live = (channels > 1e-30) & (weights > 1e-30)
    ratio = np.where(live, channels, 1.0) ** alpha / np.where(live, weights, 1.0) ** (1.0 - alpha)
    return np.clip(np.where(live, ratio, 1.0), 1e-5, 1e5).astype(np.float32)


def _largest_weights(model: Model) -> dict[str, Array]:
    """{path of measured tensors: max|w| f32[C] per input channel, over the linear layers that read the input}."""
    weight, found = model.layer_weight(), dict[str, Array]()
    for path, layer in model.chosen.items():
        if layer.op == "linear":
            largest = np.max(np.abs(weight(path)), axis=0)
            found[layer.group] = np.maximum(found.get(layer.group, 0.0), largest)
    return found
