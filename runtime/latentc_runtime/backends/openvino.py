"""OpenVINO on the CPU, in float32 or, by its precision hint, in bfloat16. Values are its tensors."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import Array, Value, cast
from latentc_runtime.errors import BundleError

HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino:
    """The Backend of OpenVINO. `precision` "bf16" runs in float32 where the CPU has no bfloat16 arithmetic."""

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
                model = self.core.read_model(str(file))
                # By the graph's names: compiling may add others.
                dtypes = {port.any_name: np.dtype(port.element_type.to_dtype()) for port in model.inputs}
                return OvEngine(self, path.name, dtypes, self.core.compile_model(model, "CPU", self.settings))
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
    """One compiled model."""

    def __init__(self, backend: OpenVino, name: str, dtypes: Mapping[str, np.dtype[Any]], compiled: Any) -> None:
        self.backend, self.name, self.dtypes, self.compiled = backend, name, dtypes, compiled
        # By output: its type, and its shape with sizes of 0 where it depends on the batch.
        self.empty = {
            name: (port.element_type, [d.get_length() if d.is_static else 0 for d in port.partial_shape])
            for port in compiled.outputs
            for name in port.names
        }

    def run(self, inputs: Mapping[str, Value | Array], outputs: Sequence[str]) -> dict[str, Value]:
        if inputs.keys() != self.dtypes.keys() or not self.empty.keys() >= set(outputs):
            raise BundleError(
                "E0607",
                f"{self.name} takes {sorted(self.dtypes)} and gives {sorted(self.empty)}, but the manifest has "
                f"it take {sorted(inputs)} and give {sorted(outputs)}",
                "compile the bundle again with `latentc compile`",
            )
        try:
            request = self.compiled.create_infer_request()
            # Into tensors of this run: those of the engine itself are written again by the next. They grow as needed.
            values = {name: self.backend.ov.Tensor(*self.empty[name]) for name in outputs}
            for name, value in values.items():
                request.set_tensor(name, value)
            # The request does not hold the arrays behind its tensors: they are held here until it has run.
            arrays = {n: cast(v, self.dtypes[n], n) for n, v in inputs.items() if isinstance(v, np.ndarray)}
            given = {**inputs, **{name: self.backend.value(array) for name, array in arrays.items()}}
            for name, value in given.items():
                request.set_tensor(name, value)
            request.infer()
            return values
        except (RuntimeError, ValueError) as error:
            raise self.backend.failure(f"{self.name} failed", error) from None


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
