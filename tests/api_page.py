"""docs/api.md: what programs and authors of components may import, made from the code."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from latentc import api

PROMISED: dict[str, tuple[str, ...]] = {
    "latentc.components": ("Closed", "Component", "Index", "Level", "Multiplier", "OneOf", "Size", "Steps"),
    "latentc.components.backbone": ("Backbone", "add_method"),
    "latentc.components.capabilities": ("Capability", "Role"),
    "latentc.components.condition": ("Condition", "Entry", "Form", "ports_of", "with_operands"),
    "latentc.components.conditions.array": ("ArrayCondition",),
    "latentc.components.contract": ("Draw", "Method", "Need", "Network", "OutputField", "Port", "Program", "Update"),
    "latentc.components.kit": ("Conditions", "Operands", "call"),
    "latentc.components.objective": ("Objective",),
    "latentc.components.optimizer": ("Optimizer", "Unit"),
    "latentc.components.parts": ("FeedForward", "Mixer", "Part", "Problem", "Refusal", "Spec", "dense"),
    "latentc.components.processes.formulas": ("Maths",),
    "latentc.components.processes.interpolant": ("Interpolant",),
    "latentc.components.processes.prediction": ("Prediction",),
    "latentc.components.processes.process": ("Parameterization", "Process"),
    "latentc.components.sampler": ("DecodingSampler", "Sampler"),
    "latentc.components.samplers.base": ("ArraySampler",),
    "latentc.components.samplers.grid": ("evaluation",),
    "latentc.components.samplers.spacings.spacing": ("Interval",),
    "latentc.components.samplers.table": ("Body", "Step", "Table"),
    "latentc.components.sums": ("weighted_sum",),
    "latentc.ir.builder": ("BlockBody", "Builder", "ModuleBuilder", "Var", "f32", "i64", "module_class"),
    "latentc.ir.types": ("B", "TensorType"),
    "latentc_runtime.sources": ("ConditionSource", "RandomSource", "Setting", "SettingSource"),
}
"""What authors of components may import, by module."""

HEAD = """\
# API

This page is generated from the code. Its names are stable: a release that renames or removes one, or changes what its
arguments mean, keeps the old form for one more minor release, with a warning, and says so in the changelog. Arguments
may be added if they have defaults. Everything else may change in any release; so may the code of emitted projects and
the IR of a spec. The manifest of a bundle has a version of its own ([engines.md](engines.md)).

## `latentc.api`

The verbs of the command line as functions. All raise `latentc.diagnostics.DiagnosticError` for what a caller can mend.
"""

AUTHORS = """\
## For components

What a component of one's own may import ([components.md](components.md)), beside the ops of the builder
([ir.md](ir.md)). Of the base classes, the methods without a leading underscore are stable.
"""


def page() -> str:
    """The text of docs/api.md."""
    lines = [HEAD, "| function | meaning |", "|---|---|"]
    functions = {name: getattr(api, name) for name in sorted(api.__all__)}
    lines += [f"| `{n}({_arguments(f)})` | {_meaning(f)} |" for n, f in functions.items() if inspect.isfunction(f)]
    lines += ["", AUTHORS, "| module | name | meaning |", "|---|---|---|"]
    for module, names in PROMISED.items():
        for name in names:
            value = getattr(importlib.import_module(module), name)
            ours = value is not Any and (inspect.isclass(value) or inspect.isfunction(value))
            lines.append(f"| `{module}` | `{name}` | {_meaning(value) if ours else ''} |")
    return "\n".join(lines) + "\n"


def _arguments(function) -> str:
    """The names of the arguments, those with defaults in brackets."""
    parts = inspect.signature(function).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"[{p.name}]" for p in parts)


def _meaning(value) -> str:
    """The first sentence of a docstring of its own."""
    if "__doc__" not in vars(value) and inspect.isclass(value):
        return ""
    text = (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return "" if text.startswith(f"{getattr(value, '__name__', '')}(") else text
