"""Runs an entry of a module on an engine: a program, or a method of a network.

Symbols: B batch, N rows of a per-step input.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from latentc.checkpoint import arrays
from latentc.components.contract import Lowered, Program
from latentc.export.onnx import OPSET, flat_module, onnx_from_module
from latentc.export.store import FileTensors
from latentc.ir.core import Module, only_entry
from latentc.ir.interpret import Interpreter
from latentc.ir.verify import verify
from latentc.passes.float4 import without_float4
from latentc.weights import Expr
from latentc_runtime.backends import Backend, open_backend
from latentc_runtime.sources import default_given, input_array

Array = np.ndarray
Feed = Mapping[str, Array]
Call = Callable[[Feed], list[Array]]
Runner = Callable[[Sequence[Array]], list[Array]]


def executable(
    module: Module, entry: str, weights: Mapping[str, Expr], opset: int = OPSET, backend: Backend | None = None
) -> Call:
    """An entry at stage `expanded` as a function of its inputs by name, which returns its outputs.

    `weights` are by whole path (`main.blocks.0.…`). `backend` is by default ONNX Runtime on the CPU, or
    the interpreter in float32 if that is not installed. Raises DiagnosticError E0410 for weights that are missing,
    BundleError E0607 if the engine fails.
    """
    # A method reads its network's weights by their own paths.
    network = entry.split(".")[0] + "."
    own = {path.removeprefix(network): expr for path, expr in weights.items() if path.startswith(network)} or weights
    if backend is None and importlib.util.find_spec("onnxruntime") is None:
        return _interpreted(module, entry, own)
    if backend is None:
        backend, module = open_backend("cpu"), without_float4(module)
    flat = verify(flat_module(only_entry(module, entry), entry, opset=opset), "inlined")
    names = [f"out.{i}" for i in range(len(flat.entry(entry).outputs))]
    tensors = FileTensors(own)
    model = onnx_from_module(flat, entry, tensors, opset, names)
    with tempfile.TemporaryDirectory(prefix="latentc-") as folder:
        engine = backend.engine(*written(model, tensors, Path(folder)))

    def call(feed: Feed) -> list[Array]:
        values = engine.run({name: backend.value(array) for name, array in feed.items()}, names)
        return [np.array(backend.array(values[name])) for name in names]

    return call


def runner(
    module: Module, entry: str, weights: Mapping[str, Expr], opset: int = OPSET, backend: Backend | None = None
) -> Runner:
    """As `executable`, a function of the operands in order."""
    run, names = executable(module, entry, weights, opset, backend), [v.name for v in module.entry(entry).inputs]
    return lambda operands: run(dict(zip(names, operands, strict=True)))


def _interpreted(module: Module, entry: str, weights: Mapping[str, Expr]) -> Call:
    interpreter = Interpreter(module, arrays(weights), "f32")
    order = [value.name for value in module.entry(entry).inputs]

    return lambda feed: [np.asarray(out) for out in interpreter.run(entry, *(feed[name] for name in order))]


def written(model: object, tensors: FileTensors, folder: Path) -> tuple[Path, dict[str, Path]]:
    """A model in `folder` with its weights by reference: the file, and weight files by the name it calls them."""
    external = dict(tensors.write(folder, by_reference=True))
    if (folder / "weights").exists():
        external.update({f"weights/{path.name}": path for path in (folder / "weights").iterdir()})
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())  # type: ignore[attr-defined]
    return path, external


def sampler_inputs(lowered: Lowered, program: Program, classes: Sequence[int], seed: int) -> dict[str, Array]:
    """Inputs of a program by name, as in the runtime: sample i has seed `seed` + i, settings their defaults."""
    given = default_given(len(classes), seed, lowered.conditions, program.settings, classes)
    return {entry.name: input_array(entry, given) for entry in program.inputs(lowered.module)}
