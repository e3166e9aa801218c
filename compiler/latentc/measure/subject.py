"""What is verified: a bundle, and from its spec and weights the same networks and samplers again, in three forms.

Symbols: B batch.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentc.checkpoint import buffer, computed
from latentc.components.contract import Lowered, Network, SampleProgram
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.ir.core import Param, Value, parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.measure.forward import module_from_source, needed
from latentc.spec import Spec, load_spec
from latentc.weights import Array as InMemory
from latentc.weights import Expr, Stored, materialise
from latentc_runtime import Pipeline, load
from latentc_runtime.backends import Engine
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
    folders: list[Path] = field(default_factory=list)

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
    def emitted(self) -> Emitted:
        """The emitted PyTorch with the bundle's weights. DiagnosticError E0706 without torch."""
        return Emitted(self.lowered, self.arrays)

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

    def engine(self, model: Path, external: Mapping[str, Path]) -> Engine:
        """An ONNX file on the bundle's device."""
        return self.pipeline.backend.engine(model, external)


def open_subject(path: str | os.PathLike[str], device: str = "cpu") -> Subject:
    """Open a bundle and lower its spec. BundleError and DiagnosticError as opening and reading raise them."""
    pipeline = load(path, device)
    folder = pipeline.bundle.folder
    spec = load_spec(folder / "spec.yaml")
    lowered = lower(spec, pipeline.steps)
    return Subject(folder, pipeline, spec, lowered, weights_of(pipeline, lowered))


def weights_of(pipeline: Pipeline, lowered: Lowered) -> dict[str, Expr]:
    """{path: tensor} of a bundle's samplers: what its ONNX files refer to, computed buffers where they hold none.

    DiagnosticError E0410 for a weight of the spec that no file of the bundle has.
    """
    params: dict[str, Param] = {}
    for program in lowered.programs:
        params.update(parameters(lowered.module, lowered.module.entries[program.entry]))
    held = _initialisers(pipeline)
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
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
            found[proto.name] = Stored(file, int(where["offset"]), int(where["length"]), dtype, tuple(proto.dims))
    return found


class Emitted:
    """The emitted PyTorch of a lowered spec: networks and samplers as functions of numpy arrays."""

    def __init__(self, lowered: Lowered, arrays: Mapping[str, Array]) -> None:
        self.torch: Any = needed("torch", "running the emitted PyTorch", 'pip install "latentc[torch]"')
        from latentc.emit.functions import Functions
        from latentc.emit.helpers import helper_source
        from latentc.emit.model import model_source

        self._lowered = lowered
        model = module_from_source(model_source(lowered), "model")
        self.networks: dict[str, Any] = {}
        for name in lowered.networks:
            net = getattr(model, "build" if name == "main" else f"build_{name}")().eval()
            kept = {path: arrays[f"{name}.{path}"] for path in net.state_dict()}
            # Copies: a mapped file is read-only, which torch warns about.
            net.load_state_dict({path: self.torch.from_numpy(np.array(a, np.float32)) for path, a in kept.items()})
            self.networks[name] = net
        self._functions = Functions(lowered.module)
        programs = {p.entry: self._functions.add(lowered.module.entries[p.entry]) for p in lowered.programs}
        text = "\n\n".join([_IMPORTS, helper_source(list(self._functions.helpers)), *self._functions.texts])
        self._samplers = module_from_source(text, "sample")
        self._samplers.__dict__["table"] = self._table
        self._programs = {entry: getattr(self._samplers, name) for entry, name in programs.items()}

    def forward(self, network: str) -> Callable[..., Array]:
        """A network as a function of its inputs."""
        return functools.partial(self._run, self.networks[network])

    def sampler(self, entry: str) -> Callable[..., Array]:
        """A whole sampler as a function of its inputs."""
        function = self._lowered.module.entries[entry]
        models = [self.networks[name] for name in self._functions.networks(function)]
        return functools.partial(self._run, functools.partial(self._programs[entry], *models))

    @contextlib.contextmanager
    def with_weight(self, network: str, path: str, value: Array) -> Iterator[Callable[..., Array]]:
        """The forward of a network while one of its weights is `value`."""
        weight = self.networks[network].state_dict()[path]
        kept = weight.clone()
        weight.copy_(self.torch.from_numpy(np.array(value, np.float32)))
        try:
            yield self.forward(network)
        finally:
            weight.copy_(kept)

    def inner_results(self, network: str, arrays: Sequence[Array]) -> dict[str, Array]:
        """{call path: its result} of one forward, for each submodule that gives one tensor."""
        found: dict[str, Array] = {}

        def keep(path: str) -> Callable[..., None]:
            def hook(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, self.torch.Tensor):
                    found[path] = output.numpy().copy()

            return hook

        net = self.networks[network]
        handles = [module.register_forward_hook(keep(path)) for path, module in net.named_modules() if path]
        try:
            self.forward(network)(*arrays)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def network_calls(self, network: str, entry: str, arrays: Sequence[Array]) -> list[tuple[Array, ...]]:
        """The operands of every forward of a network while a sampler runs."""
        found: list[tuple[Array, ...]] = []
        keep = self.networks[network].register_forward_pre_hook(
            lambda module, inputs: found.append(tuple(x.numpy().copy() for x in inputs))
        )
        try:
            self.sampler(entry)(*arrays)
        finally:
            keep.remove()
        return found

    def _run(self, call: Callable[..., Any], *arrays: Array) -> Array:
        with self.torch.inference_mode():
            result: Array = call(*(self.torch.from_numpy(np.array(a)) for a in arrays)).numpy()
        return result

    def _table(self, name: str, like: Any) -> Any:
        dtype = like.dtype if like.is_floating_point() else self.torch.float32
        return self.torch.from_numpy(self._functions.tables[name].astype(np.float64)).to(like.device, dtype)


_IMPORTS = """import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn"""

__all__ = ["Emitted", "Subject", "open_subject", "weights_of"]
