"""The TensorRT backend against stand-ins of the two libraries: device memory is numpy's, a plan doubles its input."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda, installed

from latentc_runtime.backends import open_backend
from latentc_runtime.backends.tensorrt import TensorRt
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Plan

PLAN = Plan("step.onnx", "step.sm89.plan", "tensorrt-rtx", "1.7.1.116", "sm89", "fp16", ((1, 2, 4), (5, 8, 16)))


class FakeContext:
    """Doubles x into y; what is recorded runs with the shapes and addresses of that moment."""

    runs = 0

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
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
        count, address = int(np.prod(self.shape)), dict(self.address)

        def work() -> None:
            x, y = (np.ctypeslib.as_array((ctypes.c_float * count).from_address(address[n])) for n in "xy")
            y[:] = 2 * x

        FakeContext.runs += 1
        if self.cuda.recording is not None:
            self.cuda.recording.append(work)
        else:
            work()
        return True


class FakeCache:
    """A runtime cache: what was given to it, and one more kernel."""

    def __init__(self) -> None:
        self.kernels = b""

    def deserialize(self, data: bytes) -> None:
        self.kernels = data

    def serialize(self) -> bytes:
        return self.kernels + b"k"


class FakeConfig:
    cuda_graph_strategy = None

    def create_runtime_cache(self) -> FakeCache:
        return FakeCache()

    def set_runtime_cache(self, cache: FakeCache) -> None:
        self.cache = cache


class FakeEngine:
    num_io_tensors, num_optimization_profiles = 2, 2

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def create_runtime_config(self) -> FakeConfig:
        return FakeConfig()

    def get_tensor_name(self, index: int) -> str:
        return "xy"[index]

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "x" else "output"

    def get_tensor_profile_shape(self, name: str, number: int) -> Any:
        return [(rows, 3) for rows in PLAN.profiles[number]]

    def create_execution_context(self, config: FakeConfig | None = None) -> FakeContext:
        self.config = config
        return FakeContext(self.cuda)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeCuda:
    fake = installed(FakeCuda(), monkeypatch)
    trt: Any = types.ModuleType("tensorrt_rtx")
    trt.__version__ = "1.7.1.116"
    trt.ComputeCapability = types.SimpleNamespace(SM89=1, SM120=2)
    trt.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole")
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    opened = lambda self, data: FakeEngine(fake) if data == b"plan" else None  # noqa: E731
    trt.Runtime = type("Runtime", (), {"__init__": lambda self, log: None, "deserialize_cuda_engine": opened})
    trt.TensorIOMode = types.SimpleNamespace(INPUT="input")
    trt.DataType = types.SimpleNamespace(BF16="bf16")
    trt.nptype = lambda kind: np.float32
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", trt)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(FakeContext, "runs", 0)
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    return fake


def engine_of(tmp_path: Path, content: bytes = b"plan", name: str = "tensorrt-rtx", **plan: Any) -> tuple[Any, Any]:
    (tmp_path / PLAN.plan).write_bytes(content)
    backend = TensorRt(name, [replace(PLAN, **plan)])
    return backend, backend.engine(tmp_path / PLAN.file, {})


def test_values_stay_on_the_device_and_their_memory_comes_back(cuda: FakeCuda, tmp_path: Path) -> None:
    backend, engine = engine_of(tmp_path)
    x = np.arange(6, dtype=np.float64).reshape(2, 3)  # cast to the input's dtype
    value = engine.run({"x": x}, ["y"])["y"]
    value = engine.run({"x": value}, ["y"])["y"]
    np.testing.assert_array_equal(backend.array(value), 4 * x)
    held = len(cuda.live)
    for _ in range(9):
        value = engine.run({"x": value}, ["y"])["y"]
    assert len(cuda.live) == held  # what was given back is used again
    del value
    backend.cuda.release()
    assert not cuda.live


@pytest.mark.parametrize("history", [1, 3])
def test_a_loop_is_captured_and_replayed(cuda: FakeCuda, tmp_path: Path, history: int) -> None:
    """Multistep solvers hold values over several steps; these are not written over."""
    backend, engine = engine_of(tmp_path, name="tensorrt")
    for start in (np.float32(1), np.float32(-3)):
        values = [backend.value(np.full((2, 3), start, np.float32))]
        for step in range(20):
            values = [*values, engine.run({"x": values[-1]}, ["y"])["y"]][-history:]
            for age, value in enumerate(reversed(values)):
                np.testing.assert_array_equal(backend.array(value), np.full((2, 3), start * 2.0 ** (step + 1 - age)))
    assert engine.no_graph is None
    assert cuda.launches >= 40 - FakeContext.runs and FakeContext.runs <= 16
    # Another batch in between does not run with the graphs of the first.
    other = engine.run({"x": np.ones((1, 3))}, ["y"])["y"]
    np.testing.assert_array_equal(backend.array(other), 2 * np.ones((1, 3)))


def test_what_cannot_be_captured_runs_as_it_is(cuda: FakeCuda, tmp_path: Path) -> None:
    cuda.capturable = False
    backend, engine = engine_of(tmp_path, name="tensorrt")
    value = backend.value(np.ones((2, 3), np.float32))
    for _ in range(20):
        value = engine.run({"x": value}, ["y"])["y"]
    np.testing.assert_array_equal(backend.array(value), np.full((2, 3), 2.0**20))
    assert engine.no_graph is not None and "cudaStreamEndCapture" in engine.no_graph
    assert cuda.launches == 0


def test_tensorrt_rtx_captures_by_itself_and_keeps_its_kernels(cuda: FakeCuda, tmp_path: Path) -> None:
    for before in (b"", b"k"):
        _, engine = engine_of(tmp_path)
        engine.run({"x": np.ones((2, 3))}, ["y"])
        assert engine.engine.config.cuda_graph_strategy == "whole" and engine.config.cache.kernels == before
        del engine
        gc.collect()
    (kept,) = (tmp_path / "cache/kernels").iterdir()
    assert kept.read_bytes() == b"kk" and kept.name.endswith("-1.7.1.116-sm89-13.1")


def test_a_plan_without_weights_is_filled(cuda: FakeCuda, tmp_path: Path) -> None:
    trt: Any = sys.modules["tensorrt"]
    filled: list[Any] = []

    class Refitter:
        def __init__(self, engine: Any, logger: Any) -> None:
            self.engine = engine

        def refit_cuda_engine(self) -> bool:
            filled.append(self.engine)
            return True

        def get_missing_weights(self) -> list[str]:
            return ["main.w"]

    class ParserRefitter:
        num_errors = 0

        def __init__(self, refitter: Refitter, logger: Any) -> None: ...

        def refit_from_file(self, path: str) -> bool:
            return Path(path).read_bytes() == b"graph"

    trt.Refitter, trt.OnnxParserRefitter = Refitter, ParserRefitter
    (tmp_path / PLAN.file).write_bytes(b"graph")
    _, engine = engine_of(tmp_path, name="tensorrt", stripped=True)
    assert filled == [engine.engine]
    (tmp_path / PLAN.file).write_bytes(b"other")
    with pytest.raises(BundleError, match=r"the weights of step.onnx cannot be put into .*: it lacks main.w"):
        engine_of(tmp_path, name="tensorrt", stripped=True)


def test_the_profile_that_takes_the_batch(cuda: FakeCuda, tmp_path: Path) -> None:
    _, engine = engine_of(tmp_path)
    engine.run({"x": np.zeros((4, 3))}, ["y"])
    engine.run({"x": np.zeros((5, 3))}, ["y"])
    assert {number: context.profile for number, context in engine.contexts.items()} == {0: 0, 1: 1}
    with pytest.raises(BundleError, match="has no profile for x"):
        engine.run({"x": np.zeros((17, 3))}, ["y"])
    with pytest.raises(BundleError, match="takes"):
        engine.run({"z": np.zeros((1, 3))}, ["y"])


MISFITS = [
    ({"capability": (12, 0)}, {}, "for sm89, but this GPU is sm120", "target.capabilities=[sm120]"),
    ({"capability": (9, 0)}, {}, "for sm89, but this GPU is sm90", "TensorRT-RTX 1.7.1.116 does not support sm90"),
    (
        {"version": "1.8.0.1"},
        {},
        "1.7.1.116, but 1.8.0.1 is installed",
        "pip install --no-build-isolation tensorrt-rtx==",
    ),
    ({"version": "2.0.0"}, {"version_compatible": True}, "2.0.0 is installed", "tensorrt-rtx==1.7.1.116"),
    ({"version": "1.7.0"}, {"version_compatible": True}, "1.7.0 is installed", "tensorrt-rtx==1.7.1.116"),
    ({}, {"driver": "13.2"}, "driver for CUDA 13.2, but this one is for 13.1", "update the NVIDIA driver"),
    ({"capability": (7, 5)}, {"hardware_compatible": True}, "this GPU is sm75", "does not support sm75"),
]


def set_machine(cuda: FakeCuda, capability: tuple[int, int] = (8, 9), version: str = "1.7.1.116") -> None:
    cuda.capability = dict(zip(("major", "minor"), capability, strict=True))
    sys.modules["tensorrt_rtx"].__version__ = version  # type: ignore[attr-defined]


@pytest.mark.parametrize(("machine", "plan", "what", "mend"), MISFITS)
def test_what_does_not_fit_this_machine_is_named(cuda: FakeCuda, machine: Any, plan: Any, what: str, mend: str) -> None:
    set_machine(cuda, **machine)
    plans = [replace(PLAN, **plan)]
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=plans)
    assert caught.value.code == "E0613" and what in caught.value.message and mend in str(caught.value.help)
    with pytest.warns(UserWarning, match="ONNX Runtime runs the bundle instead: the plans do not fit"):
        assert open_backend("auto", engine="tensorrt-rtx", plans=plans).device == "cpu"


def test_the_plan_that_fits_best_is_told_of(cuda: FakeCuda) -> None:
    set_machine(cuda, version="1.8.0.1")
    plans = [replace(PLAN, capability="sm120"), PLAN]
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=plans)
    assert (
        caught.value.message
        == "the plans do not fit: they were made by tensorrt-rtx 1.7.1.116, but 1.8.0.1 is installed"
    )


@pytest.mark.parametrize(
    ("machine", "plan"),
    [
        ({"capability": (12, 0)}, {"hardware_compatible": True}),
        ({"version": "1.8.0.1"}, {"version_compatible": True}),
        ({"version": "1.7.1.200"}, {}),
        ({}, {"driver": "13.0"}),
    ],
)
def test_promises_are_kept(cuda: FakeCuda, machine: Any, plan: Any) -> None:
    set_machine(cuda, **machine)
    assert open_backend("auto", engine="tensorrt-rtx", plans=[replace(PLAN, **plan)]).device == "tensorrt"


def test_a_driver_that_is_too_old(cuda: FakeCuda) -> None:
    cuda.versions["driver"] = 12080
    with pytest.raises(BundleError) as caught:
        open_backend("tensorrt", engine="tensorrt-rtx", plans=[PLAN])
    assert "the driver supports CUDA 12.8, but cuda-python needs 13.0" in caught.value.message
    assert "update the NVIDIA driver" in str(caught.value.help)


def test_a_plan_that_does_not_open_and_too_little_memory(cuda: FakeCuda, tmp_path: Path) -> None:
    with pytest.raises(BundleError) as caught:
        engine_of(tmp_path, b"damaged")
    assert caught.value.code == "E0607"
    backend, _ = engine_of(tmp_path)
    with pytest.raises(BundleError, match="cudaMallocAsync failed"):
        backend.value(np.zeros(1 << 19))
