"""ONNX Runtime's GPU providers against a stand-in: what is told to them, and what moves between host and device."""

import sys
import types

import numpy as np
import pytest
import tiny_bundles as tiny

from latentc_runtime import load
from latentc_runtime.backends import open_backend
from latentc_runtime.manifest import Loop


class Gpu:
    """ONNX Runtime with a GPU that is the CPU by another name; `moved` tells what went to and from it."""

    def __init__(self, ort):
        self.ort, self.moved, self.providers = ort, [], []

    def __getattr__(self, name):
        return getattr(self.ort, name)

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):
        self.providers = providers
        real = self.ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return GpuSession(self, real, [name for name, _ in providers])

    @property
    def OrtValue(self):
        return types.SimpleNamespace(ortvalue_from_numpy=self.upload)

    def upload(self, array, device, index):
        self.moved.append(("up", device))
        return GpuValue(self, self.ort.OrtValue.ortvalue_from_numpy(array, "cpu", 0))


class GpuValue:
    def __init__(self, gpu, real):
        self.gpu, self.real = gpu, real

    def numpy(self):
        self.gpu.moved.append(("down", "cuda"))
        return self.real.numpy()


class GpuSession:
    def __init__(self, gpu, real, names):
        self.gpu, self.real, self.names = gpu, real, names

    def __getattr__(self, name):
        return getattr(self.real, name)

    def get_providers(self):
        return self.names

    def io_binding(self):
        return GpuBinding(self.gpu, self.real.io_binding())

    def run_with_iobinding(self, binding):
        self.real.run_with_iobinding(binding.real)


class GpuBinding:
    def __init__(self, gpu, real):
        self.gpu, self.real = gpu, real

    def bind_cpu_input(self, name, array):
        self.gpu.moved.append(("host", name))
        self.real.bind_cpu_input(name, array)

    def bind_ortvalue_input(self, name, value):
        self.real.bind_ortvalue_input(name, value.real)

    def bind_output(self, name, device):
        assert device == "cuda"
        self.real.bind_output(name, "cpu")

    def get_outputs(self):
        return [GpuValue(self.gpu, value) for value in self.real.get_outputs()]


@pytest.fixture
def gpu(monkeypatch):
    import onnxruntime

    monkeypatch.setitem(sys.modules, "onnxruntime", fake := Gpu(onnxruntime))
    return fake


def test_state_stays_on_the_gpu(tmp_path, gpu):
    """What a request brings goes up once; a step takes its rows from the host; the samples come down once."""
    pipe = load(tiny.host_bundle(tmp_path / "bundle"), device="cuda")
    assert gpu.providers == [("CUDAExecutionProvider", {"use_tf32": "0"}), ("CPUExecutionProvider", {})]
    np.testing.assert_allclose(pipe.sample([1, 2]), tiny.expected([1, 2], [0, 1], [4, 4]), rtol=1e-5, atol=1e-6)
    entry = pipe.program()
    (loop,) = [s for s in entry.program if isinstance(s, Loop)]
    rows = {*loop.tables, *loop.noise, loop.index}
    fed = {inner for s in loop.body for inner, variable in s.inputs.items() if variable in rows}
    assert [kind for kind, _ in gpu.moved].count("down") == 1
    assert {name for kind, name in gpu.moved if kind == "host"} <= fed
    assert [kind for kind, _ in gpu.moved].count("up") <= len(entry.inputs)


def test_the_tensorrt_provider_keeps_what_it_builds(tmp_path, monkeypatch, gpu):
    monkeypatch.setenv("LATENTC_CACHE", str(tmp_path / "cache"))
    load(tiny.host_bundle(tmp_path / "bundle"), device="tensorrt")
    options = dict(gpu.providers)["TensorrtExecutionProvider"]
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path / "cache/onnxruntime")
    assert (tmp_path / "cache/onnxruntime").is_dir() and "trt_fp16_enable" not in options
    backend = open_backend("tensorrt", precision="fp16")
    assert backend.options["TensorrtExecutionProvider"]["trt_fp16_enable"] == "1"
    monkeypatch.setenv("LATENTC_CACHE", "off")
    assert open_backend("tensorrt").options["TensorrtExecutionProvider"] == {}
