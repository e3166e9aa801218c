"""The GPU of `make gpu` (gpu.py), or the CPU in its place: its engines, its memory, and how calls are timed on it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.engines import ENGINES
from latentc.engines.contract import installed
from latentc_runtime.errors import BundleError

ROOT = Path(__file__).parents[1]
Call = Callable[[], object]
Paths = dict[str, Callable[[], Call]]
"""{path: what opens it and returns its call, which returns when the result is there}."""
Figures = dict[str, Any]


@dataclass(frozen=True)
class Engine:
    """One way to run a bundle: overrides that compile for it, the runtime's device, and the schemes it gains from."""

    device: str
    overrides: tuple[str, ...]
    schemes: tuple[str, ...] = ()
    precision: str = "bf16"


class Machine:
    """The GPU, or with `stand_in` the CPU in its place, with systems small enough for a test."""

    def __init__(self, stand_in: bool) -> None:
        import torch

        self.torch, self.stand_in = torch, stand_in
        self.device = "cpu" if stand_in else "cuda"
        self.half = torch.float32 if stand_in else torch.bfloat16
        self.missing: dict[str, str] = {}
        self.engines = self._engines()

    def _engines(self) -> dict[str, Engine]:
        if self.stand_in:
            return {
                "ONNX Runtime": Engine("cpu", ("target.engine=onnxruntime",), ("int8_dynamic",), "fp32"),
                "OpenVINO": Engine("cpu", ("target.engine=openvino",), (), "fp32"),
            }
        found = {}
        sys.path.insert(0, str(ROOT / "tests/gpu"))
        provider_fault = importlib.import_module("on_gpu").provider_fault
        for package, title in (("tensorrt", "TensorRT"), ("tensorrt_rtx", "TensorRT-RTX")):
            name = package.replace("_", "-")
            try:
                library = importlib.import_module(package)
                capability = _capability()
            except (ImportError, BundleError) as error:
                self.missing[title] = f"{error}"
                continue
            overrides: tuple[str, ...] = (f"target.engine={name}",)
            if name == "tensorrt-rtx":
                if not hasattr(library.ComputeCapability, capability.upper()):
                    self.missing[title] = f"{title} {library.__version__} does not support {capability}"
                    continue
                overrides = (*overrides, f"target.capabilities=[{capability}]")
            plans = ENGINES[name].plans
            assert plans is not None
            float4 = ("nvfp4", "nvfp4_weights") if int(capability.removeprefix("sm")) >= plans.least_fp4 else ()
            found[title] = Engine("tensorrt", overrides, ("int8", "fp8", *float4))
        for provider, device in (("CUDA", "cuda"), ("Tensorrt", "tensorrt")):
            if fault := provider_fault(provider):
                self.missing[f"ONNX Runtime {provider}"] = fault
            else:
                found[f"ONNX Runtime {provider}"] = Engine(device, ("target.engine=onnxruntime",), (), "fp16")
        return found

    @property
    def short(self) -> str:
        """The precision of the PyTorch paths."""
        return "fp32" if self.stand_in else "bf16"

    def described(self) -> dict[str, str]:
        """The GPU and the versions that figures depend on."""
        cuda = self.torch.cuda
        name = "CPU stand-in" if self.stand_in else cuda.get_device_name() if cuda.is_available() else "no GPU"
        packages = ("torch", "onnxruntime-gpu", "onnxruntime", "tensorrt", "tensorrt-rtx", "diffusers")
        versions = {package: version for package in packages if (version := installed(package))}
        return {"name": name, "cuda": str(self.torch.version.cuda), **versions}

    def finish(self) -> None:
        """Waits until the GPU has done everything."""
        if not self.stand_in:
            self.torch.cuda.synchronize()

    def rate(self, size: int = 8192) -> float:
        """Operations a second of PyTorch's square matrix product in half precision."""
        size = 512 if self.stand_in else size
        a = self.torch.randn(size, size, device=self.device).to(self.half)

        def product() -> None:
            a @ a
            self.finish()

        product()
        return 2.0 * size**3 / min(seconds_of(product) for _ in range(10))

    @contextlib.contextmanager
    def peak(self) -> Iterator[dict[str, int]]:
        """Watches the memory in use on the GPU; on leaving, `bytes` is the largest increase seen."""
        found = {"bytes": 0}
        if self.stand_in:
            yield found
            return
        gc.collect()
        self.torch.cuda.empty_cache()
        before, done = self._used(), threading.Event()

        def watch() -> None:
            while not done.wait(0.005):
                found["bytes"] = max(found["bytes"], self._used() - before)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            done.set()
            thread.join()

    def _used(self) -> int:
        free, total = self.torch.cuda.mem_get_info()
        return int(total - free)

    def compiled(self, call: Any) -> Any:
        """`torch.compile` as a user would write it; its eager backend stands in for it in tests."""
        return self.torch.compile(call, backend="eager" if self.stand_in else "inductor")


def _capability() -> str:
    from latentc_runtime.backends.cuda import Cuda

    return Cuda().capability


def seconds_of(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def timed(machine: Machine, paths: Paths, work: float | None = None, rounds: int = 10) -> dict[str, Figures]:
    """The figures of every path, opened and timed one after the other so that each has the GPU to itself.

    `work`: floating-point operations of one call, for `share`.
    """
    rate = machine.rate() if work else None
    rounds = 2 if machine.stand_in else rounds
    found: dict[str, Figures] = {}
    for name, open_path in paths.items():
        print(f"  {name}", flush=True)
        with machine.peak() as peak:
            try:
                begin = time.perf_counter()
                call = open_path()
                call()
                first = time.perf_counter() - begin
                taken = [seconds_of(call) for _ in range(rounds)]
            except Exception as error:  # whatever a foreign engine raises: the others are still wanted
                found[name] = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
                continue
        found[name] = {"seconds": statistics.median(taken), "least": min(taken), "first": first}
        found[name] |= {"peak": peak["bytes"]}
        if work and rate:
            found[name]["share"] = work / min(taken) / rate
        del call
    return found
