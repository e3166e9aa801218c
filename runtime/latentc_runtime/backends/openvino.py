"""OpenVINO on the CPU, in float32 or, by its precision hint, in bfloat16. Values are its tensors."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import NOTHING, Array, Value, cast
from latentc_runtime.errors import BundleError

KEPT = 2
"""Shapes that an engine is kept compiled for; each holds its own copy of the weights."""

UNHELD = 3
"""References to a tensor that no one has but the list of those written: its place, the loop's, the argument's."""

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """The Backend of OpenVINO. `precision` "bf16" runs in float32 where the CPU has no bfloat16 arithmetic."""

    concurrent = False  # an engine is one inference request

    def __init__(self, device: str, threads: int | None, precision: str) -> None:
        if device not in ("auto", "cpu"):
            raise BundleError(
                "E0606", f"OpenVINO runs on the CPU here, not on {device!r}", 'use "auto" or "cpu", or ONNX Runtime'
            )
        try:
            import openvino
        except ImportError as error:
            raise BundleError(
                "E0606",
                f"OpenVINO is missing: {error}",
                'pip install "latentc[openvino]", or run the bundle with engine="onnxruntime" in float32',
            ) from None
        self.ov: Any = openvino
        self.device = "cpu"
        self.spent = 0.0
        self.core = openvino.Core()
        self.settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # Threads tied to cores: two processes of one thread each would share the first core.
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
        """BundleError E0607 for an exception of OpenVINO, with the mend its text points to."""
        text = " ".join(str(error).split())
        if any(sign in text.lower() for sign in ("bad_alloc", "failed to allocate", "out of memory")):
            mend = "there is not enough memory: give a smaller `batch`"
        else:
            mend = (
                f"OpenVINO {self.ov.__version__} is installed; compare with `versions` in manifest.json, and "
                "update it (pip install -U openvino) or compile the bundle again on this machine"
            )
        return BundleError("E0607", f"{what}: {text[:600]}", mend)


class OvEngine:
    """One model, compiled for the shapes it is run with.

    With sizes that are known its kernels are about a quarter faster than with those that a run may change, so each set
    of shapes is compiled when it first comes; those used last are kept.
    """

    def __init__(self, backend: OpenVino, name: str, model: Any) -> None:
        self.backend, self.name, self.model = backend, name, model
        # By the graph's names: compiling may add others.
        self.dtypes = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in model.inputs}
        self.outputs = {name for port in model.outputs for name in port.names}
        self.compiled: dict[tuple[tuple[int, ...], ...], _Compiled] = {}

    def run(
        self, inputs: Mapping[str, Value | Array], outputs: Sequence[str], shared: Mapping[str, str] = NOTHING
    ) -> dict[str, Value]:
        if inputs.keys() != self.dtypes.keys() or not self.outputs >= set(outputs):
            raise BundleError(
                "E0607",
                f"{self.name} takes {sorted(self.dtypes)} and gives {sorted(self.outputs)}, but the manifest has "
                f"it take {sorted(inputs)} and give {sorted(outputs)}",
                "compile the bundle again with `latentc compile`",
            )
        try:
            # The request does not hold the arrays behind its tensors: they are held here until it has run.
            arrays = {n: cast(v, self.dtypes[n], n) for n, v in inputs.items() if isinstance(v, np.ndarray)}
            tensors = {**inputs, **{name: self.backend.value(array) for name, array in arrays.items()}}
            return self._for({name: tuple(t.shape) for name, t in tensors.items()}).run(tensors, outputs)
        except (RuntimeError, ValueError) as error:
            raise self.backend.failure(f"{self.name} failed", error) from None

    def _for(self, shapes: Mapping[str, tuple[int, ...]]) -> _Compiled:
        """The model for these shapes, in the place of the one that was used last."""
        key = tuple(shapes[name] for name in self.dtypes)
        found = self.compiled.pop(key, None)
        if found is None:
            while len(self.compiled) >= KEPT:
                del self.compiled[next(iter(self.compiled))]
            model = self.model.clone()
            model.reshape({name: list(shape) for name, shape in shapes.items()})
            found = _Compiled(self.backend, self.backend.core.compile_model(model, "CPU", self.backend.settings))
        self.compiled[key] = found
        return found


class _Compiled:
    """A model compiled for one set of shapes, and the tensors that it has written."""

    def __init__(self, backend: OpenVino, compiled: Any) -> None:
        self.backend = backend
        self.request = compiled.create_infer_request()
        self.ports = {name: port for port in compiled.outputs for name in port.names}
        self.written: dict[str, list[Any]] = {}

    def run(self, tensors: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
        values = {name: self._tensor(name) for name in outputs}
        for name, value in (*tensors.items(), *values.items()):
            self.request.set_tensor(name, value)
        begin = time.perf_counter()
        self.request.infer()
        self.backend.spent += time.perf_counter() - begin
        return values

    def _tensor(self, name: str) -> Any:
        """One that nobody else holds, so that a state and the next take turns in two tensors and none is made anew."""
        kept = self.written.setdefault(name, [])
        for tensor in kept:
            if sys.getrefcount(tensor) == UNHELD:
                return tensor
        port = self.ports[name]
        made = self.backend.ov.Tensor(port.element_type, port.shape)
        kept.append(made)
        return made


@contextlib.contextmanager
def _in_one_folder(path: Path, external: Mapping[str, Path]) -> Iterator[Path]:
    """The engine file with its weight files where it says: OpenVINO reads none that lie outside of its folder.

    Those elsewhere are linked, or copied from another disk; a model that is compiled needs them no more.
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
