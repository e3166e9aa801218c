"""What is verified: a bundle, and from its spec and weights the same networks and samplers again, in three forms.

Symbols: B batch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latentc.checkpoint import buffer, computed
from latentc.components.contract import Lowered, Network, SampleProgram
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.export.recipes import recovered
from latentc.ir.core import Param, Value, parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.emitted import Emitted
from latentc.measure.forward import needed
from latentc.pipeline import optimised
from latentc.spec import Spec, load_spec
from latentc.weights import Array as InMemory
from latentc.weights import Computed, Expr, Stored, dtype_from_name, materialise, unpacked
from latentc_runtime import Pipeline, load
from latentc_runtime.backends import Backend, Engine, open_backend
from latentc_runtime.backends.tensorrt import TensorRt
from latentc_runtime.request import check_request

Array = np.ndarray


@dataclass
class Subject:
    """A bundle and what its spec and weights say it should compute; `weights` by path (`main.blocks.0.…`)."""

    path: Path
    pipeline: Pipeline
    spec: Spec
    lowered: Lowered
    weights: Mapping[str, Expr]

    @property
    def precision(self) -> str:
        """The arithmetic of the engines, a key of the tolerances."""
        return self.spec.target.precision

    @functools.cached_property
    def arrays(self) -> dict[str, Array]:
        """The weights as arrays, mapped from their files where they can be."""
        return {path: materialise(expr) for path, expr in self.weights.items()}

    @functools.cached_property
    def oracle(self) -> Interpreter:
        """The float64 interpreter with the bundle's weights."""
        return Interpreter(self.lowered.module, self.arrays)

    @functools.cached_property
    def expanded(self) -> Lowered:
        """The spec as engines take it, before any pass that changes what a function computes."""
        return optimised(self.lowered, self.spec, "expand_guidance")

    @functools.cached_property
    def emitted(self) -> Emitted:
        """The emitted PyTorch with the bundle's weights. DiagnosticError E0706 without torch."""
        return Emitted(self.lowered, self.spec, self.arrays)

    def own(self, network: Network) -> dict[str, Expr]:
        """A network's weights by its own paths."""
        prefix = f"{network.name}."
        return {path.removeprefix(prefix): expr for path, expr in self.weights.items() if path.startswith(prefix)}

    def forward_inputs(self, network: Network) -> tuple[Value, ...]:
        return self.lowered.module.functions[network.methods["forward"]].inputs

    def sampler_inputs(self, program: SampleProgram) -> tuple[Value, ...]:
        return self.lowered.module.entry(program.entry).inputs

    def request(
        self, program: SampleProgram, classes: Sequence[int], seed: int, scales: Sequence[float]
    ) -> dict[str, Array]:
        """The inputs of a whole sampler by name, noise included, as the runtime makes them for these samples."""
        entry = self.pipeline.sampler(program.steps)
        guidance = list(scales) if entry.guidance is not None else None
        request = check_request(self.pipeline.manifest, entry, classes, seed, guidance, None)
        return {i.name: request.array(i) for i in entry.inputs}

    @functools.cached_property
    def backend(self) -> Backend:
        """What runs ONNX files beside the bundle's own: its backend, or, as a plan is of one file, ONNX Runtime."""
        own = self.pipeline.backend
        return open_backend() if isinstance(own, TensorRt) else own

    def engine(self, model: Path, external: Mapping[str, Path]) -> Engine:
        """An ONNX file on the bundle's device."""
        return self.backend.engine(model, external)

    def engine_function(
        self, model: Path, external: Mapping[str, Path]
    ) -> Callable[[Mapping[str, Array]], list[Array]]:
        """An ONNX file on the bundle's device as a function: {input: array} to its outputs in their order."""
        onnx = needed("onnx", "reading a graph", "pip install latentc")
        names = [o.name for o in onnx.load(str(model), load_external_data=False).graph.output]
        backend, engine = self.backend, self.engine(model, external)

        def run(feed: Mapping[str, Array]) -> list[Array]:
            values = engine.run(feed, names)
            return [np.array(backend.array(values[name])) for name in names]

        return run


def open_subject(path: str | os.PathLike[str], device: str = "cpu") -> Subject:
    """Open a bundle and lower its spec. BundleError and DiagnosticError as opening and reading raise them."""
    pipeline = load(path, device)
    folder = pipeline.bundle.folder
    spec = load_spec(folder / "spec.yaml")
    lowered = lower(spec, pipeline.steps)
    return Subject(folder, pipeline, spec, lowered, weights_of(pipeline, spec, lowered))


def weights_of(pipeline: Pipeline, spec: Spec, lowered: Lowered) -> dict[str, Expr]:
    """{path: tensor} of a bundle's samplers: what its ONNX files refer to, computed buffers where they hold none.

    DiagnosticError E0410 for a weight of the spec that no file of the bundle has.
    """
    params: dict[str, Param] = {}
    exported: dict[str, Param] = {}
    module = optimised(lowered, spec).module
    for program in lowered.programs:
        params.update(parameters(lowered.module, lowered.module.entries[program.entry]))
        exported.update(parameters(module, module.entries[program.entry]))
    held = recovered(exported, _initialisers(pipeline))
    missing = [name for name, param in params.items() if name not in held and not computed(param)]
    if missing:
        raise DiagnosticError(
            Diagnostic(
                "E0410",
                f"{len(missing)} weights of the bundle's spec are in none of its ONNX files, among them {missing[0]}",
                help="the bundle was made by another version of latentc: compile it again",
            )
        )
    return {name: held[name] if name in held else buffer(param) for name, param in params.items()}


def _initialisers(pipeline: Pipeline) -> dict[str, Expr]:
    onnx = needed("onnx", "reading a bundle's weights", "pip install latentc")
    bundle = pipeline.bundle
    places = {name: Path(reference.location) for name, reference in bundle.manifest.references.items()}
    found: dict[str, Expr] = {}
    for name in bundle.manifest.files:
        if not name.endswith(".onnx"):
            continue
        model = onnx.load(str(bundle.path(name)), load_external_data=False)
        for proto in model.graph.initializer:
            if proto.data_location != onnx.TensorProto.EXTERNAL:
                found[proto.name] = InMemory(onnx.numpy_helper.to_array(proto))
                continue
            where = {entry.key: entry.value for entry in proto.external_data}
            file = places.get(where["location"], bundle.folder / where["location"])
            shape = tuple(proto.dims)
            if proto.data_type == onnx.TensorProto.INT4:
                found[proto.name] = _unpacked(file, int(where["offset"]), int(where["length"]), shape)
                continue
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
            found[proto.name] = Stored(file, int(where["offset"]), int(where["length"]), dtype, shape)
    return found


def _unpacked(file: Path, offset: int, nbytes: int, shape: tuple[int, ...]) -> Expr:
    stored = Stored(file, offset, nbytes, np.dtype(np.uint8), (nbytes,))
    return Computed((stored,), lambda xs: unpacked(xs[0], shape), dtype_from_name("i4"), shape)


__all__ = ["Subject", "open_subject", "weights_of"]
