"""Device memory and the one stream that everything runs on, through cuda-python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from latentc_runtime.backends import Array
from latentc_runtime.errors import BundleError

_INSTALL = 'pip install "latentc[tensorrt]" or "latentc[tensorrt-rtx]"; `nvidia-smi` shows the driver'


class Cuda:
    """The current GPU. BundleError E0606 where there is none that works."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import runtime
        except ImportError as error:
            raise BundleError("E0606", f"cuda-python is missing: {error}", _INSTALL) from None
        self.api: Any = runtime
        try:
            self.index = int(self.call("cudaGetDevice"))
            attribute = runtime.cudaDeviceAttr
            major = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, self.index)
            minor = self.call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, self.index)
            self.capability = f"sm{major}{minor}"
            self.stream = self.call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)
        except BundleError as error:
            raise BundleError("E0606", f"no working GPU: {error.message}", _INSTALL) from None

    def call(self, name: str, *arguments: Any) -> Any:
        """Calls a function of the CUDA runtime; gives what it returns besides its status. BundleError E0607."""
        try:
            status, *results = getattr(self.api, name)(*arguments)
        except Exception as error:  # cuda-python raises where it does not find the driver's library
            raise BundleError("E0607", f"{name}: {error}") from None
        if int(status) != 0:
            text = getattr(status, "name", str(status))
            mend = "there is not enough memory: give a smaller `batch`" if "MemoryAllocation" in text else None
            raise BundleError("E0607", f"{name} failed: {text}", mend)
        return results[0] if results else None

    def upload(self, array: Array) -> DeviceArray:
        """A copy of an array on the device."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        made = DeviceArray(self, array.shape, array.dtype, array.itemsize)
        kind = self.api.cudaMemcpyKind.cudaMemcpyHostToDevice
        # Memory that is not pinned is staged before the call returns, so `array` may go away.
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


class DeviceArray:
    """An array on the device, its memory taken from the stream's pool and given back to it in stream order.

    `dtype` is None for what numpy lacks (bf16); `itemsize` in bytes.
    """

    def __init__(self, cuda: Cuda, shape: Sequence[int], dtype: np.dtype[Any] | None, itemsize: int) -> None:
        self.cuda, self.shape, self.dtype = cuda, tuple(int(n) for n in shape), dtype
        self.bytes = int(np.prod(self.shape, dtype=np.int64)) * itemsize
        self.pointer = cuda.call("cudaMallocAsync", max(self.bytes, 1), cuda.stream)

    def __del__(self) -> None:
        pointer = getattr(self, "pointer", None)
        if pointer is not None:
            self.cuda.api.cudaFreeAsync(pointer, self.cuda.stream)
