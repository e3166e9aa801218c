"""Every engine as this machine has it: its version, where it runs, what it lacks and the command that mends that."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from latentc.measure.findings import Finding, installed, package
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.errors import BundleError

GPU_BUILD = 'pip uninstall -y onnxruntime && pip install "latentc[gpu]"'
# From an index whose packages are built where they are installed: their build needs what is named first.
RTX_BUILD = "pip install setuptools wheel && pip install --no-build-isolation tensorrt-rtx cuda-python polygraphy"


def engines() -> Iterator[Finding]:
    """The GPU, then engine by engine. Raises nothing."""
    gpu, fault = _gpu()
    yield _gpu_finding(gpu, fault)
    yield from _onnxruntime(gpu)
    yield from _openvino()
    yield from _tensorrt(gpu)
    yield from _tensorrt_rtx(gpu)
    use, command = "plans of TensorRT, and verify", 'pip install "latentc[verify]"'
    yield package("polygraphy", "polygraphy", ("polygraphy",), use, command)
    yield from _triton()


def _gpu() -> tuple[Cuda | None, BundleError | None]:
    try:
        return Cuda(), None
    except BundleError as error:
        return None, error


def _gpu_finding(gpu: Cuda | None, fault: BundleError | None) -> Finding:
    version = installed("cuda-python") or installed("cuda-bindings")
    name = f"cuda-python {version}" if version else "cuda-python"
    if gpu is not None:
        return Finding("cuda-python", "ok", f"{name}; GPU {gpu.capability}, driver for CUDA {gpu.driver}")
    assert fault is not None
    return Finding("cuda-python", "missing", f"for plans on a GPU: {fault.message}", fault.help or "")


def _onnxruntime(gpu: Cuda | None) -> Iterator[Finding]:
    row = package(
        "onnxruntime",
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "sample, verify, bench",
        'pip install "latentc[cpu]"',
    )
    if row.state != "ok":
        yield row
        return
    ort: Any = sys.modules["onnxruntime"]
    available = [name.removesuffix("ExecutionProvider") for name in ort.get_available_providers()]
    yield replace(row, detail=f"{row.detail}; providers {', '.join(available)}")
    for provider, libraries in (("CUDA", "CUDA and cuDNN"), ("Tensorrt", "TensorRT")):
        name = f"onnxruntime {provider}"
        if provider not in available:
            why = "this build is for CPUs" + ("" if gpu else ", and no GPU was found")
            yield Finding(name, "missing", why, f"run `{GPU_BUILD}`")
        elif not _opens(ort, f"{provider}ExecutionProvider"):
            mend = "see `nvidia-smi` for the driver and ONNX Runtime's requirements for the versions it wants"
            yield Finding(name, "missing", f"it does not find a GPU, or {libraries}", mend)
        else:
            yield Finding(name, "ok", "runs a tiny graph")


def _opens(ort: Any, provider: str) -> bool:
    """Whether a session really gets a provider that its build has."""
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "tiny", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        return (
            provider in ort.InferenceSession(model.SerializeToString(), options, providers=[provider]).get_providers()
        )
    except Exception:  # ONNX Runtime's exceptions have no base of their own
        return False


def _openvino() -> Iterator[Finding]:
    command = 'pip install "latentc[openvino]"'
    row = package("openvino", "openvino", ("openvino",), "bundles for the engine openvino", command)
    if row.state == "ok":
        with contextlib.suppress(RuntimeError):  # its plugins are files of their own
            core = sys.modules["openvino"].Core()
            bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            devices = ", ".join(core.available_devices)
            where = "computes bf16" if bf16 else "computes bf16 bundles in fp32"
            row = replace(row, detail=f"{row.detail}; devices {devices}; the CPU {where}")
    yield row


def _tensorrt(gpu: Cuda | None) -> Iterator[Finding]:
    command = 'pip install "latentc[tensorrt]"'
    row = package("tensorrt", "tensorrt", ("tensorrt",), "plans of the engine tensorrt", command)
    if row.state == "ok":
        where = f"builds and runs plans for {gpu.capability}" if gpu else "builds and runs nothing without a GPU"
        row = replace(row, detail=f"{row.detail}; {where}", state="ok" if gpu else "missing")
    yield row


def _tensorrt_rtx(gpu: Cuda | None) -> Iterator[Finding]:
    distributions = ("tensorrt-rtx",)
    row = package("tensorrt-rtx", "tensorrt_rtx", distributions, "plans of the engine tensorrt-rtx", RTX_BUILD)
    if row.state == "ok":
        trt = importlib.import_module("tensorrt_rtx")
        known = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        known.sort(key=lambda name: int(name.removeprefix("sm")))
        runs = f"runs them on this {gpu.capability}" if gpu and gpu.capability in known else "runs none here"
        row = replace(row, detail=f"{row.detail}; builds plans for {', '.join(known)}; {runs}")
    yield row


def _triton() -> Iterator[Finding]:
    command = 'pip install "tritonclient[grpc]"'
    yield package("triton client", "tritonclient.grpc", ("tritonclient",), "asking a Triton server", command)
    server = shutil.which("tritonserver")
    if server is not None:
        yield Finding("triton server", "ok", server)
        return
    docker = "" if shutil.which("docker") else "; docker is not here either"
    mend = "serve what `latentc deploy triton` writes with NVIDIA's image `tritonserver`, a version ending in -py3"
    yield Finding("triton server", "missing", f"no `tritonserver` on the path{docker}", mend)


__all__ = ["engines"]
