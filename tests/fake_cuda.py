"""The CUDA runtime as cuda-python has it, with host memory as the device's."""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Any

import pytest


class FakeCuda(types.ModuleType):
    """The calls that the backend makes of the CUDA runtime."""

    cudaDeviceAttr = types.SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeRelaxed=2)
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        super().__init__("cuda.bindings.runtime")
        self.capability, self.largest = {"major": 8, "minor": 9}, 1 << 20
        self.live: dict[int, Any] = {}
        self.versions = {"driver": 13010, "runtime": 13000}
        self.recording: list[Any] | None = None
        self.capturable = True
        self.launches = 0

    def cudaDriverGetVersion(self) -> Any:
        return 0, self.versions["driver"]

    def cudaRuntimeGetVersion(self) -> Any:
        return 0, self.versions["runtime"]

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> Any:
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> Any:
        graph, self.recording = self.recording, None
        return (0, graph) if self.capturable else (901, None)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        return 0, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> Any:
        return (0,)

    cudaGraphExecDestroy = cudaGraphDestroy

    def cudaGraphLaunch(self, graph: Any, stream: int) -> Any:
        self.launches += 1
        for work in graph:
            work()
        return (0,)

    def cudaGetDevice(self) -> Any:
        return 0, 0

    def cudaDeviceGetAttribute(self, name: str, device: int) -> Any:
        return 0, self.capability[name]

    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        return 0, 7

    def cudaMallocAsync(self, size: int, stream: int) -> Any:
        if size > self.largest:
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


def installed(fake: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """What `from cuda.bindings import runtime` gives for this test."""
    bindings: Any = types.ModuleType("cuda.bindings")
    bindings.runtime = fake
    monkeypatch.setitem(sys.modules, "cuda", types.ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake
