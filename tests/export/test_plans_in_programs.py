"""Whole samplers on the TensorRT backend: device memory is the host's, and a plan is its graph run by ONNX Runtime.

Everything but the library itself is real: programs with nested state, uploads, contexts, graphs captured and replayed.
"""

from __future__ import annotations

import ctypes
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeCuda, installed
from test_bundle import CLASSES, SYSTEMS, lowered_of, make, stored_weights

import latentc_runtime
from latentc_runtime.backends.tensorrt import TensorRt
from latentc_runtime.manifest import EngineCall, Loop, Plan, Statement

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}


class Graph:
    """A plan: the ONNX file whose path it holds."""

    num_optimization_profiles = 1

    def __init__(self, cuda: FakeCuda, path: str) -> None:
        self.cuda = cuda
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.taken = {i.name: i for i in self.session.get_inputs()}
        self.given = {o.name: o for o in self.session.get_outputs()}
        self.num_io_tensors = len(self.taken) + len(self.given)
        self.runs = 0

    def get_tensor_name(self, index: int) -> str:
        return [*self.taken, *self.given][index]

    def get_tensor_dtype(self, name: str) -> Any:
        return TYPES[{**self.taken, **self.given}[name].type]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name in self.taken else "output"

    def get_tensor_profile_shape(self, name: str, number: int) -> Any:
        shape = self.taken[name].shape
        return [[n if isinstance(d, str) else d for d in shape] for n in (1, 4, 64)]

    def create_execution_context(self) -> Context:
        return Context(self)


class Context:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> None: ...

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = tuple(shape)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """By a run on zeros: the file's dims tell no sizes."""
        feed = {n: np.zeros(self.shapes[n], TYPES[i.type]) for n, i in self.graph.taken.items()}
        (out,) = self.graph.session.run([name], feed)
        return out.shape

    def execute_async_v3(self, stream: int) -> bool:
        shapes, addresses = dict(self.shapes), dict(self.addresses)

        def work() -> None:
            feed = {n: _array(addresses[n], shapes[n], TYPES[i.type]) for n, i in self.graph.taken.items()}
            for name, out in zip(self.graph.given, self.graph.session.run(None, feed), strict=True):
                _array(addresses[name], out.shape, out.dtype)[...] = out

        self.graph.runs += 1
        if self.graph.cuda.recording is not None:
            self.graph.cuda.recording.append(work)
        else:
            work()
        return True


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = installed(FakeCuda(), monkeypatch)
    fake.largest = 1 << 28
    trt: Any = types.ModuleType("tensorrt")
    trt.__version__ = "11.4.0"
    trt.Logger = type("Logger", (), {"ERROR": 1, "__init__": lambda self, level: None})
    opened = lambda self, data: Graph(fake, data.decode())  # noqa: E731
    trt.Runtime = type("Runtime", (), {"__init__": lambda self, log: None, "deserialize_cuda_engine": opened})
    trt.TensorIOMode, trt.DataType = types.SimpleNamespace(INPUT="input"), types.SimpleNamespace(BF16="bf16")
    trt.nptype = lambda kind: kind
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    return fake


def _calls(program: tuple[Statement, ...], times: int = 1) -> int:
    """Engine runs of a program."""
    return sum(times if isinstance(s, EngineCall) else _calls(s.body, times * s.trip) for s in program)


@pytest.mark.parametrize(
    ("system", "form"),
    [
        ("ddim", "host"),
        ("ddpm", "host"),
        ("dpm_solver", "host"),
        ("unipc", "host"),
        ("tokens", "host"),
        ("ddpm", "loop"),
    ],
)
def test_the_backend_gives_what_onnx_runtime_gives(cuda: FakeCuda, tmp_path: Path, system: str, form: str) -> None:
    steps = () if system == "tokens" else ("sampler.steps=12",)
    spec, lowered = lowered_of(*SYSTEMS[system], *steps)
    manifest = make(lowered, spec, stored_weights(lowered, tmp_path), tmp_path / "b", form=form, max_batch=8)
    cpu = latentc_runtime.load(tmp_path / "b", device="cpu")
    plans = []
    for name in (n for n in manifest.files if n.endswith(".onnx")):
        (tmp_path / "b" / f"{name}.plan").write_text(str(tmp_path / "b" / name))
        plans.append(Plan(name, f"{name}.plan", "tensorrt", "11.4.0", "sm89", "fp32", ((1, 4, 64),)))
    backend = TensorRt("tensorrt", plans)
    pipe = latentc_runtime.Pipeline(cpu.bundle, backend)
    for classes in (CLASSES, CLASSES[:1], *[CLASSES] * 3):
        before = cuda.launches
        want = cpu.sample(classes, seeds=5)
        got = pipe.sample(classes, seeds=5)
        if want.dtype.kind == "i":
            np.testing.assert_array_equal(got, want)
        else:
            assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    engines: list[Any] = list(pipe._engines.values())
    assert all(engine.no_graph is None for engine in engines)
    # What is asked for again and again is replayed from the first engine to the last.
    assert cuda.launches - before == _calls(pipe.program().program)
    pipe._engines.clear()
    del engines
    backend.cuda.release()
    assert not cuda.live


def test_loops_are_counted() -> None:
    call = EngineCall("engine", "a.onnx", {}, {})
    assert _calls((call, Loop("loop", 3, (call, Loop("loop", 4, (call,)))))) == 1 + 3 + 12
