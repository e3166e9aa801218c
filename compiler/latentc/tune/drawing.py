"""A masked sampler's program on its engine, its tables as inputs: trying other schedules compiles nothing.

Symbols: B batch, N steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentc.components.contract import Lowered, Program
from latentc.components.samplers._masked import ListedSampler
from latentc.engines import ENGINES
from latentc.ir.core import Module, Node
from latentc.lower import lower
from latentc.measure.execute import Call, executable
from latentc.pipeline import optimised
from latentc.spec.schema import Spec
from latentc.spec.sections import Optimize
from latentc.weights import Expr, by_path
from latentc_runtime.backends import open_backend
from latentc_runtime.sources import Given, Input, input_array

Array = np.ndarray


@dataclass(frozen=True)
class Drawing:
    """The program of a sampler whose settings are listed per step. `most`: samples drawn at once; `length`: tokens."""

    lowered: Lowered
    call: Call
    inputs: tuple[Input, ...]
    length: int
    most: int

    def samples(self, sampler: ListedSampler, given: Given) -> Array:
        """Samples of a request, drawn with the numbers of another sampler of as many steps."""
        tables = tables_of(sampler, self.length)
        parts = (given.part(i, i + self.most) for i in range(0, len(given), self.most))
        fed = ({i.name: input_array(i, part) for i in self.inputs} for part in parts)
        return np.concatenate([self.call({**tables, **feed})[0] for feed in fed])


def tables_of(sampler: ListedSampler, length: int) -> dict[str, Array]:
    """The tables of a listed sampler's program by name, a row per step."""
    tables = {"count": sampler.counts(length), "sharpness": sampler.sharpness_of_steps()}
    if sampler.guidance is not None:
        tables["weight"] = sampler.guidance.weights(list(sampler.guided_progress()))
    tables |= sampler.columns(length)
    return {name: t.astype(np.int64 if name == "count" else np.float32) for name, t in tables.items()}


def open_drawing(
    spec: Spec, sampler: ListedSampler, weights: Mapping[str, Mapping[str, Expr]], device: str = "cpu"
) -> Drawing:
    """The program of `sampler`, a masked sampler of `spec` with any numbers per step, on the target's engine.

    ONNX Runtime replaces engines that run plans. Raises DiagnosticError and BundleError as compiling and opening
    engines do.
    """
    # A table of ones is left out of a program, and equal tables are merged.
    apart = 1.5 + np.arange(sampler.steps) / sampler.steps
    changed: dict[str, Any] = {"temperature": tuple(apart), "randomness": tuple(2 * apart)}
    if sampler.guidance is not None:
        changed["guidance"] = sampler.guidance.model_copy(update={"schedule": tuple(apart)})
    shown = spec.model_copy(
        update={
            "sampler": sampler.model_copy(update=changed),
            "optimize": Optimize(guidance=spec.optimize.guidance),
        }
    )
    lowered = lower(shown)
    program = lowered.programs[0]
    length = int(lowered.networks["main"].methods["forward"].input("state").type.shape[1])  # type: ignore[arg-type]
    module = _opened(lowered.module, program, tuple(tables_of(shown.sampler, length)))  # type: ignore[arg-type]
    ready = optimised(replace(lowered, module=module, programs=()), shown).module
    backend = open_backend(device, engine=ENGINES[spec.target.engine].graph_engine, precision=spec.target.precision)
    call = executable(ready, program.entry, by_path(weights), spec.target.opset, backend)
    return Drawing(lowered, call, program.inputs(lowered.module), length, max(1, spec.target.max_batch))


def _opened(module: Module, program: Program, tables: tuple[str, ...]) -> Module:
    """The module with the constants `tables` of a program's entry as further inputs."""
    fn = module.entry(program.entry)
    found: dict[str, Node] = {}
    for node in fn.nodes:
        if node.op == "constant" and node.outputs[0].name in tables:
            found[node.outputs[0].name] = node
    assert found.keys() == set(tables), f"{program.entry} has {sorted(found)}, not {sorted(tables)}"
    nodes = tuple(node for node in fn.nodes if all(node is not table for table in found.values()))
    inputs = (*fn.inputs, *(found[name].outputs[0] for name in tables))
    return replace(module, functions={**module.functions, fn.name: fn.with_(nodes=nodes, inputs=inputs)})
