"""What networks are given while the sampler of a spec runs in float32, from the inputs the runtime would make.

A few calls of every method of every network are kept, spread evenly over the program. A network that draws tokens one
by one is represented by its `forward` on the finished sequences: by causality its layers see the same values there.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc import pipeline
from latentc.components.contract import Lowered, Network, Program
from latentc.ir.core import only_entry
from latentc.measure.calls import Call, calls_of, operands_shown, spread
from latentc.measure.execute import Array, Feed, executable, sampler_inputs
from latentc.measure.probe import Evaluations, calls, network_inputs_shown
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Expr

AT_ONCE = 16
"""Samples of one run of the sampler."""


@dataclass(frozen=True)
class Trajectories:
    """What was recorded, by method (`main.forward`).

    `feeds`: the inputs of each call by name; `points`: where in the program each call is (`t=981`, `call 3 of 50`).
    `samples`: the first output of the program.
    """

    feeds: Mapping[str, tuple[Feed, ...]]
    points: Mapping[str, tuple[str, ...]]
    samples: Array


def recorded(
    lowered: Lowered, spec: Spec, weights: Mapping[str, Expr], classes: Sequence[int], seed: int, steps: int
) -> Trajectories:
    """Run the first program for samples of `classes`, seeds `seed` and up; keep `steps` calls of each method.

    `lowered` as the spec was lowered, `weights` by whole path (`main.blocks.0.…`). Raises as `executable`.
    """
    program = lowered.programs[0]
    module = only_entry(pipeline.optimised(lowered, spec, "expand_guidance").module, program.entry)
    networks = [lowered.networks[name] for name in lowered.sampled]
    drawing = [network for network in networks if "next_token" in network.provides]
    methods = {
        method.function: name
        for network in networks
        for name, method in network.methods.items()
        if network not in drawing or name == "prefill"
    }
    all_calls = calls_of(module, program.entry, methods)
    chosen, own = spread(all_calls, steps), len(module.entry(program.entry).outputs)
    shown, sites = module, list[Evaluations]()
    for network in drawing:
        shown, more = network_inputs_shown(shown, program.entry, {network.methods["decode"].function}, 1)
        sites += more
    run = executable(operands_shown(shown, program.entry, chosen), program.entry, weights, spec.target.opset)
    samples: list[Array] = []
    feeds: dict[str, list[Feed]] = {}
    points: dict[str, list[str]] = {}
    for request in requests(lowered, spec, program, classes, seed):
        out, *arrays = run(request)
        samples.append(out)
        tokens, operands = arrays[own - 1 : own - 1 + len(sites)], iter(arrays[own - 1 + len(sites) :])
        made: dict[str, list[tuple[Feed, str]]] = {}
        for call in chosen:
            ports = lowered.networks[call.network].methods[call.method].inputs
            feed = {port.name: next(operands) for port in ports}
            times = [feed[port.name] for port in ports if port.role == "time"]
            point = f"t={float(times[0].reshape(-1)[0]):.4g}" if times else _place(call, all_calls)
            made.setdefault(call.entry, []).append((feed, point))
        for network in drawing:
            prefills = made.pop(f"{network.name}.prefill")
            decode = network.methods["decode"].function
            decoded = [pair for pair in zip(sites, tokens, strict=True) if pair[0].function == decode]
            sequences = _sequences(network, [feed for feed, _ in prefills], decoded)
            made[f"{network.name}.forward"] = [(feed, "sampled") for feed in sequences]
        for entry, found in made.items():
            feeds.setdefault(entry, []).extend(feed for feed, _ in found)
            points.setdefault(entry, []).extend(point for _, point in found)
    return Trajectories(
        {entry: tuple(found) for entry, found in feeds.items()},
        {entry: tuple(found) for entry, found in points.items()},
        np.concatenate(samples),
    )


def requests(
    lowered: Lowered, spec: Spec, program: Program, classes: Sequence[int], seed: int
) -> list[dict[str, Array]]:
    """The inputs of a program for samples of `classes`, in batches."""
    size = min(AT_ONCE, spec.target.max_batch)
    return [sampler_inputs(lowered, program, classes[i : i + size], seed + i) for i in range(0, len(classes), size)]


def classes_for(spec: Spec, asked: Quantize) -> list[int]:
    """Class label of each calibration sample: an evenly spaced subset of the classes, cycled."""
    known, wanted = max(spec.data.classes, 1), asked.calibration
    picked = sorted({round(c) for c in np.linspace(0, known - 1, min(wanted.classes, known))})
    return [picked[i % len(picked)] for i in range(wanted.samples)]


def _place(call: Call, all_calls: Sequence[Call]) -> str:
    same = [c.path for c in all_calls if c.entry == call.entry]
    return f"call {same.index(call.path) + 1} of {len(same)}"


def _sequences(network: Network, prefills: Sequence[Feed], decoded: Sequence[tuple[Evaluations, Array]]) -> list[Feed]:
    """Finished sequences as inputs of `forward`, one feed for each call of `prefill` and each of its branches.

    `decoded`: the token operand of each call of `decode`, stacked over the loops around it. Batched guidance prefills
    2B rows, the conditional ones first, and passes every token twice; sequential guidance decodes every token twice.
    """
    first = {site.place: (site, array) for site, array in reversed(decoded)}
    order = [first[place] for place in dict.fromkeys(site.place for site, _ in decoded)]
    steps = [token for (token,) in calls([site for site, _ in order], [array for _, array in order])]
    rows = min(map(len, steps))
    tokens = np.stack([token[:rows] for token in steps], axis=1)
    return [
        {
            port.name: tokens if port.role == "state" else given[port.name][i : i + rows]
            for port in network.methods["forward"].inputs
        }
        for given in prefills
        for i in range(0, len(next(iter(given.values()))), rows)
    ]


__all__ = ["AT_ONCE", "Trajectories", "classes_for", "recorded", "requests"]
