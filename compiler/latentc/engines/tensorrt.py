"""TensorRT: plans built on the GPU they run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from latentc.engines.contract import Engine, Finding, Plans, Triton, package
from latentc.engines.tensorrt_common import COMMON

if TYPE_CHECKING:
    from latentc_runtime.backends.cuda import Cuda


def _doctor(gpu: Cuda | None) -> Iterator[Finding]:
    row = package("tensorrt", "tensorrt", ("tensorrt",), "plans of the engine tensorrt", ENGINE.install)
    if row.state == "ok":
        where = f"builds and runs plans for {gpu.capability}" if gpu else "builds and runs nothing without a GPU"
        row = replace(row, detail=f"{row.detail}; {where}", state="ok" if gpu else "missing")
    yield row


ENGINE = Engine(
    name="tensorrt",
    title="TensorRT",
    extra="tensorrt",
    doctor=_doctor,
    plans=Plans("tensorrt", ahead_of_time=False, timing_cache=True),
    triton=Triton("tensorrt", kind="KIND_GPU", samples_first=True),
    **COMMON,
)
