"""The calls of networks along trajectories of a model's sampler, in float32, from the inputs the runtime would draw.

A few calls of every method of every network are kept, spread evenly over the program. Calls with caches, which draw
tokens one by one, are represented by `forward` on the finished sequences: by causality its layers see the same values.

Symbols: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentc import pipeline
from latentc.checkpoint import arrays
from latentc.components.contract import Network
from latentc.ir.core import only_entry
from latentc.measure.calls import Call, Watched, calls_of, methods_of, place_of, spread
from latentc.measure.execute import Array, Feed, runner
from latentc.quantize.model import Model


@dataclass(frozen=True)
class Trajectories:
    """Recorded calls by method (`main.forward`).

    `feeds`: the inputs of each call by name; `points`: where in the program each call is (`t=981`, `call 3 of 50`).
    `samples`: the first output of the program.
    """

    feeds: Mapping[str, tuple[Feed, ...]]
    points: Mapping[str, tuple[str, ...]]
    samples: Array


def recorded(model: Model, classes: Sequence[int], seed: int, steps: int) -> Trajectories:
    """Run the first program for samples of `classes`, with seeds from `seed` on; keep `steps` calls of each method.

    The program runs in the interpreter, its networks on ONNX Runtime. Raises as `executable`.
    """
    lowered = pipeline.optimised(model.lowered, model.spec, "expand_guidance")
    entry, methods = lowered.programs[0].entry, methods_of(lowered)
    module = only_entry(lowered.module, entry)
    every = calls_of(module, entry, methods)
    kept = {call.path for call in spread(every, steps)}
    opset = model.spec.target.opset
    engines = {c.entry: runner(lowered.module, c.entry, model.weights, opset) for c in spread(every, 1)}
    weights = arrays(model.weights)
    samples: list[Array] = []
    found: dict[str, list[tuple[Feed, str]]] = {}
    for request in model.requests(classes, seed):
        sequences: dict[str, _Sequences] = {}

        def seen(call: Call, operands: Sequence[Array]) -> None:
            network = lowered.networks[call.network]
            ports = network.methods[call.method].inputs
            inputs = lowered.module.entry(call.entry).inputs  # several ports may have the same name: `caches`
            feed = {value.name: x for value, x in zip(inputs, operands, strict=True)}
            if "next_token" in network.provides and call.method in ("prefill", "decode"):
                sequences.setdefault(call.network, _Sequences(network, [], [])).add(call.method, feed)  # noqa: B023
            elif call.path in kept:
                found.setdefault(call.entry, []).append((feed, place_of(call, every, ports, operands)))

        operands = [request[value.name] for value in module.entry(entry).inputs]
        samples.append(Watched(module, methods, weights, seen, engines, "f32").run(entry, *operands)[0])
        for name, drawn in sequences.items():
            found.setdefault(f"{name}.forward", []).extend((feed, "sampled") for feed in drawn.finished())
    return Trajectories(
        {name: tuple(feed for feed, _ in pairs) for name, pairs in found.items()},
        {name: tuple(point for _, point in pairs) for name, pairs in found.items()},
        np.concatenate(samples),
    )


@dataclass(frozen=True)
class _Sequences:
    """Recorded calls of a network that draws tokens: the inputs of each `prefill`, and the tokens of each `decode`.

    Batched guidance prefills 2B rows, the conditional ones first, and passes every token twice; sequential guidance
    prefills and decodes both branches one after the other.
    """

    network: Network
    prefills: list[Feed]
    tokens: list[Array]

    def add(self, method: str, feed: Feed) -> None:
        if method == "prefill":
            self.prefills.append(feed)
        else:
            self.tokens.append(feed[self.network.methods[method].input("token").name])

    def finished(self) -> list[Feed]:
        """Whole sequences as inputs of `forward`, one feed for each `prefill` and each of its branches."""
        steps = self.tokens[:: len(self.prefills)]
        rows = min(map(len, steps))
        tokens = np.stack([token[:rows] for token in steps], axis=1)
        return [
            {
                port.name: tokens if port.role == "state" else given[port.name][i : i + rows]
                for port in self.network.methods["forward"].inputs
            }
            for given in self.prefills
            for i in range(0, len(next(iter(given.values()))), rows)
        ]
