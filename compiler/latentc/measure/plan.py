"""Which layers are quantised: all that the spec asks for, less the most sensitive ones, until the budget holds.

The error is that of final results: whole samplers are run with the plan, from the noise that calibration began with.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.measure.calibrate import AT_ONCE, Tell, check_complete, chosen, classes_for, unquantised
from latentc.measure.calibration import Calibration
from latentc.measure.execute import Array, Feed, executable, sampler_inputs
from latentc.measure.quality import Quality, of_tokens, psnr
from latentc.measure.scales import measured_tensors
from latentc.measure.sensitivity import Losses, Sensitivity, losses, only_networks, sensitivities, units
from latentc.passes.quantize import Layer, LayerQuant, Quantization, fits, quantizable
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Array as InMemory
from latentc.weights import Expr

SECONDS = 300.0
"""Seconds that the search may take: half for sensitivities, half for whole samplers. A run once begun is finished."""

SMOOTHED = ("int8", "int8_dynamic", "fp8")
"""Schemes that round activations, from which SmoothQuant moves outliers."""


@dataclass(frozen=True)
class Choice:
    """A plan and what led to it.

    `quality` of the plan, and of `everything` quantised; `kept` {path of a layer left alone: why}; `losses` by path and
    `sensitivity` by unit, of all layers that were to be quantised. `layers` are those there are.
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

    Where the budget does not hold even with one unit quantised, the plan is of all of them: the caller refuses it, or
    not. Raises DiagnosticError: E0410, E0801, E0802, E0805 where there is nothing to quantise.
    """
    tell = tell or (lambda done, total, what: None)
    # What is not quantised is left in float32 here: its own rounding is not what is asked for.
    spec = spec.model_copy(update={"target": spec.target.model_copy(update={"precision": "fp32"})})
    module = unquantised(lowered, spec).module
    layers = quantizable(module)
    allowed = chosen(layers, asked)
    wanted = {path: layer for path, layer in allowed.items() if fits(layer, asked.scheme, spec.target.engine)}
    kept = dict.fromkeys(layers.keys() - allowed.keys(), "excluded by the spec")
    kept |= dict.fromkeys(
        allowed.keys() - wanted.keys(), f"{asked.scheme} gains nothing there, or this engine lacks it"
    )
    if not wanted:
        mend = "exclude fewer layers, or take another scheme"
        raise DiagnosticError(Diagnostic("E0805", f"no layer is left to quantise as {asked.scheme}", help=mend))
    check_complete(calibration, wanted)
    smooth = asked.smooth is not None and asked.scheme in SMOOTHED
    plan = {path: LayerQuant(asked.scheme, smooth and layer.op == "linear") for path, layer in wanted.items()}
    tensors = measured_tensors(plan, layers, calibration.inputs, asked.calibration.range)
    judge = _Judge(lowered, spec, weights, calibration, asked, tensors)
    tell(0, 1, "sampling with every layer quantised")
    everything = judge.quality(plan)
    quantised = pipeline.optimised(only_networks(lowered), spec, "quantize", Quantization(plan, tensors)).module
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
    """The plan without the fewest of the most sensitive units, by bisection; the whole plan where none holds.

    `order`: units, the most sensitive first. It takes about log2 of their number samplings, and ends with the best that
    is known once `seconds` are over.
    """

    def without(count: int) -> dict[str, LayerQuant]:
        left = {path for unit in order[:count] for path in parts[unit]}
        return {path: quant for path, quant in plan.items() if path not in left}

    least, most = 0, len(order)  # `least` units left alone are too few; with `most`, nothing is quantised
    best: tuple[dict[str, LayerQuant], Quality] | None = None
    begin = time.perf_counter()
    total = max(1, int(np.ceil(np.log2(len(order)))))
    for done in range(total):
        if most - least < 2 or (done and (time.perf_counter() - begin) * (done + 1) / done > seconds):
            break
        middle = (least + most) // 2
        tell(done, total, f"sampling with {middle} of {len(order)} units left alone")
        tried = without(middle)
        quality = judge.quality(tried)
        if quality.within(asked.budget):
            most, best = middle, (tried, quality)
        else:
            least = middle
    tell(total, total, "sampling with a part of the layers quantised")
    return best or (dict(plan), judge.quality(plan))


class _Judge:
    """Says how good a plan's results are, against the float32 results that calibration ended in."""

    def __init__(
        self,
        lowered: Lowered,
        spec: Spec,
        weights: Mapping[str, Expr],
        calibration: Calibration,
        asked: Quantize,
        tensors: Mapping[str, Array],
    ) -> None:
        self.spec, self.weights, self.calibration, self.tensors = spec, weights, calibration, tensors
        self.program = lowered.programs[0]
        self.tokens = [name for name, network in lowered.networks.items() if network.discrete]
        self.lowered = only_networks(lowered) if self.tokens else lowered
        classes, seed = classes_for(spec, asked), asked.calibration.seed
        if self.tokens:
            self.feeds, self.ids = sequences(lowered, self.tokens[0], calibration.samples, classes)
            self.exact = self._logits(None)
            return
        size = min(AT_ONCE, spec.target.max_batch)
        self.requests = [
            sampler_inputs(lowered, self.program, classes[i : i + size], seed + i) for i in range(0, len(classes), size)
        ]

    def quality(self, plan: Mapping[str, LayerQuant]) -> Quality:
        made = Quantization(plan, self.tensors)
        if self.tokens:
            ours, theirs = iter(self._logits(made)), iter(self.exact)
            return of_tokens(lambda feed: next(theirs), lambda feed: next(ours), self.feeds, self.ids)
        module = pipeline.optimised(self.lowered, self.spec, "quantize", made).module
        call = executable(module, self.program.entry, self._own(), self.spec.target.opset)
        samples = np.concatenate([call(request)[0] for request in self.requests])
        return Quality(psnr=psnr(samples, self.calibration.samples, span(self.spec)))

    def _own(self) -> dict[str, Expr]:
        return {**self.weights, **{path: InMemory(array) for path, array in self.tensors.items()}}

    def _logits(self, quantization: Quantization | None) -> list[Array]:
        module = pipeline.optimised(self.lowered, self.spec, "quantize", quantization).module
        call = executable(module, f"{self.tokens[0]}.forward", self._own(), self.spec.target.opset)
        return [call(feed)[0] for feed in self.feeds]


def sequences(lowered: Lowered, network: str, samples: Array, classes: Sequence[int]) -> tuple[list[Feed], list[Array]]:
    """Sampled sequences i64[B, T] as a token network's forward takes them with their classes, and the tokens."""
    names = [v.name for v in lowered.module.functions[lowered.networks[network].methods["forward"].function].inputs]
    starts = range(0, len(samples), AT_ONCE)
    ids = [np.ascontiguousarray(samples[i : i + AT_ONCE]) for i in starts]
    y = [np.asarray(classes[i : i + AT_ONCE], np.int64) for i in starts]
    feeds: list[Feed] = [
        dict(zip(names, (np.ascontiguousarray(tokens[:, :-1]), labels), strict=True))
        for tokens, labels in zip(ids, y, strict=True)
    ]
    return feeds, ids


def span(spec: Spec) -> float | None:
    """What PSNR is relative to: the two units between black and white of images, None for latents."""
    return 2.0 if spec.data.first_stage is None else None


__all__ = ["SECONDS", "Choice", "choice", "sequences", "span"]
