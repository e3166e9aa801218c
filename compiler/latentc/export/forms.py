"""The three forms of a sampler's loop, and which of them is chosen where nobody says.

unroll  one engine, the steps written out: the fewest copies, but a graph that grows with the steps
loop    one engine with ONNX loops
host    an engine for a step, driven by the program in the manifest: noise is made a step at a time
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from latentc.components.contract import SampleProgram
from latentc.ir.core import Module, walk
from latentc.ir.types import TensorType

Form = Literal["unroll", "loop", "host"]

UNROLL_EVALUATIONS = {"onnxruntime": 4, "openvino": 1, "tensorrt": 4, "tensorrt-rtx": 4}
"""Up to so many network evaluations are written out. On ONNX Runtime this is about 4 % faster and the graph still
small; OpenVINO gains nothing by it and holds a copy of the weights for each evaluation."""

HOST_NOISE_BYTES = 64 << 20
"""More noise than this, for all steps of the largest batch, is made a step at a time by the host."""


def noise_bytes(inputs: Mapping[str, TensorType], program: SampleProgram) -> int:
    """Bytes of the per-step inputs of one sample, all steps."""
    return sum(4 * inputs[name].count() for name, source in program.sources.items() if source.per_step is not None)


def choose_form(
    module: Module, program: SampleProgram, max_batch: int | None, engine: str = "onnxruntime"
) -> tuple[Form, str]:
    """The form for a program and the reason, as the manifest gives it; `module` holds the program's functions alone."""
    inputs = {v.name: v.type for v in module.entry(program.entry).inputs}
    total = noise_bytes(inputs, program) * (max_batch or 1)
    if total > HOST_NOISE_BYTES:
        return "host", f"the noise of {program.steps} steps at batch {max_batch or 1} is {total / 1e6:.0f} MB"
    if not any(node.op == "loop" for _, node in walk(module)):
        return "unroll", "the sampler has no loop"
    if program.evaluations <= UNROLL_EVALUATIONS[engine]:
        return "unroll", f"{program.evaluations} evaluations of the network are few"
    return "loop", f"one engine for {program.evaluations} evaluations, {total / 1e6:.3g} MB of noise"


__all__ = ["HOST_NOISE_BYTES", "UNROLL_EVALUATIONS", "Form", "choose_form", "noise_bytes"]
