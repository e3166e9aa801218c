"""The TensorRT backend against stand-ins of the two libraries: device memory is numpy's, a plan doubles its input."""

from __future__ import annotations

import ctypes
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc_runtime.backends import open_backend
from latentc_runtime.backends.tensorrt import TensorRt
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Plan

PLAN = Plan("step.onnx", "step.sm89.plan", "tensorrt-rtx", "1.7.1.116", "sm89", "fp16", ((1, 2, 4), (5, 8, 16)))


class FakeCuda(types.ModuleType):
    """The calls that the backend makes of the CUDA runtime."""

    cudaDeviceAttr = types.SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability = {"major": 8, "minor": 9}
        self.live: dict[int, Any] = {}

    def cudaGetDevice(self) -> Any:
        return 0, 0

    def cudaDeviceGetAttribute(self, name: str, device: int) -> Any:
        return 0, self.capability[name]

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        return 0, 7

    def cudaMallocAsync(self, size: int, stream: int) -> Any:
        if size > 1 << 20:
            return 2, 0
        buffer = ctypes.create_string_buffer(size)
        self.live[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFreeAsync(self, pointer: int, stream: int) -> Any:
        del self.live[pointer]
        return (0,)

    def cudaMemcpyAsync(self, target: int, source: int, size: int, kind: int, stream: int) -> Any:
        ctypes.memmove(target, source, size)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> Any:
        return (0,)


class FakeContext:
    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.address: dict[str, int] = {}
        self.profile: int | None = None

    def set_optimization_profile_async(self, number: int, stream: int) -> None:
        self.profile = number

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.address[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self.shape))
        x, y = (np.ctypeslib.as_array((ctypes.c_float * count).from_address(self.address[n])) for n in "xy")
        y[:] = 2 * x
        return True


class FakeEngine:
    num_io_tensors, num_optimization_profiles = 2, 2

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "x" else "output"

    def get_tensor_profile_shape(self, name: str, number: int) -> Any:
        return [(rows, 3) for rows in PLAN.profiles[number]]

    def create_execution_context(self) -> FakeContext:
        return FakeContext()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.runtime = fake
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    trt: Any = types.ModuleType("tensorrt_rtx")
    trt.__version__ = "1.7.1.116"
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    opened = lambda self, data: FakeEngine() if data == b"plan" else None  # noqa: E731
    trt.Runtime = type("Runtime", (), {"__init__": lambda self, log: None, "deserialize_cuda_engine": opened})
    trt.TensorIOMode = types.SimpleNamespace(INPUT="input")
    trt.DataType = types.SimpleNamespace(BF16="bf16")
    trt.nptype = lambda kind: np.float32
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    return fake


def engine_of(tmp_path: Path, content: bytes = b"plan") -> tuple[TensorRt, Any]:
    (tmp_path / PLAN.plan).write_bytes(content)
    backend = TensorRt("tensorrt-rtx", [PLAN])
    return backend, backend.engine(tmp_path / PLAN.file, {})


def test_values_stay_on_the_device_and_their_memory_comes_back(cuda: FakeCuda, tmp_path: Path) -> None:
    backend, engine = engine_of(tmp_path)
    x = np.arange(6, dtype=np.float64).reshape(2, 3)  # cast to the input's dtype
    value = engine.run({"x": x}, ["y"])["y"]
    value = engine.run({"x": value}, ["y"])["y"]
    np.testing.assert_array_equal(backend.array(value), 4 * x)
    del value
    assert not cuda.live


def test_the_profile_that_takes_the_batch(cuda: FakeCuda, tmp_path: Path) -> None:
    _, engine = engine_of(tmp_path)
    engine.run({"x": np.zeros((4, 3))}, ["y"])
    engine.run({"x": np.zeros((5, 3))}, ["y"])
    assert {number: context.profile for number, context in engine.contexts.items()} == {0: 0, 1: 1}
    with pytest.raises(BundleError, match="has no profile for x"):
        engine.run({"x": np.zeros((17, 3))}, ["y"])
    with pytest.raises(BundleError, match="takes"):
        engine.run({"z": np.zeros((1, 3))}, ["y"])


def test_what_does_not_fit_this_machine_is_named(cuda: FakeCuda, tmp_path: Path) -> None:
    cuda.capability = {"major": 9, "minor": 0}
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=[PLAN])
    assert "for sm89 and this GPU is sm90" in caught.value.message
    cuda.capability = {"major": 8, "minor": 9}
    sys.modules["tensorrt_rtx"].__version__ = "1.8.0.1"  # type: ignore[attr-defined]
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=[PLAN])
    assert "1.7.1.116 and 1.8.0.1 is installed" in caught.value.message


def test_a_plan_that_does_not_open_and_too_little_memory(cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        engine_of(tmp_path, b"damaged")
    assert caught.value.code == "E0607"
    backend, _ = engine_of(tmp_path)
    with pytest.raises(BundleError, match="cudaMallocAsync failed"):
        backend.value(np.zeros(1 << 19))
