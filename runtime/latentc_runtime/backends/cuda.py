"""Device memory, graphs and the single stream that everything runs on, through cuda-python."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from latentc_runtime.backends import Array
from latentc_runtime.errors import BundleError

_INSTALL = 'pip install "latentc[tensorrt]" or "latentc[tensorrt-rtx]"; `nvidia-smi` shows the driver'
_UPDATE = "update the NVIDIA driver (`nvidia-smi` shows it), or install packages for its CUDA version"


class Cuda:
    """The current GPU; `driver` is the version of CUDA ("13.0") of its driver. BundleError E0606 if none works."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BundleError("E0606", f"cuda-python is missing: {error}", _INSTALL) from None
        self.api: Any = runtime
        self.free: dict[int, list[int]] = {}  # {size in bytes: heap of free addresses}
        try:
            self.driver, wanted = (_release(self.call(f"cuda{x}GetVersion")) for x in ("Driver", "Runtime"))
            if self.driver != "0.0" and _major(self.driver) < _major(wanted):
                message = f"the driver supports CUDA {self.driver}, but cuda-python needs {wanted}"
                raise BundleError("E0606", message, _UPDATE)
            self.index = int(self.call("cudaGetDevice"))
            attribute = runtime.cudaDeviceAttr
            major = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, self.index)
            minor = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, self.index)
            self.capability = f"sm{major}{minor}"
            self.stream = self.call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        except BundleError as error:
            raise BundleError("E0606", f"no working GPU: {error.message}", error.help or _INSTALL) from None

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the CUDA runtime; returns its result without the status. Raises BundleError E0607."""
        try:
            status, *results = getattr(self.api, name)(*arguments)
        except Exception as error:  # cuda-python raises if it does not find the driver's library
            raise BundleError("E0607", f"{name}: {error}") from None
        if int(status) != 0:
            text = getattr(status, "name", str(status))
            mends = {
                "MemoryAllocation": "there is not enough memory: give a smaller `batch`",
                "InsufficientDriver": _UPDATE,
            }
            raise BundleError("E0607", f"{name} failed: {text}", next((m for k, m in mends.items() if k in text), None))
        return results[0] if results else None

    def allocate(self, size: int) -> int:
        """`size` bytes of memory, the lowest free address if there is one.

        One stream orders everything, so freed memory can be reused at once. Because the lowest address does not depend
        on the order of the frees, a loop soon gets the same addresses again, for which graphs are captured.
        """
        if held := self.free.get(size):
            return heapq.heappop(held)
        try:
            return int(self.call("cudaMallocAsync", size, self.stream))
        except BundleError:
            if not self.free:
                raise
            self.release()
            return int(self.call("cudaMallocAsync", size, self.stream))

    def release(self) -> None:
        """Returns unused memory to the device."""
        for pointer in (p for held in self.free.values() for p in held):
            self.api.cudaFreeAsync(pointer, self.stream)
        self.free.clear()

    def __del__(self) -> None:
        if hasattr(self, "stream"):
            with contextlib.suppress(Exception):  # at exit the driver may already be gone
                self.release()

    def upload(self, array: Array) -> DeviceArray:
        """A copy of an array on the device."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        made = DeviceArray(self, array.shape, array.dtype, array.itemsize)
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        # Memory that is not pinned is staged before the call returns, so `array` may be freed.
        self.call("cudaMemcpyAsync", made.pointer, array.ctypes.data, made.bytes, kind, self.stream)
        return made

    def download(self, value: DeviceArray) -> Array:
        """A copy of a device array, after everything before it has run."""
        if value.dtype is None:
            raise BundleError("E0607", "the value is bf16, which numpy does not have")
        result: Array = np.empty(value.shape, value.dtype)
        kind = self.api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", result.ctypes.data, value.pointer, value.bytes, kind, self.stream)
        self.call("cudaStreamSynchronize", self.stream)
        return result

    def captured(self, launch: Callable[[], bool]) -> Graph:
        """The graph of what `launch` puts on the stream, not yet run. BundleError E0607 if it cannot be captured."""
        self.call("cudaStreamBeginCapture", self.stream, self.api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        done = False
        try:
            done = launch()
        finally:
            graph = self.call("cudaStreamEndCapture", self.stream)
        try:
            if not done:
                raise BundleError("E0607", "the engine cannot be captured")
            return Graph(self, self.call("cudaGraphInstantiate", graph, 0))
        finally:
            self.api.cudaGraphDestroy(graph)


class Graph:
    """Captured work that one call runs again on the memory that it was captured with."""

    def __init__(self, cuda: Cuda, executable: Any) -> None:
        self.cuda, self.executable = cuda, executable

    def launch(self) -> None:
        self.cuda.call("cudaGraphLaunch", self.executable, self.cuda.stream)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.cuda.api.cudaGraphExecDestroy(self.executable)


class DeviceArray:
    """An array on the device; its memory is returned to `Cuda` when it is deleted.

    `dtype` is None for types that numpy lacks (bf16); `itemsize` is in bytes.
    """

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: np.dtype[Any] | None, itemsize: int) -> None:
        self.cuda, self.shape, self.dtype = cuda, tuple(int(n) for n in shape), dtype
        self.bytes = int(np.prod(self.shape, dtype=np.int64)) * itemsize
        self.pointer = cuda.allocate(max(self.bytes, 1))

    def __del__(self) -> None:
        pointer = getattr(self, "pointer", None)
        if pointer is not None:
            heapq.heappush(self.cuda.free.setdefault(max(self.bytes, 1), []), pointer)


def _release(number: int) -> str:
    """13.1 of 13010."""
    return f"{int(number) // 1000}.{int(number) % 1000 // 10}"


def _major(release: str) -> int:
    return int(release.split(".")[0])
