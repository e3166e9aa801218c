"""Engines behind one protocol: a backend opens engine files on a device and converts its values.

A `Value` is an input or output of an engine, stored where the engine wants it (device memory). The program in the
manifest passes values on without inspecting them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentc_runtime.errors import BundleError

if TYPE_CHECKING:
    from latentc_runtime.manifest import Plan

Array = NDArray[Any]
Value = Any  # opaque outside its backend
NOTHING: Mapping[str, str] = MappingProxyType({})
MOST_THREADS = 1024  # of an engine, or as many as there are CPUs; far more would exhaust the memory


class Engine(Protocol):
    """One engine file, ready to run."""

    def run(
        self, inputs: Mapping[str, Value | Array], outputs: Sequence[str], shared: Mapping[str, str] = NOTHING
    ) -> dict[str, Value]:
        """Run once on all inputs, values or arrays (cast to the input's type); returns the named outputs.

        `shared` {output: input}: the engine may write the output into that input's memory.
        Raises BundleError E0607 if the engine fails.
        """


class Backend(Protocol):
    """An engine library on one device ("cpu", "cuda", "tensorrt")."""

    device: str
    concurrent: bool
    """True if several threads may run its engines at once."""
    compiles_per_batch: bool
    """True if an engine is compiled for each new batch size, so that a server should use few of them."""
    spent: float
    """Seconds spent in the engines' own calls so far, without the transfer of values."""

    def engine(self, path: Path, external: Mapping[str, Path]) -> Engine:
        """Open an engine file; `external` {name in the file: weight file} for weights outside the bundle.

        Raises BundleError E0606 or E0607.
        """

    def value(self, array: Array) -> Value:
        """An array as a value, on the device; the array must not change while the value is in use."""

    def array(self, value: Value) -> Array:
        """A value (or an array) as an array."""


def open_backend(
    device: str = "auto",
    threads: int | None = None,
    engine: str = "onnxruntime",
    precision: str = "fp32",
    plans: Sequence[Plan] = (),
) -> Backend:
    """The backend for `device`: "cpu", "cuda", "tensorrt", or "auto" for a GPU that works, else the CPU.

    `threads`: CPU threads of one engine run, None for the engine's own choice. `engine`: "onnxruntime", which computes
    in the dtypes of the graph, or "openvino", which computes in `precision` ("fp32", "bf16"), or "tensorrt" and
    "tensorrt-rtx", which run `plans`; where "auto" finds no plan that this machine runs, and on "cpu", ONNX Runtime
    runs the graphs they were made from. Raises BundleError E0606 or E0613.
    """
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and (not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads <= most):
        mend = f"leave `threads` out, or give at most the {os.cpu_count()} CPUs of this machine"
        raise BundleError("E0606", f"threads must be an integer from 1 to {most}, not {threads!r}", mend)
    if engine in ("tensorrt", "tensorrt-rtx"):
        from latentc_runtime.backends.tensorrt import TensorRt

        if device in ("auto", "cuda", "tensorrt"):
            try:
                return TensorRt(engine, plans)
            except BundleError as error:
                if device != "auto":
                    raise
                if error.code == "E0613":  # there is a GPU, for which plans would be faster
                    warnings.warn(f"ONNX Runtime runs the bundle instead: {error.message}; {error.help}", stacklevel=2)
        engine = "onnxruntime"
    if engine == "onnxruntime":
        from latentc_runtime.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(device, threads, precision)
    if engine == "openvino":
        from latentc_runtime.backends.openvino import OpenVino

        return OpenVino(device, threads, precision)
    raise BundleError("E0606", f"unknown engine {engine!r}", "use onnxruntime, openvino, tensorrt or tensorrt-rtx")


def check_names(
    file: str, takes: Collection[str], gives: Collection[str], inputs: Collection[str], outputs: Collection[str]
) -> None:
    """BundleError E0607 unless `inputs` are exactly what an engine takes and it gives all `outputs`."""
    if set(inputs) != set(takes) or not set(outputs) <= set(gives):
        raise BundleError(
            "E0607",
            f"{file} takes {sorted(takes)} and returns {sorted(gives)}, but the manifest says it takes "
            f"{sorted(inputs)} and returns {sorted(outputs)}",
            "compile the bundle again with `latentc compile`",
        )


def engine_failure(what: str, error: Exception, library: str, update: str) -> BundleError:
    """BundleError E0607 for an exception of an engine's library, with the remedy that its text suggests.

    `library`: its name and version; `update`: the arguments of pip that update it.
    """
    text = " ".join(str(error).split())
    if any(sign in text.lower() for sign in ("bad_alloc", "failed to allocate", "out of memory")):
        mend = "there is not enough memory: give a smaller `batch`"
    else:
        mend = (
            f"{library} is installed; compare with `versions` in manifest.json, and update it (pip {update}) or "
            "compile the bundle again on this machine"
        )
    return BundleError("E0607", f"{what}: {text[:600]}", mend)


def cast(array: Array, dtype: np.dtype[Any], name: str) -> Array:
    """`array` as `dtype`, contiguous. Raises BundleError if fractions would become whole numbers."""
    with np.errstate(over="ignore"):  # a number too large for the engine's type becomes infinite
        result = np.ascontiguousarray(array, dtype=dtype).reshape(array.shape)  # ascontiguousarray turns [] into [1]
    if array.dtype.kind == "f" and dtype.kind != "f" and not np.array_equal(result, array):
        raise BundleError("E0607", f"engine input {name} takes {dtype}, but got {array.dtype} values")
    return result
