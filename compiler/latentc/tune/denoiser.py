"""The network on its engine, and samplers run over it in numpy: trying one costs evaluations, no compilation.

Symbols: B batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from latentc.components.contract import Lowered
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
from latentc.weights import Expr, by_path
from latentc_runtime.backends import open_backend
from latentc_runtime.noise import normals
from latentc_runtime.sources import Given, Input, default_given, input_array

Array = np.ndarray
Evaluate = Callable[[Array, float, Given], Array]  # x [B, C, ...], t -> the prediction [B, C, ...]


@dataclass(frozen=True)
class Denoiser:
    """The network `main` of a spec as its sampler evaluates it, unguided and guided, on the target's engine.

    `target`: what it predicts of which process; `shape` of one sample of the state; `most`: samples run at once.
    """

    lowered: Lowered
    unguided: Evaluate
    guided: Evaluate
    guides: tuple[Guide, ...]
    target: Parameterization
    shape: tuple[int, ...]
    most: int

    def given(self, seed: int, count: int) -> Given:
        """Default conditions of `count` samples: the classes in turn; arrays and tokens follow from the seeds."""
        settings = self.lowered.programs[0].settings
        return default_given(count, seed % (1 << 64), self.lowered.conditions, settings)

    def noise(self, given: Given) -> Array:
        """The noise that a bundle starts from, f32[B, *shape]."""
        return normals(given.seeds, "x", self.shape)

    def network(self, sampler: ArraySampler, given: Given) -> Callable[[Array, float], Array]:
        """The network as `sampler` calls it, (x, t) -> the prediction without a learned variance.

        Guidance has a weight at each of the sampler's evaluations, so the calls must come in the order of one run.
        """
        every = list(map(float, sampler.table(self.target).all_progress))
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
        """The samples of a deterministic sampler, f32[B, *shape]."""
        table = sampler.table(self.target)
        return np.concatenate([run(table, self.network(sampler, p), self.noise(p)) for p in self.parts(given)])

    def parts(self, given: Given) -> list[Given]:
        """A request in batches that run at once."""
        return [given.part(i, i + self.most) for i in range(0, len(given), self.most)]


def open_denoiser(spec: Spec, weights: Mapping[str, Mapping[str, Expr]], device: str = "cpu") -> Denoiser:
    """The network of a spec with a denoising sampler, without what its `optimize` section reuses or quantises.

    ONNX Runtime replaces engines that run plans. Raises DiagnosticError and BundleError as compiling and opening
    engines do.
    """
    target, own = parameterization_of(spec.objective), spec.sampler
    assert target is not None and isinstance(own, ArraySampler)  # the caller has checked
    plain = spec.model_copy(update={"optimize": Optimize(guidance=spec.optimize.guidance)})
    lowered = lower(plain)
    mb = ModuleBuilder(lowered.module)
    network, conditions = lowered.networks["main"], own.conditions(plain, lowered.networks)
    sources = evaluation(mb, network, conditions, "evaluate")
    if guides := own.guides(mb, lowered.networks, target.process):
        sources = evaluation(mb, network, conditions, "evaluate.guided", guides)
    ready = optimised(replace(lowered, module=mb.finish(), programs=()), plain).module
    backend = open_backend(device, engine=ENGINES[spec.target.engine].graph_engine, precision=spec.target.precision)
    whole = by_path(weights)

    def compiled(entry: str) -> Evaluate:
        call = executable(ready, entry, whole, spec.target.opset, backend)
        values = [value for value in ready.entry(entry).inputs if value.name in sources]
        inputs = [Input(v.name, v.type.dtype, ("B", *v.type.shape[1:]), sources[v.name]) for v in values]  # type: ignore[arg-type]

        def evaluate(x: Array, t: float, given: Given) -> Array:
            feed = {i.name: input_array(i, given) for i in inputs}
            return call({"x": x.astype(np.float32), "t": np.full(len(x), t, np.float32), **feed})[0]

        return evaluate

    shape = tuple(int(d) for d in network.methods["forward"].input("state").type.shape[1:])  # type: ignore[arg-type]
    unguided = compiled("evaluate")
    guided = compiled("evaluate.guided") if guides else unguided
    return Denoiser(lowered, unguided, guided, tuple(guides), target, shape, max(1, spec.target.max_batch))
