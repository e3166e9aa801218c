"""TensorRT-RTX: plans compiled ahead of time, without a GPU, for the capabilities it knows. Measured with 1.7.1."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from latentc.engines.contract import Engine, Finding, Plans, package
from latentc.engines.tensorrt_common import COMMON

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda

# The index has source packages that are built on installation; their build needs the first two.
_INSTALL = "pip install setuptools wheel && pip install --no-build-isolation tensorrt-rtx cuda-python polygraphy"
_COMPATIBLE = "its builder has no such option"


def _doctor(gpu: Cuda | None) -> Iterator[Finding]:
    distributions = ("tensorrt-rtx",)
    row = package("tensorrt-rtx", "tensorrt_rtx", distributions, "plans of the engine tensorrt-rtx", _INSTALL)
    if row.state == "ok":
        trt = importlib.import_module("tensorrt_rtx")
        known = [name.lower() for name in dir(trt.ComputeCapability) if name.startswith("SM")]
        known.sort(key=lambda name: int(name.removeprefix("sm")))
        runs = f"runs them on this {gpu.capability}" if gpu and gpu.capability in known else "runs none here"
        row = replace(row, detail=f"{row.detail}; builds plans for {', '.join(known)}; {runs}")
    yield row


ENGINE = Engine(
    name="tensorrt-rtx",
    title="TensorRT-RTX",
    extra="tensorrt-rtx",
    doctor=_doctor,
    plans=Plans(
        "tensorrt_rtx",
        ahead_of_time=True,
        # It has a runtime cache instead.
        timing_cache=False,
        refused={
            "version_compatible": _COMPATIBLE,
            "hardware_compatible": _COMPATIBLE,
            # Version 1.7.1 fails without a GPU, for whole samplers and for single steps.
            "strip_weights": "TensorRT-RTX needs a GPU to compile a plan without weights",
        },
    ),
    # Triton has no backend for it.
    triton=None,
    **COMMON,
)
