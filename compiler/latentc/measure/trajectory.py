"""What networks are given while a sampler runs: the inputs that forwards are compared on.

Symbols: B batch; rows: B, or 2B where guidance is batched.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from latentc.components.contract import Network, Program
from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.export.onnx import flat_module, onnx_from_module
from latentc.export.store import FileTensors
from latentc.ir.core import Module, only_entry
from latentc.ir.interpret import Interpreter
from latentc.measure.execute import written
from latentc.measure.probe import Evaluations, network_inputs_shown
from latentc.measure.subject import Subject

Array = np.ndarray
POINTS = 4  # evaluations along a trajectory
Feed = dict[str, Array]  # inputs by name
Call = tuple[Array, ...]  # the operands of one evaluation, [rows, ...] each


def shown(subject: Subject, program: Program, network: Network) -> tuple[Module, list[Evaluations]]:
    """The sampler with what it gives the network's methods as further outputs, ready for export."""
    module = only_entry(subject.expanded.module, program.entry)
    methods, operands = set(network.functions), len(subject.forward_inputs(network))
    return network_inputs_shown(module, program.entry, methods, operands)


def engine_calls(
    subject: Subject, program: Program, network: Network, inputs: Mapping[str, Array]
) -> tuple[Array, list[Call]]:
    """The samples and every evaluation's operands, by the engine: the sampler compiled again, with more outputs."""
    module, evaluations = shown(subject, program, network)
    module = for_form(module, "loop", ENGINES[subject.spec.target.engine])
    flat = flat_module(module, program.entry, opset=subject.spec.target.opset)
    names = [f"out.{i}" for i in range(1 + len(evaluations))]
    tensors = FileTensors(subject.weights)
    model = onnx_from_module(flat, program.entry, tensors, subject.spec.target.opset, names)
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        path, external = written(model, tensors, Path(folder))
        engine = subject.engine(path, external)
        values = engine.run(inputs, names)
        arrays = [np.array(subject.backend.array(values[name])) for name in names]
    return arrays[0], calls(evaluations, arrays[1:])


def oracle_calls(
    subject: Subject, program: Program, network: Network, inputs: Mapping[str, Array]
) -> tuple[Array, list[Call]]:
    """As `engine_calls`, by the float64 interpreter."""
    module, evaluations = shown(subject, program, network)
    order = [v.name for v in module.entry(program.entry).inputs]
    out, *arrays = Interpreter(module, subject.arrays).run(program.entry, *(inputs[name] for name in order))
    return out, calls(evaluations, arrays)


def calls(evaluations: Sequence[Evaluations], arrays: Sequence[Array]) -> list[Call]:
    """Added outputs of a sampler as evaluations in the order they happen."""
    found: list[Call] = []
    columns = zip(evaluations, arrays, strict=True)
    for _, column in itertools.groupby(columns, key=lambda pair: pair[0].place):
        sites: list[list[Array]] = []  # the operands of each call in this place, trips flattened
        for evaluation, array in column:
            if evaluation.part == 0:
                sites.append([])
            outer = array.shape[0] if evaluation.loops else 1
            sites[-1].append(array.reshape(outer, -1, *array.shape[evaluation.loops :]))
        for trip in range(len(sites[0][0])):
            found += [tuple(part[trip, k] for part in site) for site in sites for k in range(site[0].shape[1])]
    return found


def denoiser_feeds(names: Sequence[str], found: Sequence[Call], sizes: Sequence[int], count: int) -> list[Feed]:
    """Feeds of a denoiser, taken from POINTS evaluations along a sampler of `count` samples.

    Points and `sizes` (batches, the largest last) take turns, so that each of both is there. Where guidance is batched,
    rows with the class and rows without take turns.
    """
    chosen = sorted({round(i) for i in np.linspace(0, len(found) - 1, POINTS)})
    turns = range(max(len(chosen), len(sizes)))
    feeds = [(chosen[i % len(chosen)], sizes[i % len(sizes)]) for i in turns]
    feeds.sort(key=lambda feed: feed[1])
    rows = [np.resize(_both_branches(len(found[i][0]), count), size) for i, size in feeds]
    return [
        {name: np.ascontiguousarray(array[row]) for name, array in zip(names, found[i], strict=True)}
        for (i, _), row in zip(feeds, rows, strict=True)
    ]


def _both_branches(rows: int, count: int) -> np.ndarray:
    """Row numbers that take turns between the branches of batched guidance (conditional first), or just the rows."""
    order = np.arange(rows)
    return order.reshape(2, count).T.reshape(-1) if rows == 2 * count else order


def token_feed(network: Network, names: Sequence[str], tokens: Array, classes: Array, size: int) -> Feed:
    """Sampled sequences i64[B, T] as a forward takes them (idx, y), the last of several without its class."""
    y = classes[:size].copy()
    null = network.methods["forward"].input("condition").null
    if size > 1 and null is not None:
        y[-1] = null
    return dict(zip(names, (np.ascontiguousarray(tokens[:size, :-1]), y), strict=True))


__all__ = ["Call", "Feed", "calls", "denoiser_feeds", "engine_calls", "oracle_calls", "token_feed"]
