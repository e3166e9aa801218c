"""The network on its engine, and samplers run over it in numpy: trying one costs evaluations, no compilation.

Symbols: B batch.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.components.contract import Lowered
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler, parameterization_of
from latentc.components.samplers.table import run
from latentc.engines import ENGINES
from latentc.export.bundle import onnx_from_network
from latentc.spec.schema import Spec
from latentc.weights import Expr
from latentc_runtime.backends import open_backend
from latentc_runtime.manifest import RESULT
from latentc_runtime.noise import normals

Array = np.ndarray
Forward = Callable[[Array, Array, Array], Array]  # x [B, C, H, W], t [B], y [B] -> [B, C_out, H, W]


@dataclass(frozen=True)
class Denoiser:
    """The network `main` of a spec: its engine and what a sampler has to know of it.

    `target` is what it predicts of which process; `null` the class that stands for none; `most` samples run at once.
    """

    forward: Forward
    target: Parameterization
    shape: tuple[int, ...]
    classes: int
    null: int | None
    most: int

    def labels(self, count: int) -> Array:
        """Classes i64[count], taking turns."""
        return np.arange(count) % max(self.classes, 1)

    def network(self, sampler: ArraySampler, labels: Array) -> Callable[[Array, float], Array]:
        """What `sampler` evaluates at (x, t), one evaluation after the other: the prediction, guided if the sampler
        guides it, without learned variances."""
        guidance, channels = sampler.guidance, self.shape[0]
        progress = iter([float(p) for part in sampler.table(self.target).parts() for p in part.progress.ravel()])

        def evaluate(x: Array, t: float) -> Array:
            if guidance is None or not guidance.acts(next(progress)):
                return self.forward(x, np.full(len(x), t), labels)[:, :channels]
            assert self.null is not None  # the spec's rules: guidance needs it
            both = np.concatenate([labels, np.full_like(labels, self.null)])
            output = self.forward(np.concatenate([x, x]), np.full(2 * len(x), t), both)[:, :channels]
            with_class, without = np.split(output, 2)
            some = guidance.channels or channels
            mixed = without + guidance.scale * (with_class - without)
            return np.concatenate([mixed[:, :some], with_class[:, some:]], axis=1)

        return evaluate

    def noise(self, seeds: Array) -> Array:
        """The noise that a bundle starts from with these seeds, f32[B, C, H, W]."""
        return normals(seeds, "x", self.shape)

    def samples(self, sampler: ArraySampler, seeds: Array, labels: Array) -> Array:
        """What a sampler without noise in its steps makes of seeds and classes, f32[B, C, H, W]."""
        table = sampler.table(self.target)
        if any(part.stochastic for part in table.parts()):
            raise ValueError(f"{table.solver} takes noise in its steps")
        parts = []
        for start in range(0, len(seeds), self.most):
            rows = slice(start, start + self.most)
            parts.append(run(table, self.network(sampler, labels[rows]), self.noise(seeds[rows])))
        return np.concatenate(parts)


@contextlib.contextmanager
def open_denoiser(
    lowered: Lowered, spec: Spec, weights: Mapping[str, Mapping[str, Expr]], device: str = "cpu"
) -> Iterator[Denoiser]:
    """The network `main` of a spec whose passes have run, on the target's engine, for the time of a `with` block.

    ONNX Runtime stands in for engines that run plans. Raises DiagnosticError and BundleError as compiling and
    opening engines do.
    """
    target, network = parameterization_of(spec.objective), lowered.networks["main"]
    assert target is not None  # the caller has looked
    values = lowered.module.functions[network.methods["forward"].function].inputs
    names = [value.name for value in values]
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        path, external = onnx_from_network(lowered, "main", "forward", weights["main"], Path(folder), spec.target.opset)
        backend = open_backend(device, engine=ENGINES[spec.target.engine].graph_engine, precision=spec.target.precision)
        engine = backend.engine(path, external)

        def forward(x: Array, t: Array, y: Array) -> Array:
            feed = dict(zip(names, (x.astype(np.float32), t.astype(np.float32), y), strict=True))
            out = engine.run({name: backend.value(array) for name, array in feed.items()}, [RESULT])[RESULT]
            return np.array(backend.array(out))

        most = max(1, spec.target.max_batch)
        state, (condition,) = (
            network.methods["forward"].input("state"),
            network.methods["forward"].inputs_of("condition"),
        )
        classes = (condition.values or 1) - (condition.null is not None)
        shape = tuple(int(d) for d in state.type.shape[1:])  # type: ignore[arg-type]
        yield Denoiser(forward, target, shape, classes, condition.null, most)
