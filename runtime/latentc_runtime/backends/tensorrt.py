"""TensorRT and TensorRT-RTX: plans on a GPU. Values are device arrays; one stream orders everything."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import Array, Value
from latentc_runtime.backends.cuda import Cuda
from latentc_runtime.backends.plan_engine import PlanEngine
from latentc_runtime.errors import BundleError
from latentc_runtime.hashes import cache_folder, write_whole
from latentc_runtime.manifest import Plan

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class TensorRt:
    """The Backend of a bundle's plans.

    Raises BundleError: E0606 if the library or a GPU is missing, E0613 with the property of plans that does not fit.
    """

    device = "tensorrt"
    concurrent = False  # one stream, on which graphs are captured
    compiles_per_batch = False

    def __init__(self, engine: str, plans: Sequence[Plan]) -> None:
        package = PACKAGES[engine]
        try:
            self.trt: Any = importlib.import_module(package)
        except ImportError as error:
            mend = f'pip install "latentc[{engine}]", or engine="onnxruntime"'
            raise BundleError("E0606", f"{package} is missing: {error}", mend) from None
        self.name = engine
        self.spent = 0.0
        self.cuda = Cuda()
        self.plans = {plan.file: plan for plan in plans if not self.misfits(plan)}
        if missing := sorted({plan.file for plan in plans} - self.plans.keys()):
            raise self.mismatch([plan for plan in plans if plan.file == missing[0]])
        self.logger = self.trt.Logger(self.trt.Logger.ERROR)
        self.runtime = self.trt.Runtime(self.logger)
        if any(plan.version_compatible for plan in plans):
            self.runtime.engine_host_code_allowed = True  # such a plan contains the runtime it was built for

    def misfits(self, plan: Plan) -> dict[str, tuple[str, str]]:
        """{field of the plan that does not fit this machine: (what is wrong, the remedy)}."""
        found, installed = {}, self.trt.__version__
        here, there = _number(self.cuda.capability), _number(plan.capability)
        if not (here == there or (plan.hardware_compatible and here >= max(there, 80))):
            found["capability"] = (
                f"they are for {plan.capability}, but this GPU is {self.cuda.capability}",
                self._compile_again(),
            )
        later = plan.version_compatible and _release(plan.version)[:1] == _release(installed)[:1]
        if not (_release(plan.version) <= _release(installed) if later else _same(plan.version, installed)):
            found["version"] = (
                f"they were made by {self.name} {plan.version}, but {installed} is installed",
                f"run `pip install --no-build-isolation {self.name}=={plan.version}` or compile again here",
            )
        if plan.driver is not None and _release(self.cuda.driver) < _release(plan.driver):
            found["driver"] = (
                f"they were made with a driver for CUDA {plan.driver}, but this one is for {self.cuda.driver}",
                "update the NVIDIA driver or compile again here",
            )
        return found

    def mismatch(self, plans: Sequence[Plan]) -> BundleError:
        """The error for a file without a fitting plan, about the plan that comes closest."""
        nearest = min((self.misfits(plan) for plan in plans), key=lambda found: ("capability" in found, len(found)))
        if "capability" in nearest:
            names = ", ".join(sorted({plan.capability for plan in plans}))
            nearest["capability"] = (
                f"they are for {names}, but this GPU is {self.cuda.capability}",
                nearest["capability"][1],
            )
        whats, mends = zip(*nearest.values(), strict=True)
        mend = "; ".join(dict.fromkeys(mends))
        return BundleError(
            "E0613", f"the plans do not fit: {', '.join(whats)}", f"{mend}; or load with engine='onnxruntime'"
        )

    def _compile_again(self) -> str:
        here = self.cuda.capability
        if self.name == "tensorrt":
            return "compile again on this machine"
        if not hasattr(self.trt.ComputeCapability, here.upper()):
            return f"TensorRT-RTX {self.trt.__version__} does not support {here}"
        return f"compile again with `--set target.capabilities=[{here}]`"

    def engine(self, path: Path, external: Mapping[str, Path]) -> PlanEngine:
        plan = self.plans.get(path.name)
        if plan is None:
            raise BundleError("E0606", f"the bundle has no plan of {path.name}", "load it with engine='onnxruntime'")
        data = path.with_name(plan.plan).read_bytes()
        engine = self.runtime.deserialize_cuda_engine(data)
        if engine is None:
            mend = "compile the bundle again on this machine, or load it with engine='onnxruntime'"
            raise BundleError("E0607", f"{plan.plan} cannot be opened by {self.name} {self.trt.__version__}", mend)
        if plan.stripped:
            self._refit(engine, plan, path)
        made = PlanEngine(self, plan.plan, engine, self._config(engine))
        if made.config is not None:
            self._remember(made, data)
        return made

    def _refit(self, engine: Any, plan: Plan, path: Path) -> None:
        """Fills in the weights of a stripped plan from the ONNX file and the bundle's safetensors."""
        refitter = self.trt.Refitter(engine, self.logger)
        parser = self.trt.OnnxParserRefitter(refitter, self.logger)
        if not (parser.refit_from_file(str(path)) and refitter.refit_cuda_engine()):
            errors = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
            missing = ", ".join(refitter.get_missing_weights()[:3])
            said = errors or (f"it lacks {missing}" if missing else "no reason given")
            message = f"the weights of {path.name} cannot be put into {plan.plan}: {said}"
            raise BundleError("E0607", message, "compile the bundle again without `target.strip_weights`")

    def _config(self, engine: Any) -> Any:
        """The runtime configuration of TensorRT-RTX, which makes each run one CUDA graph; None for TensorRT."""
        if self.name != "tensorrt-rtx":
            return None
        config = engine.create_runtime_config()
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def _remember(self, made: PlanEngine, data: bytes) -> None:
        """Caches the kernels that TensorRT-RTX compiles for this machine between processes."""
        folder = cache_folder()
        if folder is None:
            return
        machine = f"{self.trt.__version__}-{self.cuda.capability}-{self.cuda.driver}"
        file = folder / "kernels" / f"{hashlib.sha256(data).hexdigest()[:32]}-{machine}"
        cache = made.config.create_runtime_cache()
        with contextlib.suppress(OSError):
            cache.deserialize(file.read_bytes())
        made.config.set_runtime_cache(cache)
        weakref.finalize(made, _save, cache, file)

    def value(self, array: Array) -> Value:
        return self.cuda.upload(array)

    def array(self, value: Value) -> Array:
        if isinstance(value, np.ndarray):
            return value
        begin = time.perf_counter()
        array = self.cuda.download(value)
        self.spent += time.perf_counter() - begin  # runs are asynchronous: this waits for them
        return array

    def dtype(self, kind: Any) -> tuple[np.dtype[Any] | None, int]:
        """(numpy's dtype or None, bytes of an element) of a type of the library."""
        if kind == self.trt.DataType.BF16:
            return None, 2
        dtype: np.dtype[Any] = np.dtype(self.trt.nptype(kind))
        return dtype, dtype.itemsize


def _save(cache: Any, file: Path) -> None:
    """Writes a runtime cache, if that is possible."""
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, bytes(cache.serialize()))


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _same(version: str, other: str) -> bool:
    """True if plans of one version run on the other: equal in three parts, as 1.7.1 of 1.7.1.116."""
    return _release(version)[:3] == _release(other)[:3]
