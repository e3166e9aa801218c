"""The model to quantise: a lowered spec with its weights, its modules, and the layers to choose from."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from latentc import pipeline
from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.export.store import expression
from latentc.ir.core import Module, Param, parameters, source_params
from latentc.measure.calls import evenly
from latentc.measure.execute import Array, Call, executable, sampler_inputs
from latentc.passes.quantize.plan import Layer, Quantization, prefix_of, quantizable
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Array as InMemory
from latentc.weights import Expr, materialise

AT_ONCE = 16
"""Samples of one run of the sampler."""


@dataclass(frozen=True)
class Model:
    """A spec as it was lowered, and its weights by whole path (`main.blocks.0.…`)."""

    lowered: Lowered
    spec: Spec
    weights: Mapping[str, Expr]

    @property
    def settings(self) -> Quantize:
        """The section `optimize.quantize`."""
        assert self.spec.optimize.quantize is not None  # the caller has checked
        return self.spec.optimize.quantize

    def in_float32(self) -> Model:
        """The same model with layers that are not quantised in float32, so that errors are those of quantisation."""
        target = self.spec.target.model_copy(update={"precision": "fp32"})
        return replace(self, spec=self.spec.model_copy(update={"target": target}))

    def only_methods(self, entries: Sequence[str]) -> Model:
        """The same model with these methods of networks (`main.forward`) as its only entries."""
        module = self.lowered.module
        kept = {entry: module.entries[entry] for entry in entries}
        return replace(self, lowered=replace(self.lowered, module=module.with_(entries=kept), programs=()))

    @functools.cached_property
    def unquantised(self) -> Module:
        """The module as the target's pass `quantize` receives it."""
        names = [p.name for p in pipeline.PASSES[self.spec.target.engine]]
        return pipeline.optimised(self.lowered, self.spec, names[names.index("quantize") - 1]).module

    def quantised(self, quantization: Quantization | None) -> Module:
        """The module after the target's pass `quantize`, without layers of the plan that no entry reaches."""
        if quantization is not None:
            plan = {path: quant for path, quant in quantization.plan.items() if path in self.layers}
            quantization = replace(quantization, plan=plan)
        return pipeline.optimised(self.lowered, self.spec, "quantize", quantization).module

    def executable(self, module: Module, entry: str, quantization: Quantization | None = None) -> Call:
        """An entry of a module of this model, on ONNX Runtime. Raises as `measure.execute.executable`."""
        return executable(module, entry, self.with_tensors(quantization), self.spec.target.opset)

    def with_tensors(self, quantization: Quantization | None) -> dict[str, Expr]:
        """The weights and the measured tensors of a quantisation, by whole path."""
        tensors = quantization.tensors if quantization is not None else {}
        return {**self.weights, **{path: InMemory(array) for path, array in tensors.items()}}

    @functools.cached_property
    def layers(self) -> dict[str, Layer]:
        """{path of the weight: layer} of all that programs run and that can be quantised, in order.

        Methods of networks may have others, which only training runs.
        """
        return quantizable(self.unquantised, [program.entry for program in self.lowered.programs] or None)

    def sources(self, path: str) -> list[str]:
        """The weights of the networks, of rank 2 and more, that the weight of a layer is computed from, by path."""
        param = params_of(self.unquantised)[path]
        owner = path.removesuffix(param.name)  # sources are named within the module that owns the weight
        return list(dict.fromkeys(owner + own.name for own in source_params(param) if own.type.rank > 1))

    @functools.cached_property
    def chosen(self) -> dict[str, Layer]:
        """The layers that the spec does not exclude. DiagnosticError E0802 for a pattern that matches no layer."""
        patterns = {
            pattern: [path for path in self.layers if _matches(path, pattern)] for pattern in self.settings.exclude
        }
        idle = [pattern for pattern, found in patterns.items() if not found]
        if idle:
            known = ", ".join(path.removesuffix(".weight") for path in list(self.layers)[:4])
            mend = f"a pattern is a path or its last parts, with * for any text: `*.adaLN`; paths are such as {known}"
            raise DiagnosticError(*(Diagnostic("E0802", f"no layer is named `{p}`", help=mend) for p in idle))
        excluded = {path for found in patterns.values() for path in found}
        return {path: layer for path, layer in self.layers.items() if path not in excluded}

    def layer_weight(self, changed: Mapping[str, Expr] | None = None) -> Callable[[str], Array]:
        """A function that gives the weight of a layer by its whole path, also if a pass merged it from others.

        `changed`: other values of some weights.
        """
        module, weights = self.unquantised, {**self.weights, **(changed or {})}
        params = params_of(module)
        return lambda path: materialise(expression(weights, path, params[path]))

    def classes(self) -> list[int]:
        """Class label of each calibration sample: an evenly spaced subset of the classes, cycled."""
        known, wanted = max(self.spec.data.classes, 1), self.settings.calibration
        picked = evenly(known, wanted.classes)
        return [picked[i % len(picked)] for i in range(wanted.samples)]

    def requests(self, classes: Sequence[int], seed: int) -> list[dict[str, Array]]:
        """The inputs of the first program for samples of `classes`, with seeds from `seed` on, in batches."""
        program, size = self.lowered.programs[0], min(AT_ONCE, self.spec.target.max_batch)
        return [
            sampler_inputs(self.lowered, program, classes[i : i + size], seed + i) for i in range(0, len(classes), size)
        ]


def params_of(module: Module) -> dict[str, Param]:
    """{whole path: param} of all entries of a module."""
    params: dict[str, Param] = {}
    for entry, function in module.entries.items():
        params |= parameters(module, function, prefix_of(module, entry))
    return params


def _matches(path: str, pattern: str) -> bool:
    """True if a pattern fits the path of a weight, with or without the network's name."""
    whole = path.removesuffix(".weight")
    return any(fnmatchcase(name, pattern) for name in (whole, whole.split(".", 1)[-1]))
