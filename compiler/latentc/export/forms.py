"""The three forms of a sampler's loop, how `auto` chooses one, and the ops that an engine needs rewritten in each.

unroll  one engine file, the steps written out: the fewest copies, but a graph that grows with the steps
loop    one engine file with ONNX loops
host    an engine file for one step, driven by the program in the manifest: noise is drawn one step at a time
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from latentc.components.contract import Program
from latentc.engines import DEFAULT, ENGINES, Engine
from latentc.ir.core import Module, Node, parameters, walk
from latentc.passes.decompose import decompose_attention_without_kernel, decompose_in_loops, without_constant_zeros
from latentc.passes.invariants import carry_invariants

Form = Literal["unroll", "loop", "host"]


HOST_NOISE_BYTES = 64 << 20
"""If the noise of all steps at the largest batch exceeds this, the host draws it one step at a time."""


def noise_bytes(module: Module, program: Program) -> int:
    """Bytes of the per-step inputs of one sample, over all steps."""
    return sum(4 * (i.rows or 0) * math.prod(i.sample_shape) for i in program.inputs(module))


def choose_form(module: Module, program: Program, max_batch: int | None, engine: str = DEFAULT) -> tuple[Form, str]:
    """The form of a program's loop and the reason for the manifest; `module` holds only the program's functions."""
    total = noise_bytes(module, program) * (max_batch or 1)
    if total > HOST_NOISE_BYTES:
        return "host", f"the noise of {program.steps} steps at batch {max_batch or 1} is {total / 1e6:.0f} MB"
    if not any(node.op == "loop" for _, node in walk(module)):
        return "unroll", "the sampler has no loop"
    costs, count = ENGINES[engine].unrolling, program.evaluations
    if ends_early(module):
        return "loop", f"unrolled, the sampler would always run all {program.steps} steps, although it may need fewer"
    if count <= costs.evaluations:
        return "unroll", f"there are only {count} evaluations of the network"
    if costs.copies:
        weights = sum(p.type.count() for p in parameters(module, module.entries[program.entry]).values())
        held = f"each of {count} evaluations would hold its own copy of {weights / 1e6:.3g} M weights"
        return "loop", f"{costs.gain}, and {held}"
    return "loop", f"{count} evaluations are many: {costs.gain}"


def ends_early(module: Module) -> bool:
    """True if a loop may end before all its steps."""
    return any("until" in node.attrs for _, node in walk(module))


def without_early_ends(module: Module) -> Module:
    """Makes every loop run all its steps; returns the module unchanged if none may end early."""

    def whole(node: Node) -> Node:
        attrs = {name: value for name, value in node.attrs.items() if name != "until"}
        return node if len(attrs) == len(node.attrs) else replace(node, attrs=attrs)

    functions = {name: fn.with_(nodes=tuple(map(whole, fn.nodes))) for name, fn in module.functions.items()}
    return module.with_(functions=functions) if ends_early(module) else module


def for_form(module: Module, form: str, engine: Engine) -> Module:
    """Writes out what `engine` cannot run in this form of the loop; `module` is at stage `expanded`."""
    if not engine.ends_loops and form == "loop":
        module = without_early_ends(module)
    if form == "unroll" and engine.overwrites_constants:
        module = without_constant_zeros(module)
    if form == "loop" or (form == "host" and engine.inner_loops):
        depth = 1 if form == "loop" else 2
        module = decompose_in_loops(module, engine.missing_in_loops, depth)
        module = carry_invariants(module, depth) if engine.overwrites_invariants else module
    return decompose_attention_without_kernel(module) if engine.attention == "kernel" else module
