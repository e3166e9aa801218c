"""ONNX Runtime: CPU, and the CUDA and TensorRT providers. Values are OrtValues."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import NOTHING, Array, Value, cast, check_names, engine_failure
from latentc_runtime.errors import BundleError
from latentc_runtime.hashes import cache_folder

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}
_INSTALL = {
    "cpu": 'pip install "latentc[cpu]", or "latentc[gpu]" on a machine with an NVIDIA GPU',
    "gpu": 'pip install "latentc[gpu]" in place of onnxruntime, or use device="cpu"',
}


class OnnxRuntime:
    """The Backend of ONNX Runtime."""

    concurrent = True
    compiles_per_batch = False

    def __init__(self, device: str, threads: int | None, precision: str = "fp32") -> None:
        if device not in ("auto", *PROVIDERS):
            raise BundleError("E0606", f"unknown device {device!r}", f"use auto, {', '.join(PROVIDERS)}")
        try:
            import onnxruntime
        except ImportError as error:
            raise BundleError("E0606", f"ONNX Runtime is missing: {error}", _INSTALL["cpu"]) from None
        self.ort: Any = onnxruntime
        self.threads = threads
        self.spent = 0.0
        self.asked = device
        available = onnxruntime.get_available_providers()
        if device == "auto":
            device = "cuda" if "CUDAExecutionProvider" in available else "cpu"
        if PROVIDERS[device][0] not in available:
            raise BundleError("E0606", f"this ONNX Runtime has no {PROVIDERS[device][0]}", _INSTALL["gpu"])
        self.device = device
        self.options = {
            # TF32 matmuls have a mantissa of 10 bits instead of the 23 of fp32.
            "CUDAExecutionProvider": {"use_tf32": "0"},
            "TensorrtExecutionProvider": _tensorrt_options(precision) if device == "tensorrt" else {},
        }

    def engine(self, path: Path, external: Mapping[str, Path]) -> OrtEngine:
        options = self.ort.SessionOptions()
        options.log_severity_level = 3  # errors; they arrive as exceptions as well
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        try:
            # Read through the page cache while the session is created.
            files = {name: np.memmap(file, np.uint8, "r") for name, file in external.items() if file.stat().st_size}
            if files:
                options.add_external_initializers_from_files_in_memory(
                    list(files), list(files.values()), [file.nbytes for file in files.values()]
                )
            providers = [(name, self.options.get(name, {})) for name in PROVIDERS[self.device]]
            session = self.ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise self.failure(f"{path.name} cannot be opened", error) from None
        if PROVIDERS[self.device][0] not in session.get_providers():
            # ONNX Runtime silently drops a provider if it does not find its libraries or a GPU.
            if self.asked != "auto":
                raise BundleError(
                    "E0606",
                    f"ONNX Runtime found no working GPU for device={self.device!r}",
                    'see `nvidia-smi` for the driver, or use device="cpu"',
                )
            self.device = "cpu"
        if unknown := [f"{i.name}: {i.type}" for i in session.get_inputs() if i.type not in DTYPES]:
            raise BundleError("E0607", f"{path.name} takes {', '.join(unknown)}, which numpy does not have")
        return OrtEngine(self, path.name, session)

    def value(self, array: Array) -> Value:
        return self.ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.memory, 0)

    def array(self, value: Value) -> Array:
        result: Array = value if isinstance(value, np.ndarray) else value.numpy()
        return result

    @property
    def memory(self) -> str:
        """Where values live between runs."""
        return "cpu" if self.device == "cpu" else "cuda"

    def failure(self, what: str, error: Exception) -> BundleError:
        """BundleError E0607 for an exception of ONNX Runtime."""
        return engine_failure(what, error, f"ONNX Runtime {self.ort.__version__}", "install -U")


def _tensorrt_options(precision: str) -> dict[str, str]:
    """Caches for the TensorRT provider, which builds an engine for each new session."""
    half = {"fp16": {"trt_fp16_enable": "1"}, "bf16": {"trt_bf16_enable": "1"}}.get(precision, {})
    folder = cache_folder()
    if folder is None:
        return half
    place = folder / "onnxruntime"
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
    engines = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(place)}
    timings = {"trt_timing_cache_enable": "1", "trt_timing_cache_path": str(place)}
    return {**half, **engines, **timings}


class OrtEngine:
    """One inference session."""

    def __init__(self, backend: OnnxRuntime, name: str, session: Any) -> None:
        self.backend, self.name, self.session = backend, name, session
        self.dtypes = {i.name: np.dtype(DTYPES[i.type]) for i in session.get_inputs()}
        self.outputs = {o.name for o in session.get_outputs()}

    def run(
        self, inputs: Mapping[str, Value | Array], outputs: Sequence[str], shared: Mapping[str, str] = NOTHING
    ) -> dict[str, Value]:
        check_names(self.name, self.dtypes, self.outputs, inputs, outputs)
        binding = self.session.io_binding()
        try:
            for name, value in inputs.items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, cast(value, self.dtypes[name], name))
                else:
                    binding.bind_ortvalue_input(name, value)
            for name in outputs:
                place = inputs.get(shared.get(name, ""))
                if place is not None and not isinstance(place, np.ndarray):
                    binding.bind_ortvalue_output(name, place)  # ScatterElements then writes its rows in place
                else:
                    # Bound by device, not by buffer: the engine allocates it, and it stays there for the next run.
                    binding.bind_output(name, self.backend.memory)
            begin = time.perf_counter()
            self.session.run_with_iobinding(binding)
            self.backend.spent += time.perf_counter() - begin
        except BundleError:
            raise
        except Exception as error:  # as above
            raise self.backend.failure(f"{self.name} failed", error) from None
        return dict(zip(outputs, binding.get_outputs(), strict=True))
