"""The choice of layers: all that the spec asks for, minus the most sensitive ones until the budget holds.

Plans are judged by final samples, from the same noise as the calibration. If a network scores tokens, a sampler draws
other tokens as soon as one differs, so plans are then judged by the outputs of each network on the recorded calls.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered, Method
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.measure.execute import Array, executable
from latentc.measure.metrics import psnr
from latentc.passes.quantize import Layer, LayerQuant, Quantization, fits, quantizable
from latentc.quantize.calibrate import Tell, check_complete, chosen, unquantised
from latentc.quantize.calibration import Calibration
from latentc.quantize.quality import Quality, quality_of_logits
from latentc.quantize.saturation import saturates
from latentc.quantize.scales import measured_tensors
from latentc.quantize.sensitivity import (
    Losses,
    Outputs,
    Sensitivity,
    losses,
    only_methods,
    sensitivities,
    units,
    with_tensors,
)
from latentc.quantize.trajectories import classes_for, requests
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Expr

SECONDS = 300.0
"""Time limit of the search: half for sensitivities, half for judging plans. A run that has begun is finished."""

SMOOTHED = ("int8", "int8_dynamic", "fp8")
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
    lowered: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    calibration: Calibration,
    asked: Quantize,
    tell: Tell | None = None,
    seconds: float = SECONDS,
) -> Choice:
    """The layers to quantise; `lowered` as the spec was lowered, `weights` by whole path.

    If the budget does not hold even with one unit quantised, the plan has all of them, and the caller decides whether
    to refuse. Raises DiagnosticError: E0410, E0801, E0802, E0805 if there is nothing to quantise.
    """
    tell = tell or (lambda done, total, what: None)
    # Layers that are not quantised run in float32 here: the budget is for quantisation alone.
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"precision": "fp32"})})
    module = unquantised(lowered, spec).module
    layers = quantizable(module)
    allowed = chosen(layers, asked)
    wanted = {path: layer for path, layer in allowed.items() if fits(layer, asked.scheme, spec.target.engine)}
    kept = dict.fromkeys(layers.keys() - allowed.keys(), "excluded by the spec")
    kept |= dict.fromkeys(
        allowed.keys() - wanted.keys(), f"{asked.scheme} gains nothing there, or the engine does not support it"
    )
    if not wanted:
        mend = "exclude fewer layers, or take another scheme"
        raise DiagnosticError(Diagnostic("E0805", f"no layer is left to quantise as {asked.scheme}", help=mend))
    check_complete(calibration, wanted)
    smooth = asked.smooth is not None and asked.scheme in SMOOTHED
    narrow = asked.scheme in NARROWED and saturates(spec.target.engine)
    plan = {path: LayerQuant(asked.scheme, smooth and layer.op == "linear", narrow) for path, layer in wanted.items()}
    tensors = measured_tensors(plan, layers, calibration.inputs, asked.calibration.range)
    judge = _Judge(lowered, spec, weights, calibration, asked, tensors)
    tell(0, 1, "sampling with every layer quantised")
    everything = judge.quality(plan)
    methods = only_methods(lowered, calibration.feeds)
    quantised = pipeline.optimised(methods, spec, "quantize", Quantization(plan, tensors)).module
    own = losses(module, quantised, layers, plan, calibration, weights, tensors, asked.calibration.range)
    sensitive = sensitivities(
        lowered,
        spec,
        weights,
        calibration,
        plan,
        tensors,
        layers,
        own,
        seconds / 2,
        lambda done, total: tell(done, total, "quantising each layer alone"),
    )
    final, quality = plan, everything
    if not everything.within(asked.budget):
        final, quality = _within_budget(plan, units(plan, layers), list(sensitive), judge, asked, tell, seconds / 2)
        kept |= dict.fromkeys(plan.keys() - final.keys(), "so sensitive that the budget would not hold")
    taken = measured_tensors(final, layers, calibration.inputs, asked.calibration.range)
    return Choice(Quantization(final, taken), quality, everything, layers, kept, own, sensitive)


def _within_budget(
    plan: Mapping[str, LayerQuant],
    parts: Mapping[str, Sequence[str]],
    order: Sequence[str],
    judge: _Judge,
    asked: Quantize,
    tell: Tell,
    seconds: float,
) -> tuple[dict[str, LayerQuant], Quality]:
    """The plan without as few as possible of the most sensitive units, by bisection; the whole plan if none holds.

    `order`: units, the most sensitive first. Judges about log2 of their number plans, and takes the best one known
    when `seconds` are over.
    """

    def without(count: int) -> dict[str, LayerQuant]:
        left = {path for unit in order[:count] for path in parts[unit]}
        return {path: quant for path, quant in plan.items() if path not in left}

    least, most = 0, len(order)  # leaving out `least` units is too few; leaving out `most` is enough
    best: tuple[dict[str, LayerQuant], Quality] | None = None
    begin = time.perf_counter()
    total = max(1, int(np.ceil(np.log2(len(order)))))
    for done in range(total):
        if most - least < 2 or (done and (time.perf_counter() - begin) * (done + 1) / done > seconds):
            break
        middle = (least + most) // 2
        tell(done, total, f"sampling with {middle} of {len(order)} units unquantised")
        tried = without(middle)
        quality = judge.quality(tried)
        if quality.within(asked.budget):
            most, best = middle, (tried, quality)
        else:
            least = middle
    tell(total, total, "sampling with a part of the layers quantised")
    return best or (dict(plan), judge.quality(plan))


class _Judge:
    """Measures the quality of plans against float32."""

    def __init__(
        self,
        lowered: Lowered,
        spec: Spec,
        weights: Mapping[str, Expr],
        calibration: Calibration,
        asked: Quantize,
        tensors: Mapping[str, Array],
    ) -> None:
        self.lowered, self.spec, self.weights, self.tensors = lowered, spec, weights, tensors
        self.program, self.samples = lowered.programs[0], calibration.samples
        self.logits = {
            entry: roles.index("logits")
            for entry in calibration.feeds
            if "logits" in (roles := [port.role for port in _method(lowered, entry).outputs])
        }
        if self.logits:
            self.outputs = Outputs(lowered, spec, weights, calibration.feeds)
            self.exact = self.outputs.of(None)
        else:
            seed = asked.calibration.seed
            self.requests = requests(lowered, spec, self.program, classes_for(spec, asked), seed)

    def quality(self, plan: Mapping[str, LayerQuant]) -> Quality:
        made = Quantization(plan, self.tensors)
        if self.logits:
            return self._of_calls(self.outputs.of(made))
        module = pipeline.optimised(self.lowered, self.spec, "quantize", made).module
        call = executable(module, self.program.entry, with_tensors(self.weights, made), self.spec.target.opset)
        samples = np.concatenate([call(request)[0] for request in self.requests])
        return Quality(psnr=psnr(samples, self.samples, span(self.spec)))

    def _of_calls(self, results: Mapping[str, Sequence[Sequence[Array]]]) -> Quality:
        """The worst perplexity and agreement of the methods that score tokens, and the worst PSNR of the others."""
        scored: list[Quality] = []
        levels: list[float] = []
        for entry, exact in self.exact.items():
            which = self.logits.get(entry, 0)
            ours, theirs = ([outs[which] for outs in calls] for calls in (results[entry], exact))
            if entry in self.logits:
                scored.append(quality_of_logits(ours, theirs))
            else:
                flat = [np.concatenate([y.ravel() for y in outs]) for outs in (ours, theirs)]
                levels.append(psnr(flat[0], flat[1]))
        return Quality(
            min(levels, default=None),
            max(q.perplexity or 0.0 for q in scored),
            min(q.agreement or 0.0 for q in scored),
        )


def _method(lowered: Lowered, entry: str) -> Method:
    network, method = entry.split(".")
    return lowered.networks[network].methods[method]


def span(spec: Spec) -> float | None:
    """Width of the data's value range, to which PSNR refers; None (that of the samples) if the data have no range."""
    field = spec.data.fields.get("x")
    return None if field is None or field.range is None else field.range[1] - field.range[0]


__all__ = ["SECONDS", "Choice", "choice", "span"]
