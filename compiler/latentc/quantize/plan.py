"""The choice of layers: all that the spec asks for, minus the most sensitive ones until the budget holds.

Plans are judged by final samples, from the same noise as the calibration. If a network scores tokens, a sampler draws
other tokens as soon as one differs, so plans are then judged by the outputs of each network on the recorded calls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.measure.execute import Array
from latentc.measure.metrics import psnr
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import Layer, LayerQuant, Quantization, stem
from latentc.quantize.calibrate import Tell, check_complete
from latentc.quantize.calibration import Calibration
from latentc.quantize.model import Model
from latentc.quantize.quality import Quality, quality_of_logits
from latentc.quantize.saturation import saturates
from latentc.quantize.scales import measured_tensors
from latentc.quantize.sensitivity import Losses, Outputs, Sensitivity, joined, losses, sensitivities, units
from latentc.spec import Spec

SECONDS = 300.0
"""Time limit of the search: half for sensitivities, half for judging plans. A run that has begun is finished."""

SMOOTHED = ("int8", "int8_dynamic", "fp8", "nvfp4")
"""Schemes that round activations, whose outliers SmoothQuant can move to the weights."""

NARROWED = ("int8", "int8_dynamic")
"""Schemes whose products saturate on some CPUs."""


@dataclass(frozen=True)
class Choice:
    """A plan, and the measurements behind it.

    `quality` of the plan, and of `everything` quantised. `layers`: all that can be quantised; `kept` {path of a layer
    left unquantised: why}. `losses` by path and `sensitivity` by unit, of the layers that the spec asks for.
    """

    quantization: Quantization
    quality: Quality
    everything: Quality
    layers: Mapping[str, Layer]
    kept: Mapping[str, str]
    losses: Mapping[str, Losses]
    sensitivity: Mapping[str, Sensitivity]


def choice(
    model: Model,
    calibration: Calibration,
    tell: Tell = lambda done, total, stage: None,
    seconds: float = SECONDS,
    scales: Mapping[str, np.ndarray[Any, Any]] | None = None,
) -> Choice:
    """The layers to quantise.

    `scales` are those that weights were trained with, by path (`main.blocks.0.attn.qkv.input_scale`); layers that have
    none are quantised by those of the calibration.

    If the budget does not hold even with one unit quantised, the plan has all of them, and the caller decides whether
    to refuse. Raises DiagnosticError: E0410, E0801, E0802, E0805 if there is nothing to quantise.
    """
    model, engine = model.in_float32(), model.spec.target.engine
    settings, layers = model.settings, model.layers
    wanted = {path: layer for path, layer in model.chosen.items() if fits(layer, settings.scheme, engine)}
    kept = dict.fromkeys(layers.keys() - model.chosen.keys(), "excluded by the spec")
    unfit = f"{settings.scheme} gains nothing there, or the engine does not support it"
    kept |= dict.fromkeys(model.chosen.keys() - wanted.keys(), unfit)
    if not wanted:
        mend = "exclude fewer layers, or use another scheme"
        raise DiagnosticError(Diagnostic("E0805", f"no layer is left to quantise as {settings.scheme}", help=mend))
    check_complete(calibration, wanted)
    smooth = settings.smooth is not None and settings.scheme in SMOOTHED
    narrow = settings.scheme in NARROWED and saturates(engine)
    plan = {
        path: LayerQuant(settings.scheme, smooth and layer.op == "linear", narrow) for path, layer in wanted.items()
    }

    def measured(plan: Mapping[str, LayerQuant]) -> Quantization:
        tensors = measured_tensors(plan, layers, calibration.inputs, settings.calibration.range)
        return Quantization(plan, {**tensors, **_trained(model, plan, tensors, scales or {})})

    whole = measured(plan)
    judge = _Judge(model, calibration, whole)
    tell(0, 1, "sampling with every layer quantised")
    everything = judge.quality(plan)
    own = losses(model, calibration, whole)
    sensitive = sensitivities(
        model,
        calibration,
        whole,
        own,
        seconds / 2,
        lambda done, total: tell(done, total, "quantising each layer alone"),
    )
    final, quality = plan, everything
    if not everything.within(settings.budget):
        final, quality = _within_budget(plan, units(plan, layers), list(sensitive), judge, tell, seconds / 2)
        kept |= dict.fromkeys(plan.keys() - final.keys(), "so sensitive that the budget would not hold")
    return Choice(measured(final), quality, everything, layers, kept, own, sensitive)


def _trained(
    model: Model,
    plan: Mapping[str, LayerQuant],
    measured: Mapping[str, np.ndarray[Any, Any]],
    scales: Mapping[str, np.ndarray[Any, Any]],
) -> dict[str, np.ndarray[Any, Any]]:
    """The scales among the `measured` tensors for which weights were trained with others, and those others."""
    found: dict[str, np.ndarray[Any, Any]] = {}
    for path, how in plan.items() if scales else ():
        name = f"{model.layers[path].group}.input_scale"
        own = [scales[s] for weight in model.sources(path) if (s := f"{stem(weight)}.input_scale") in scales]
        if own and name in measured and not how.smooth:
            found[name] = np.asarray(np.max([*own, found.get(name, own[0])]), np.float32)
    return found


def _within_budget(
    plan: Mapping[str, LayerQuant],
    parts: Mapping[str, Sequence[str]],
    order: Sequence[str],
    judge: _Judge,
    tell: Tell,
    seconds: float,
) -> tuple[dict[str, LayerQuant], Quality]:
    """The plan without one network, or without as few as possible of the most sensitive units; else the whole plan.

    A network that runs once before the steps, such as an encoder of observations, spoils every step, although its own
    outputs may lose less than those of others: sensitivities compare units of one network only. Therefore plans
    without all units of one network are judged first. Otherwise it bisects `order` (units, the most sensitive first),
    judges about log2 of their number plans, and takes the best one known when `seconds` are over.
    """
    spared = _without_a_network(plan, judge, tell)
    if spared is not None:
        return spared
    least, most = 0, len(order)  # leaving out `least` units is too few; leaving out `most` is enough
    best: tuple[dict[str, LayerQuant], Quality] | None = None
    begin = time.perf_counter()
    total = max(1, math.ceil(math.log2(len(order))))
    for done in range(total):
        if most - least < 2 or (done and (time.perf_counter() - begin) * (done + 1) / done > seconds):
            break
        middle = (least + most) // 2
        tell(done, total, f"sampling with {middle} of {len(order)} units unquantised")
        left = {path for unit in order[:middle] for path in parts[unit]}
        tried = {path: quant for path, quant in plan.items() if path not in left}
        quality = judge.quality(tried)
        if quality.within(judge.model.settings.budget):
            most, best = middle, (tried, quality)
        else:
            least = middle
    tell(total, total, "sampling with a part of the layers quantised")
    return best or (dict(plan), judge.quality(plan))


def _without_a_network(
    plan: Mapping[str, LayerQuant], judge: _Judge, tell: Tell
) -> tuple[dict[str, LayerQuant], Quality] | None:
    """The largest plan without the layers of one network that is within the budget; None if none is."""
    networks = list(dict.fromkeys(path.split(".")[0] for path in plan))
    held = []
    for done, network in enumerate(networks if len(networks) > 1 else ()):
        tell(done, len(networks), f"sampling with network {network} unquantised")
        tried = {path: quant for path, quant in plan.items() if path.split(".")[0] != network}
        quality = judge.quality(tried)
        if quality.within(judge.model.settings.budget):
            held.append((tried, quality))
    return max(held, key=lambda pair: len(pair[0]), default=None)


class _Judge:
    """Measures the quality of plans against float32; `whole` quantises every layer that may be in one."""

    def __init__(self, model: Model, calibration: Calibration, whole: Quantization) -> None:
        self.model, self.samples, self.tensors = model, calibration.samples, whole.tensors
        self.logits: dict[str, int] = {}  # which output of a method is logits
        for entry in calibration.feeds:
            network, method = entry.split(".")
            roles = [port.role for port in model.lowered.networks[network].methods[method].outputs]
            if "logits" in roles:
                self.logits[entry] = roles.index("logits")
        if self.logits:
            self.outputs = Outputs(model, calibration.feeds)
            self.exact = self.outputs.of(None)
        else:
            self.requests = model.requests(model.classes(), model.settings.calibration.seed)

    def quality(self, plan: Mapping[str, LayerQuant]) -> Quality:
        tried = Quantization(plan, self.tensors)
        if self.logits:
            return self._of_calls(self.outputs.of(tried))
        entry = self.model.lowered.programs[0].entry
        call = self.model.executable(self.model.quantised(tried), entry, tried)
        samples = np.concatenate([call(request)[0] for request in self.requests])
        return Quality(psnr=psnr(samples, self.samples, span(self.model.spec)))

    def _of_calls(self, results: Mapping[str, Sequence[Sequence[Array]]]) -> Quality:
        """The worst perplexity and agreement of the methods that score tokens, and the worst PSNR of the others."""
        scored: list[Quality] = []
        levels: list[float] = []
        for entry, exact in self.exact.items():
            which = self.logits.get(entry, 0)
            ours, theirs = results[entry][which], exact[which]
            if entry in self.logits:
                scored.append(quality_of_logits(ours, theirs))
            else:
                levels.append(psnr(joined(ours), joined(theirs)))
        return Quality(
            min(levels, default=None),
            max(q.perplexity or 0.0 for q in scored),
            min(q.agreement or 0.0 for q in scored),
        )


def span(spec: Spec) -> float | None:
    """Width of the data's value range, to which PSNR refers; None (that of the samples) if the data have no range."""
    field = spec.data.fields.get("x")
    return None if field is None or field.range is None else field.range[1] - field.range[0]
