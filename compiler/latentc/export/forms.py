"""The three forms of a sampler's loop, and which of them is chosen where nobody says.

unroll  one engine, the steps written out: the fewest copies, but a graph that grows with the steps
loop    one engine with ONNX loops
host    an engine for a step, driven by the program in the manifest: noise is made a step at a time
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from latentc.components.contract import SampleProgram
from latentc.ir.core import Module, parameters, walk
from latentc.ir.types import TensorType

Form = Literal["unroll", "loop", "host"]


@dataclass(frozen=True)
class Costs:
    """What an engine makes of a sampler whose steps are written out, as `benchmarks/modes.py` measures it.

    `evaluations`: up to so many network evaluations are written out. `copies`: whether each holds its own copy of the
    weights. `gain`: what it is worth, in words.
    """

    evaluations: int
    copies: bool
    gain: str


COSTS = {
    "onnxruntime": Costs(4, False, "written out, a step is hardly faster and the graph grows by a network"),
    "openvino": Costs(1, True, "written out, a step is hardly faster"),
    "tensorrt": Costs(4, False, "written out, a plan takes longer to build with each"),
    "tensorrt-rtx": Costs(4, False, "written out, a plan takes longer to build with each"),
}

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
    costs, count = COSTS[engine], program.evaluations
    if count <= costs.evaluations:
        return "unroll", f"{count} evaluations of the network are few"
    if costs.copies:
        weights = sum(p.type.count() for p in parameters(module, module.entries[program.entry]).values())
        held = f"each of {count} evaluations would hold its own copy of {weights / 1e6:.3g} M weights"
        return "loop", f"{costs.gain}, and {held}"
    return "loop", f"{count} evaluations are many: {costs.gain}"


__all__ = ["COSTS", "HOST_NOISE_BYTES", "Costs", "Form", "choose_form", "noise_bytes"]
