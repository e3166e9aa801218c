"""What this machine has of every engine: version, devices, and the command that installs what is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from latentc.engines import ENGINES
from latentc.engines.contract import Finding, installed, package
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.errors import BundleError


def engines() -> Iterator[Finding]:
    """The GPU, then engine by engine. Raises nothing."""
    gpu, fault = _gpu()
    yield _gpu_finding(gpu, fault)
    for engine in ENGINES.values():
        yield from engine.doctor(gpu)
    command = 'pip install "latentc[tensorrt]"'
    yield package("polygraphy", "polygraphy", ("polygraphy",), "building plans of TensorRT", command)
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
