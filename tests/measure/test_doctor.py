"""The doctor names every engine, whatever is here and whatever is not."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest

from latentc.engines.contract import Finding, package
from latentc.measure import doctor as module
from latentc.measure.doctor import diagnose, engines

NAMES = {"cuda-python", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "polygraphy", "triton client"}
NAMES |= {"triton server", "onnxruntime CUDA", "onnxruntime Tensorrt"}


def found(monkeypatch: pytest.MonkeyPatch, **modules: Any) -> dict[str, Finding]:
    for name, value in modules.items():
        monkeypatch.setitem(sys.modules, name, value)
    return {finding.name: finding for finding in engines()}


def test_every_engine_is_named_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = found(monkeypatch)
    assert set(rows) == NAMES
    assert rows["onnxruntime"].state == "ok" and "CPU" in rows["onnxruntime"].detail
    assert rows["openvino"].state == "ok" and "devices CPU" in rows["openvino"].detail
    assert all(row.help for row in rows.values() if row.state != "ok" and row.name != "tensorrt")


def test_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # Submodules too: a torch built for CUDA has imported those of cuda-python.
    gone = dict.fromkeys(("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "polygraphy", "cuda", "cuda.bindings"))
    monkeypatch.setattr("latentc.engines.contract.installed", lambda name: None)
    rows = found(monkeypatch, **gone, **{"tritonclient": None, "tritonclient.grpc": None})
    assert {row.state for row in rows.values()} == {"missing"}
    commands = {
        "onnxruntime": "latentc[cpu]",
        "openvino": "latentc[openvino]",
        "tensorrt": "latentc[tensorrt]",
        "tensorrt-rtx": "--no-build-isolation",
        "polygraphy": "latentc[tensorrt]",
        "cuda-python": "latentc[tensorrt]",
        "triton client": "tritonclient[grpc]",
        "triton server": "tritonserver",
    }
    assert all(text in rows[name].help for name, text in commands.items())


def test_a_gpu_and_its_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Cuda", lambda: types.SimpleNamespace(capability="sm89", driver="13.1"))
    trt: Any = types.ModuleType("tensorrt")
    rtx: Any = types.ModuleType("tensorrt_rtx")
    rtx.ComputeCapability = types.SimpleNamespace(SM120=1, SM89=2)
    ort: Any = types.ModuleType("onnxruntime")
    ort.get_available_providers = lambda: [f"{n}ExecutionProvider" for n in ("Tensorrt", "CUDA", "CPU")]
    ort.SessionOptions = types.SimpleNamespace
    # CUDA works; what TensorRT wants is missing, and ONNX Runtime goes on without.
    ort.InferenceSession = lambda model, options, providers: types.SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider"]
    )
    rows = found(monkeypatch, tensorrt=trt, tensorrt_rtx=rtx, onnxruntime=ort)
    assert "GPU sm89, driver for CUDA 13.1" in rows["cuda-python"].detail
    assert "for sm89" in rows["tensorrt"].detail and rows["tensorrt"].state == "ok"
    assert "builds plans for sm89, sm120; runs them on this sm89" in rows["tensorrt-rtx"].detail
    assert rows["onnxruntime CUDA"].state == "ok"
    assert rows["onnxruntime Tensorrt"].state == "missing" and "TensorRT" in rows["onnxruntime Tensorrt"].detail


def test_two_of_one_module_are_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.engines.contract.installed", lambda name: "1.30")
    row = package("onnxruntime", "onnxruntime", ("onnxruntime", "onnxruntime-gpu"), "x", "y")
    assert row.state == "fault" and "one hides the other" in row.detail


def test_the_whole_report(tmp_path: Path) -> None:
    health = diagnose()
    assert health.ok and {row["name"] for row in health.data()["findings"]} >= NAMES | {"torch", "backend onnx"}
    assert all(name in health.text() for name in NAMES)
