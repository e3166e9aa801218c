"""Calibration: an unquantised network watched along real trajectories of its sampler.

The sampler runs in float32 from seeded noise, both branches of guidance with it. A few of its evaluations, spread
evenly, are then run again one by one, and the inputs of every layer that can be quantised are looked at. For token
models an evaluation is the whole of sampled sequences: what a prefill and the decoding of every token see.

Symbols: B batch, C channels, E evaluations seen, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered, Network, SampleProgram
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.export.store import expression
from latentc.ir.core import Module, Param, alone, parameters
from latentc.measure.calibration import FORMAT, Calibration, identity, weights_hash
from latentc.measure.execute import Array, Feed, executable, sampler_inputs
from latentc.measure.observe import Observed, observed
from latentc.measure.probe import network_inputs_shown
from latentc.measure.trajectory import calls
from latentc.passes.quantize import Layer, prefix_of, quantizable
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Expr, materialise
from latentc_runtime.sources import ConditionSource

AT_ONCE = 16
"""Samples of one run of the sampler."""

Tell = Callable[[int, int, str], None]


def unquantised(lowered: Lowered, spec: Spec) -> Lowered:
    """The lowered spec as the pass `quantize` of the target finds it."""
    names = [p.name for p in pipeline.PASSES[spec.target.engine]]
    return pipeline.optimised(lowered, spec, names[names.index("quantize") - 1])


def calibrate(
    lowered: Lowered, spec: Spec, weights: Mapping[str, Expr], asked: Quantize, tell: Tell | None = None
) -> Calibration:
    """Watch the networks of `lowered`, as the spec was lowered, along the trajectories of its first sampler.

    `weights` are by whole path (`main.blocks.0.…`). Raises DiagnosticError: E0410, E0801 where a layer saw nothing.
    """
    tell = tell or (lambda done, total, what: None)
    tell(0, 1, "sampling trajectories")
    wanted = asked.calibration
    feeds, points, samples = trajectories(lowered, spec, weights, classes_for(spec, asked), wanted.seed, wanted.steps)
    optimised = unquantised(lowered, spec)
    layers = chosen(quantizable(optimised.module), asked)
    reach = _weight_reach(layers, optimised.module, weights) if asked.smooth is not None else {}

    def smoothing(path: str, channels: Array) -> Array:
        return smoothed(channels, reach[path], asked.smooth or 0.0) if path in reach else np.ones_like(channels)

    inputs: dict[str, Observed] = {}
    for name in feeds:
        inputs.update(
            observed(
                optimised.module,
                f"{name}.forward",
                weights,
                feeds[name],
                smoothing,
                spec.target.opset,
                lambda done, total, name=name: tell(done, total, f"watching the network {name}"),  # type: ignore[misc]
            )
        )
    about = {"format": FORMAT, "name": spec.name, **identity(spec, asked), "weights": weights_hash(weights)}
    found = Calibration(about, inputs, feeds, points, samples)
    check_complete(found, layers)
    return found


def check_complete(calibration: Calibration, layers: Mapping[str, Layer]) -> None:
    """DiagnosticError E0801 where layers that are to be quantised saw nothing, or nothing but zeros."""
    unseen = [path for path, layer in layers.items() if layer.group not in calibration.inputs]
    silent = [
        path
        for path, layer in layers.items()
        if layer.group in calibration.inputs and calibration.inputs[layer.group].limit == 0.0
    ]
    problems = []
    for paths, what in ((unseen, "saw no finite values"), (silent, "saw nothing but zeros")):
        if paths:
            others = f" (and {len(paths) - 1} more layers)" if len(paths) > 1 else ""
            message = f"the layer {paths[0]}{others} {what} in calibration, so its scale is unknown"
            mend = f"leave it out with `optimize.quantize.exclude: ['{paths[0].removesuffix('.weight')}']`"
            problems.append(Diagnostic("E0801", message, help=f"are the weights those of a trained model? Else {mend}"))
    if problems:
        raise DiagnosticError(*problems)


def chosen(layers: Mapping[str, Layer], asked: Quantize) -> dict[str, Layer]:
    """The layers that the spec does not exclude. DiagnosticError E0802 for a pattern that no layer has."""
    patterns = {pattern: _matching(pattern, layers) for pattern in asked.exclude}
    idle = [pattern for pattern, found in patterns.items() if not found]
    if idle:
        known = ", ".join(path.removesuffix(".weight") for path in list(layers)[:4])
        mend = f"a pattern is a path or its last parts, with * for any: `*.adaLN`; paths are such as {known}"
        raise DiagnosticError(*(Diagnostic("E0802", f"no layer is called `{p}`", help=mend) for p in idle))
    excluded = {path for found in patterns.values() for path in found}
    return {path: layer for path, layer in layers.items() if path not in excluded}


def _matching(pattern: str, layers: Mapping[str, Layer]) -> list[str]:
    from fnmatch import fnmatchcase

    def fits(path: str) -> bool:
        stem = path.removesuffix(".weight")
        own = stem.split(".", 1)[-1]  # without the network's name
        return any(fnmatchcase(name, pattern) for name in (stem, own))

    return [path for path in layers if fits(path)]


# ---- SmoothQuant


def smoothed(channels: Array, weights: Array, alpha: float) -> Array:
    """What each input channel is divided by: max|x|^alpha / max|w|^(1 - alpha), 1 for a channel without either.

    `channels`, `weights` f32[C]: the largest magnitudes. Xiao et al. 2023, arXiv:2211.10438, equation 4.
    """
    live = (channels > 1e-30) & (weights > 1e-30)
    ratio = np.where(live, channels, 1.0) ** alpha / np.where(live, weights, 1.0) ** (1.0 - alpha)
    return np.clip(np.where(live, ratio, 1.0), 1e-5, 1e5).astype(np.float32)


def layer_weight(module: Module, weights: Mapping[str, Expr]) -> Callable[[str], Array]:
    """The weight of a layer by its whole path, made where a pass has merged it of others."""
    params: dict[str, Param] = {}
    for entry, function in module.entries.items():
        params |= parameters(module, function, prefix_of(module, entry))
    return lambda path: materialise(expression(weights, path, params[path]))


def _weight_reach(layers: Mapping[str, Layer], module: Module, weights: Mapping[str, Expr]) -> dict[str, Array]:
    """{path of measured tensors: max|w| of each input channel over the linear layers that read it}, f32[C]."""
    weight, found = layer_weight(module, weights), dict[str, Array]()
    for path, layer in layers.items():
        if layer.op == "linear":
            reach = np.max(np.abs(weight(path)), axis=0)
            found[layer.group] = np.maximum(found.get(layer.group, 0.0), reach)
    return found


# ---- trajectories


def trajectories(
    lowered: Lowered, spec: Spec, weights: Mapping[str, Expr], classes: Sequence[int], seed: int, steps: int
) -> tuple[dict[str, tuple[Feed, ...]], dict[str, tuple[str, ...]], Array]:
    """What each network is given along the first sampler, for samples of `classes`, of seeds `seed` and up.

    Gives feeds of `steps` evaluations of each network, spread evenly, where each is, and the final samples.
    """
    program = lowered.programs[0]
    starts = range(0, len(classes), min(AT_ONCE, spec.target.max_batch))
    parts = [(classes[i : i + starts.step], seed + i) for i in starts]
    requests = [sampler_inputs(lowered, program, part, first) for part, first in parts]
    feeds: dict[str, tuple[Feed, ...]] = {}
    points: dict[str, tuple[str, ...]] = {}
    samples: list[Array] = []
    for name in lowered.sampled:
        network = lowered.networks[name]
        if network.discrete:
            samples, feeds[name] = _sequences(lowered, program, network, spec, weights, requests)
        else:
            samples, feeds[name] = _evaluations(lowered, program, network, spec, weights, requests, steps)
        points[name] = tuple(_point(feed) for feed in feeds[name])
    used = {name for name in feeds if feeds[name]}
    return (
        {name: feeds[name] for name in used},
        {name: points[name] for name in used},
        np.concatenate(samples),
    )


def classes_for(spec: Spec, asked: Quantize) -> list[int]:
    """The class of each calibration sample: some, spread evenly over those there are, in turn."""
    known, wanted = max(spec.data.classes, 1), asked.calibration
    picked = sorted({round(c) for c in np.linspace(0, known - 1, min(wanted.classes, known))})
    return [picked[i % len(picked)] for i in range(wanted.samples)]


def _evaluations(
    lowered: Lowered,
    program: SampleProgram,
    network: Network,
    spec: Spec,
    weights: Mapping[str, Expr],
    requests: Sequence[Feed],
    steps: int,
) -> tuple[list[Array], tuple[Feed, ...]]:
    """Final samples of each request, and evaluations of a denoiser spread evenly over the sampler's."""
    module = _sampler(lowered, spec, program)
    names = [value.name for value in lowered.module.functions[network.methods["forward"].function].inputs]
    shown, evaluations = network_inputs_shown(module, program.entry, set(network.functions), len(names))
    call = executable(shown, program.entry, weights, spec.target.opset)
    samples, found = [], []
    for request in requests:
        out, *arrays = call(request)
        samples.append(out)
        made = calls(evaluations, arrays) if evaluations else []
        for i in sorted({round(i) for i in np.linspace(0, len(made) - 1, min(steps, len(made)))}):
            found.append({n: np.ascontiguousarray(a) for n, a in zip(names, made[i], strict=True)})
    return samples, tuple(found)


def _sequences(
    lowered: Lowered,
    program: SampleProgram,
    network: Network,
    spec: Spec,
    weights: Mapping[str, Expr],
    requests: Sequence[Feed],
) -> tuple[list[Array], tuple[Feed, ...]]:
    """Sampled sequences i64[B, T] of each request, and as a forward takes them, with their class and without."""
    module = _sampler(lowered, spec, program)
    call = executable(module, program.entry, weights, spec.target.opset)
    names = [value.name for value in lowered.module.functions[network.methods["forward"].function].inputs]
    classes = next(name for name, source in program.sources.items() if isinstance(source, ConditionSource))
    samples, found = [], []
    for request in requests:
        tokens, y = call(request)[0], request[classes]
        samples.append(tokens)
        null = network.methods["forward"].input("condition").null
        both = [y] if null is None else [y, np.full_like(y, null)]
        found += [dict(zip(names, (np.ascontiguousarray(tokens[:, :-1]), kind), strict=True)) for kind in both]
    return samples, tuple(found)


def _sampler(lowered: Lowered, spec: Spec, program: SampleProgram) -> Module:
    """The sampler as engines take it, before any pass that changes what a function computes."""
    return alone(pipeline.optimised(lowered, spec, "expand_guidance").module, program.entry)


def _point(feed: Feed) -> str:
    return f"t={float(feed['t'].reshape(-1)[0]):.4g}" if "t" in feed else "sampled"


__all__ = [
    "calibrate",
    "check_complete",
    "chosen",
    "classes_for",
    "layer_weight",
    "smoothed",
    "trajectories",
    "unquantised",
]
