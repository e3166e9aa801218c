"""OpenVINO on the CPU, in float32 or (by its precision hint) bfloat16. Values are its tensors."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import NOTHING, Array, Value, cast, check_names, engine_failure
from latentc_runtime.errors import BundleError

KEPT = 2
"""Number of shapes for which an engine stays compiled; each holds its own copy of the weights."""

UNHELD = 3
"""Reference count of a tensor that only `_Compiled.written` holds: the list, the loop variable, the argument."""

HINTS = {"fp32": "f32", "bf16": "bf16"}


@functools.cache
def core() -> Any:
    """The openvino.Core of this process, which is kept until it ends. Raises ImportError without the package.

    Its CPU plugin gives the thread that loads it a stack for signal handlers (sigaltstack). It frees that stack with
    the core, but if another core was created meanwhile, or another thread frees it, the thread keeps the address: the
    next signal that Python handles, such as Ctrl-C or the end of a child, is a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVino:
    """The Backend of OpenVINO. `precision` "bf16" runs in float32 where the CPU has no bfloat16 arithmetic."""

    concurrent = False  # each engine is one inference request
    compiles_per_batch = True

    def __init__(self, device: str, threads: int | None, precision: str) -> None:
        if device not in ("auto", "cpu"):
            raise BundleError(
                "E0606", f"OpenVINO runs on the CPU here, not on {device!r}", 'use "auto" or "cpu", or ONNX Runtime'
            )
        try:
            import openvino

            self.core = core()
        except ImportError as error:
            raise BundleError(
                "E0606",
                f"OpenVINO is missing: {error}",
                'pip install "latentc[openvino]", or run the bundle with engine="onnxruntime" in float32',
            ) from None
        self.ov: Any = openvino
        self.device = "cpu"
        self.spent = 0.0
        self.settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # Threads tied to cores: two processes with one thread each would share the first core.
            "ENABLE_CPU_PINNING": False,
            **({} if threads is None else {"INFERENCE_NUM_THREADS": threads}),
        }

    def engine(self, path: Path, external: Mapping[str, Path]) -> OvEngine:
        try:
            with _in_one_folder(path, external) as file:
                return OvEngine(self, path.name, self.core.read_model(str(file)))
        except (RuntimeError, OSError) as error:
            raise self.failure(f"{path.name} cannot be opened", error) from None

    def value(self, array: Array) -> Value:
        return self.ov.Tensor(np.require(array, requirements=["C", "W"]), shared_memory=True)

    def array(self, value: Value) -> Array:
        result: Array = value if isinstance(value, np.ndarray) else value.data
        return result

    def failure(self, what: str, error: Exception) -> BundleError:
        """BundleError E0607 for an exception of OpenVINO."""
        return engine_failure(what, error, f"OpenVINO {self.ov.__version__}", "install -U openvino")


class OvEngine:
    """One model, compiled for each set of input shapes.

    Its kernels are about a quarter faster with static shapes than with dynamic ones, so each set of shapes is compiled
    at its first use; the most recently used ones are kept.
    """

    def __init__(self, backend: OpenVino, name: str, model: Any) -> None:
        self.backend, self.name, self.model = backend, name, model
        # By the graph's names, because compiling may add others.
        self.inputs = {port.any_name for port in model.inputs}
        self.outputs = {name for port in model.outputs for name in port.names}
        self.compiled: list[_Compiled] = []
        """In order of last use."""

    def run(
        self, inputs: Mapping[str, Value | Array], outputs: Sequence[str], shared: Mapping[str, str] = NOTHING
    ) -> dict[str, Value]:
        check_names(self.name, self.inputs, self.outputs, inputs, outputs)
        try:
            return self._for(inputs).run(inputs, outputs)
        except (RuntimeError, ValueError) as error:
            raise self.backend.failure(f"{self.name} failed", error) from None

    def _for(self, inputs: Mapping[str, Value | Array]) -> _Compiled:
        """The model compiled for the shapes of these inputs; a new one replaces the least recently used."""
        place = next((i for i, compiled in enumerate(self.compiled) if compiled.fits(inputs)), None)
        if place is not None:
            found = self.compiled.pop(place)
        else:
            del self.compiled[: len(self.compiled) - KEPT + 1]
            model = self.model.clone()
            model.reshape({name: list(value.shape) for name, value in inputs.items()})
            found = _Compiled(self.backend, self.backend.core.compile_model(model, "CPU", self.backend.settings))
        self.compiled.append(found)
        return found


class _Compiled:
    """A model compiled for one set of shapes, and its tensors.

    Reading a tensor's shape and binding a tensor cost about ten microseconds each, and a step engine has dozens of
    inputs of which few change between steps. So inputs that are still bound are recognised and skipped.
    """

    def __init__(self, backend: OpenVino, compiled: Any) -> None:
        self.backend = backend
        self.request = compiled.create_infer_request()
        self.shapes = {name: tuple(port.shape) for port in compiled.inputs for name in port.names}
        self.ports = {name: port for port in (*compiled.inputs, *compiled.outputs) for name in port.names}
        # Tensors bound last; weak references, so that a tensor that only the model holds can be written again.
        self.bound: dict[str, weakref.ref[Any]] = {}
        self.places: dict[str, tuple[Any, Array]] = {}  # input tensors that arrays are copied to, and their memory
        self.written: dict[str, list[Any]] = {}

    def fits(self, inputs: Mapping[str, Value | Array]) -> bool:
        return all(self._has(name, v) or tuple(v.shape) == self.shapes[name] for name, v in inputs.items())

    def run(self, inputs: Mapping[str, Value | Array], outputs: Sequence[str]) -> dict[str, Any]:
        for name, value in inputs.items():
            self._bind(name, self._copied(name, value) if isinstance(value, np.ndarray) else value)
        values = {name: self._free(name) for name in outputs}
        for name, value in values.items():
            self._bind(name, value)
        begin = time.perf_counter()
        self.request.infer(share_outputs=True)  # avoids a copy of the returned results, which are not used
        self.backend.spent += time.perf_counter() - begin
        return values

    def _has(self, name: str, value: Any) -> bool:
        return name in self.bound and self.bound[name]() is value

    def _bind(self, name: str, tensor: Any) -> None:
        if not self._has(name, tensor):
            self.request.set_tensor(name, tensor)
            self.bound[name] = weakref.ref(tensor)

    def _copied(self, name: str, array: Array) -> Any:
        """Copies the array into this input's own tensor, which stays bound."""
        if name not in self.places:
            tensor = self._made(name)
            self.places[name] = tensor, tensor.data
        tensor, memory = self.places[name]
        np.copyto(memory, array if array.dtype.kind == memory.dtype.kind else cast(array, memory.dtype, name))
        return tensor

    def _free(self, name: str) -> Any:
        """A tensor for an output that nobody else holds: a state and its successor alternate between two tensors."""
        kept = self.written.setdefault(name, [])
        for tensor in kept:
            if sys.getrefcount(tensor) == UNHELD:
                return tensor
        kept.append(self._made(name))
        return kept[-1]

    def _made(self, name: str) -> Any:
        port = self.ports[name]
        return self.backend.ov.Tensor(port.element_type, port.shape)


@contextlib.contextmanager
def _in_one_folder(path: Path, external: Mapping[str, Path]) -> Iterator[Path]:
    """The engine file with its weight files in one folder, because OpenVINO reads no weights outside of it.

    Weights elsewhere are linked, or copied from another disk; they are not needed once the model is compiled.
    """
    if all(path.parent / name == file for name, file in external.items()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="latentc-", ignore_cleanup_errors=True) as folder:
        for name, file in {path.name: path, **external}.items():
            place = Path(folder, name)
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.resolve(), place)
            except OSError:
                shutil.copyfile(file, place)
        yield Path(folder, path.name)
