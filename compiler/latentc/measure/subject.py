"""A bundle opened together with its spec and weights: as the oracle, the emitted PyTorch and graphs to compile anew."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentc.checkpoint import buffer, computed
from latentc.components.contract import Lowered, Program
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.diagnostics.faults import needed
from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.export.recipes import recovered
from latentc.export.store import FOLDED
from latentc.ir.core import Param, only_entry, own_parameters, parameters
from latentc.ir.interpret import Interpreter
from latentc.ir.types import NUMPY
from latentc.lower import lower
from latentc.measure.emitted import Emitted
from latentc.measure.execute import Runner, runner
from latentc.passes.quantize.plan import LayerQuant, Quantization
from latentc.pipeline import optimised
from latentc.spec import Spec, load_spec
from latentc.weights import FOUR_BITS, Computed, Expr, Stored, dtype_name, materialise, read_safetensors, unpacked
from latentc.weights import Array as InMemory
from latentc_runtime import Pipeline, load
from latentc_runtime.backends import Backend, open_backend
from latentc_runtime.backends.tensorrt import TensorRt
from latentc_runtime.manifest import Manifest, ProgramEntry
from latentc_runtime.request import Request

Array = np.ndarray


@dataclass
class Subject:
    """A bundle, its spec, lowered, and its weights by path (`main.blocks.0.…`), those of quantised layers dequantised.

    `quantization`: the plan of a quantised bundle, with the measured tensors. `torch_device`: where the emitted PyTorch
    computes.
    """

    path: Path
    pipeline: Pipeline
    spec: Spec
    lowered: Lowered
    weights: Mapping[str, Expr]
    quantization: Quantization | None = None
    torch_device: str = "cpu"

    @functools.cached_property
    def arrays(self) -> dict[str, Array]:
        """The weights as arrays, memory-mapped if possible."""
        return {path: materialise(expr) for path, expr in self.weights.items()}

    @functools.cached_property
    def measured(self) -> dict[str, Array]:
        """`arrays`, and what was measured for the quantisation."""
        return {**self.arrays, **(self.quantization.tensors if self.quantization else {})}

    @functools.cached_property
    def oracle(self) -> Interpreter:
        """The float64 interpreter with the bundle's weights; it rounds the layers of a quantised bundle."""
        return self.oracle_with({})

    def oracle_with(self, changed: Mapping[str, Array], float_dtype: str = "f64") -> Interpreter:
        """The oracle with some of its weights changed; in "f32" it shows how much rounding matters."""
        lowered = self.lowered if self.quantization is None else self.exported
        return Interpreter(lowered.module, {**self.measured, **changed}, float_dtype)

    @functools.cached_property
    def undecoded(self) -> Subject:
        """The subject with programs that return tokens or latents, without the decoder of the data's first stage.

        The subject itself if its programs have none.
        """
        given = self.spec.data.first_stage
        if given is None or given.weights is None:
            return self
        data = self.spec.data.model_copy(update={"first_stage": given.model_copy(update={"weights": None})})
        spec = self.spec.model_copy(update={"data": data})
        return replace(self, spec=spec, lowered=lower(spec, self.pipeline.steps))

    @functools.cached_property
    def expanded(self) -> Lowered:
        """The spec after `expand_guidance`, before any pass that changes what a function computes."""
        return optimised(self.lowered, self.spec, "expand_guidance")

    @functools.cached_property
    def exported(self) -> Lowered:
        """The networks as they are deployed: after all passes of the target."""
        return optimised(self.lowered, self.spec, quantization=self.quantization)

    @functools.cached_property
    def emitted(self) -> Emitted:
        """The emitted PyTorch with the bundle's weights. DiagnosticError E0706 without torch."""
        return Emitted(self.lowered, self.spec, self.arrays, self.torch_device)

    @functools.cached_property
    def deployed(self) -> dict[str, Expr]:
        """The weights, and what was measured for the quantisation, as the graphs after all passes read them."""
        measured = self.quantization.tensors if self.quantization else {}
        return {**self.weights, **{path: InMemory(array) for path, array in measured.items()}}

    @functools.cached_property
    def backend(self) -> Backend:
        """Backend for other ONNX files: the bundle's own, or ONNX Runtime for a bundle of plans."""
        own = self.pipeline.backend
        return open_backend() if isinstance(own, TensorRt) else own

    @functools.cached_property
    def _compiled(self) -> dict[str, Runner]:
        return {}

    def compiled(self, entry: str) -> Runner:
        """A program as it is deployed, compiled anew with its loops in the graph; compiled once per entry."""
        if entry not in self._compiled:
            target = self.spec.target
            module = for_form(only_entry(self.exported.module, entry), "loop", ENGINES[target.engine])
            self._compiled[entry] = runner(module, entry, self.deployed, target.opset, self.backend)
        return self._compiled[entry]

    def program(self, entry: ProgramEntry) -> Program:
        """The program of the spec that a program of the bundle was compiled from."""
        return self.lowered.program(entry.name, entry.steps)

    def operands(self, request: Request) -> list[Array]:
        """The inputs that a request gives a program, in the order of its entry in the module."""
        given = {i.name: request.array(i) for i in request.entry.inputs}
        return [given[v.name] for v in self.lowered.module.entry(self.program(request.entry).entry).inputs]

    def run_request(self, request: Request, backend: Literal["oracle", "torch"]) -> dict[str, Array]:
        """The outputs of a request by name, all samples at once."""
        if request.rows is not None:
            return request.from_chunks(self.run_request(request.in_chunks(), backend))
        operands = self.operands(request)
        if backend == "torch":
            outs: Sequence[Array] = self.emitted.program(request.entry)(operands)
        else:
            outs = self.oracle.run(self.program(request.entry).entry, *operands)
        return {output.name: np.asarray(out) for output, out in zip(request.entry.outputs, outs, strict=True)}


def open_subject(path: str | os.PathLike[str], device: str = "cpu") -> Subject:
    """Open a bundle and lower its spec. BundleError and DiagnosticError as opening and reading raise them."""
    pipeline = load(path, device)
    folder = pipeline.bundle.folder
    spec = load_spec(folder / "spec.yaml")
    lowered = lower(spec, pipeline.steps)
    _check_programs(pipeline.manifest, lowered)
    plan = plan_of(pipeline)
    weights, tensors = weights_of(pipeline, lowered, optimised(lowered, spec, quantization=plan))
    return Subject(folder, pipeline, spec, lowered, weights, None if plan is None else Quantization(plan.plan, tensors))


def _check_programs(manifest: Manifest, lowered: Lowered) -> None:
    """DiagnosticError E0602 for a program of a manifest that the bundle's own spec does not have like that."""
    known = {(program.name, program.steps): program for program in lowered.programs}
    for entry in manifest.programs:
        program = known.get((entry.name, entry.steps))
        wanted = {} if program is None else {i.name: i.shape for i in program.inputs(lowered.module)}
        if program is None or {i.name: i.shape for i in entry.inputs} != wanted:
            what = "is not one of its spec" if program is None else "takes other inputs than that of its spec"
            message = f"the bundle's program `{entry.name}` in {entry.steps} steps {what}"
            raise DiagnosticError(Diagnostic("E0602", message, help="compile the bundle again with `latentc compile`"))


def plan_of(pipeline: Pipeline) -> Quantization | None:
    """The quantised layers of a bundle, without the measured tensors; None if it has none.

    DiagnosticError E0602 if its plan cannot be read.
    """
    section = pipeline.manifest.quantization
    if section is None:
        return None
    try:
        layers = json.loads(pipeline.bundle.path(section.plan).read_bytes())["layers"]
        return Quantization({path: LayerQuant(**how) for path, how in layers.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        mend = "compile the bundle again with `latentc compile`"
        message = f"{section.plan} is not a valid quantisation plan: {error}"
        raise DiagnosticError(Diagnostic("E0602", message, help=mend)) from None


def weights_of(pipeline: Pipeline, lowered: Lowered, final: Lowered) -> tuple[dict[str, Expr], dict[str, Array]]:
    """{path: tensor} of a bundle's programs, and the tensors measured for its quantisation.

    The former are read from its ONNX files (quantised ones dequantised); buffers that no file holds are computed, and
    weights that no output depends on, which are in no file, are zeros. `final`: `lowered` after all passes.
    DiagnosticError E0410 for a weight of the spec that no file of the bundle holds.
    """
    params: dict[str, Param] = {}
    exported: dict[str, Param] = {}
    own: dict[str, Param] = {}
    module = final.module
    for program in lowered.programs:
        params.update(parameters(lowered.module, lowered.module.entries[program.entry]))
        exported.update(parameters(module, module.entries[program.entry]))
        own.update(own_parameters(module, module.entries[program.entry]))
    folded = pipeline.bundle.folder / FOLDED
    held = recovered(exported, _initialisers(pipeline), read_safetensors(folded) if folded.is_file() else None)
    for name, param in params.items():
        if name not in held and name not in own and not computed(param):
            shape = [d for d in param.type.shape if isinstance(d, int)]
            held[name] = InMemory(np.zeros(shape, NUMPY[param.type.dtype]))
    missing = [name for name, param in params.items() if name not in held and not computed(param)]
    if missing:
        raise DiagnosticError(
            Diagnostic(
                "E0410",
                f"{len(missing)} weights of the bundle's spec are in none of its ONNX files, among them {missing[0]}",
                help="another version of latentc wrote the bundle: compile it again",
            )
        )
    measured = [name for name, param in own.items() if param.kind == "calibrated" and name in held]
    return (
        {name: held[name] if name in held else buffer(param) for name, param in params.items()},
        {name: materialise(held[name]) for name in measured},
    )


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
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(proto.data_type))
            if dtype_name(dtype) in FOUR_BITS:
                found[proto.name] = _unpacked(file, int(where["offset"]), int(where["length"]), shape, dtype)
                continue
            found[proto.name] = Stored(file, int(where["offset"]), int(where["length"]), dtype, shape)
    return found


def _unpacked(file: Path, offset: int, nbytes: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Expr:
    stored = Stored(file, offset, nbytes, np.dtype(np.uint8), (nbytes,))
    return Computed((stored,), lambda xs: unpacked(xs[0], shape, dtype), dtype, shape)
