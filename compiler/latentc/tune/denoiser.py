"""The network on its engine, and samplers run over it in numpy: trying one costs evaluations, no compilation.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from latentc.components.guidance.guidance import Guide
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.program import evaluation
from latentc.components.samplers.table import run
from latentc.engines import ENGINES
from latentc.ir.builder import ModuleBuilder
from latentc.lower import lower
from latentc.measure.execute import executable
from latentc.pipeline import optimised
from latentc.spec.schema import Spec
from latentc.spec.sections import Optimize
from latentc.weights import Expr
from latentc_runtime.backends import open_backend
from latentc_runtime.noise import normals
from latentc_runtime.sources import Condition, Given, Input, Setting, default_given, input_array

Array = np.ndarray
Evaluate = Callable[[Array, float, Given], Array]  # x [B, C, ...], t -> the prediction [B, C, ...]


@dataclass(frozen=True)
class Denoiser:
    """The network `main` of a spec as its sampler evaluates it, unguided and guided, on the target's engine.

    `target`: what it predicts of which process; `shape` of one sample of the state; `most`: samples run at once.
    """

    unguided: Evaluate
    guided: Evaluate
    guides: tuple[Guide, ...]
    target: Parameterization
    shape: tuple[int, ...]
    conditions: tuple[Condition, ...]
    settings: tuple[Setting, ...]
    most: int

    def given(self, seed: int, count: int) -> Given:
        """Usual conditions of `count` samples: labels take turns, arrays and tokens follow from the seeds."""
        return default_given(count, seed % (1 << 64), self.conditions, self.settings)

    def noise(self, given: Given) -> Array:
        """The noise that a bundle starts from, f32[B, *shape]."""
        return normals(given.seeds, "x", self.shape)

    def network(self, sampler: ArraySampler, given: Given) -> Callable[[Array, float], Array]:
        """What `sampler` evaluates at (x, t), one evaluation after the other: the prediction, guided where it guides,
        without a learned variance."""
        every = [float(p) for part in sampler.table(self.target).parts() for p in part.progress.ravel()]
        settings = [guide.setting for guide in self.guides]
        weights = iter(zip(*(term.weights(every) for _, term in sampler.terms()), strict=True))

        def evaluate(x: Array, t: float) -> Array:
            at = next(weights, ())
            if not any(at):
                return self.unguided(x, t, given)[:, : self.shape[0]]
            scales = {name: 1 + (given.settings[name] - 1) * w for name, w in zip(settings, at, strict=True)}
            guided = replace(given, settings={**given.settings, **scales})
            return self.guided(x, t, guided)[:, : self.shape[0]]

        return evaluate

    def samples(self, sampler: ArraySampler, given: Given) -> Array:
        """What a sampler without noise in its steps returns, f32[B, *shape]."""
        table = sampler.table(self.target)
        if any(part.stochastic for part in table.parts()):
            raise ValueError(f"{table.solver} takes noise in its steps")
        return np.concatenate([run(table, self.network(sampler, p), self.noise(p)) for p in self.parts(given)])

    def parts(self, given: Given) -> list[Given]:
        """A request in batches that run at once."""
        return [given.part(i, i + self.most) for i in range(0, len(given), self.most)]


def open_denoiser(spec: Spec, weights: Mapping[str, Mapping[str, Expr]], device: str = "cpu") -> Denoiser:
    """The network of a spec with a denoising sampler, without what its `optimize` section reuses or quantises.

    ONNX Runtime stands in for engines that run plans. Raises DiagnosticError and BundleError as compiling and opening
    engines do.
    """
    target, own = parameterization_of(spec.objective), spec.sampler
    assert target is not None and isinstance(own, ArraySampler)  # the caller has looked
    plain = spec.model_copy(update={"optimize": Optimize(guidance=spec.optimize.guidance)})
    lowered = lower(plain)
    mb = ModuleBuilder()
    mb.adopt(lowered.module)
    network, conditions = lowered.networks["main"], own.conditions(plain, lowered.networks)
    sources = evaluation(mb, network, conditions, "evaluate")
    if guides := own.guides(mb, lowered.networks):
        sources = evaluation(mb, network, conditions, "evaluate.guided", guides)
    module = lowered.module.with_(functions=dict(mb.functions), entries=dict(mb.entries))
    ready = optimised(replace(lowered, module=module, programs=()), plain).module
    precision, engine = spec.target.precision, ENGINES[spec.target.engine].graph_engine
    backend = open_backend(device, engine=engine, precision=precision)
    whole = {f"{name}.{path}": expr for name, tensors in weights.items() for path, expr in tensors.items()}

    def compiled(entry: str) -> Evaluate:
        call = executable(ready, entry, whole, spec.target.opset, backend)
        values = [value for value in ready.entry(entry).inputs if value.name in sources]
        inputs = [Input(v.name, v.type.dtype, ("B", *v.type.shape[1:]), sources[v.name]) for v in values]  # type: ignore[arg-type]

        def evaluate(x: Array, t: float, given: Given) -> Array:
            feed = {i.name: input_array(i, given) for i in inputs}
            return call({"x": x.astype(np.float32), "t": np.full(len(x), t, np.float32), **feed})[0]

        return evaluate

    state = network.methods["forward"].input("state")
    shape = tuple(int(d) for d in state.type.shape[1:])  # type: ignore[arg-type]
    unguided = compiled("evaluate")
    guided = compiled("evaluate.guided") if guides else unguided
    settings, most = lowered.programs[0].settings, max(1, spec.target.max_batch)
    return Denoiser(unguided, guided, tuple(guides), target, shape, lowered.conditions, settings, most)


__all__ = ["Denoiser", "open_denoiser"]
