"""Tiny systems with their linear layers quantised: plans, scales measured by the oracle, weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentc.components.contract import Lowered
from latentc.ir.core import Function, Module, Param, own_parameters
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.types import Sym
from latentc.lower import lower
from latentc.passes.quantize.forms import fits
from latentc.passes.quantize.plan import LARGEST, LayerQuant, Quantization, quantizable
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.spec.schema import Spec

Array = np.ndarray[Any, Any]
ENTRY = "main.forward"


class Watching(Interpreter):
    """An interpreter that keeps the largest magnitude of each channel (last axis) of the values `watched`."""

    def __init__(self, module: Module, params: dict[str, Array], watched: dict[tuple[str, str, str], str]) -> None:
        super().__init__(module, params)
        self.watched, self.largest = watched, dict[str, Array]()

    def call(self, fn: Function, inputs: Sequence[Array], prefix: str) -> Sequence[Array]:
        wanted = {name: group for (f, p, name), group in self.watched.items() if (f, p) == (fn.name, prefix)}
        for value, array in zip(fn.inputs, inputs, strict=True):
            self.see(wanted, value.name, array)
        kept = self.wanted if hasattr(self, "wanted") else {}
        self.wanted = wanted
        outs = super().call(fn, inputs, prefix)
        self.wanted = kept
        return outs

    def node(self, node: Any, xs: list[Array], prefix: str = "") -> Any:
        kept = self.wanted
        outs = super().node(node, xs, prefix)
        self.wanted = kept
        for value, array in zip(node.outputs, outs, strict=True):
            self.see(kept, value.name, array)
        return outs

    def see(self, wanted: dict[str, str], name: str, array: Array) -> None:
        if name in wanted:
            most = np.abs(array).max(tuple(range(array.ndim - 1)))
            self.largest[wanted[name]] = np.maximum(self.largest.get(wanted[name], 0.0), most)


def _value(param: Param, rng: np.random.Generator) -> Array:
    shape = tuple(int(d) for d in param.type.shape)  # type: ignore[arg-type]
    noise = 0.1 * rng.standard_normal(shape) if param.kind == "weight" else 0.0
    return np.asarray(INITS[param.init.kind](rng, shape, **param.init.args) + noise)


@dataclass(frozen=True)
class System:
    """A tiny system before and after the pass, with everything both need."""

    spec: Spec
    lowered: Lowered
    before: Module
    after: Module
    quantization: Quantization
    weights: dict[str, Array]
    inputs: list[Array]

    def error(self, module: Module | None = None, weights: dict[str, Array] | None = None) -> float:
        """Largest error of the quantised network relative to the largest output of the other."""
        (want, *_), (got, *_) = (
            Interpreter(m, w).run(ENTRY, *self.inputs, prefix="main")
            for m, w in ((self.before, self.weights), (module or self.after, weights or self.weights))
        )
        return float(np.abs(got - want).max() / np.abs(want).max())


def system(
    name: str,
    engine: str,
    scheme: Any,
    smooth: bool = False,
    overrides: tuple[str, ...] = (),
    only: str = "",
    narrow: bool = False,
) -> System:
    """A shipped spec at depth 2 and its layers that fit, quantised; of those with `only` in their path."""
    target = [f"target.engine={engine}", f"target.precision={'fp16' if engine.startswith('tensorrt') else 'fp32'}"]
    spec = load_spec(name, None, ["backbone.depth=2", *target, *overrides])
    lowered = lower(spec)
    before = optimised(lowered, spec, "tidy").module
    layers = {p: x for p, x in quantizable(before).items() if fits(x, scheme, engine) and only in p}
    plan = {path: LayerQuant(scheme, smooth, narrow) for path in layers}
    after = optimised(lowered, spec, "quantize", Quantization(plan)).module
    fn = before.entry(ENTRY)
    rng = np.random.default_rng(1)
    weights = {f"main.{p}": _value(param, rng) for p, param in own_parameters(before, fn.name).items()}
    shapes = [[3 * d.factor if isinstance(d, Sym) else int(d) for d in v.type.shape] for v in fn.inputs]
    inputs = [
        rng.standard_normal(s) if v.type.is_float else rng.integers(0, 9, s)
        for v, s in zip(fn.inputs, shapes, strict=True)
    ]
    watched = {(s.function, s.prefix, s.value.name): x.group for x in layers.values() for s in x.sites}
    watch = Watching(before, weights, watched)
    watch.run(ENTRY, *inputs, prefix="main")
    tensors: dict[str, Array] = {}
    for path in own_parameters(after, after.entries[ENTRY]):
        group, _, part = f"main.{path}".rpartition(".")
        if part == "smooth":
            tensors[f"main.{path}"] = np.exp(rng.normal(0, 0.5, watch.largest[group].shape)).astype(np.float32)
    for path in own_parameters(after, after.entries[ENTRY]):
        group, _, part = f"main.{path}".rpartition(".")
        if part == "input_scale":
            divisor = tensors.get(f"{group}.smooth", np.ones(()))
            tensors[f"main.{path}"] = np.float32((watch.largest[group] / divisor).max() / LARGEST[scheme])
    return System(spec, lowered, before, after, Quantization(plan, tensors), {**weights, **tensors}, inputs)
