"""TensorRT and TensorRT-RTX: plans on a GPU. Values are device arrays; one stream orders everything."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentc_runtime.backends import Array, Value, cast
from latentc_runtime.backends.cuda import Cuda, DeviceArray
from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import Plan

PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


class TensorRt:
    """The Backend of a bundle's plans. Raises BundleError E0606 that names what does not fit this machine."""

    device = "tensorrt"

    def __init__(self, engine: str, plans: Sequence[Plan]) -> None:
        package = PACKAGES[engine]
        try:
            self.trt: Any = importlib.import_module(package)
        except ImportError as error:
            mend = f'pip install "latentc[{engine}]", or engine="onnxruntime"'
            raise BundleError("E0606", f"{package} is missing: {error}", mend) from None
        self.name = engine
        self.cuda = Cuda()
        self.plans = {plan.file: plan for plan in plans if self.fits(plan)}
        if missing := sorted({plan.file for plan in plans} - self.plans.keys()):
            raise self.mismatch(next(plan for plan in plans if plan.file == missing[0]), plans)
        self.logger = self.trt.Logger(self.trt.Logger.ERROR)
        self.runtime = self.trt.Runtime(self.logger)

    def fits(self, plan: Plan) -> bool:
        """Whether a plan is for this machine's GPU and the installed version."""
        here, there = _number(self.cuda.capability), _number(plan.capability)
        capable = here == there or (plan.hardware_compatible and here >= max(there, 80))
        return capable and _release(plan.version) == _release(self.trt.__version__)

    def mismatch(self, plan: Plan, plans: Sequence[Plan]) -> BundleError:
        """What of the manifest's plans does not fit, and what to run."""
        capabilities = sorted({p.capability for p in plans if p.file == plan.file})
        here = self.cuda.capability
        if here not in capabilities:
            return BundleError(
                "E0606",
                f"the plans are for {', '.join(capabilities)} and this GPU is {here}",
                f"compile again with `--set target.capabilities=[{here}]`, or load with engine='onnxruntime'",
            )
        return BundleError(
            "E0606",
            f"the plans were made by {self.name} {plan.version} and {self.trt.__version__} is installed",
            f"install {PACKAGES[self.name]}=={plan.version}, or compile the bundle again here",
        )

    def engine(self, path: Path, external: Mapping[str, Path]) -> PlanEngine:
        plan = self.plans.get(path.name)
        if plan is None:
            raise BundleError("E0606", f"the bundle has no plan of {path.name}", "load it with engine='onnxruntime'")
        file = path.with_name(plan.plan)
        engine = self.runtime.deserialize_cuda_engine(file.read_bytes())
        if engine is None:
            mend = "compile the bundle again on this machine, or load it with engine='onnxruntime'"
            raise BundleError("E0607", f"{plan.plan} cannot be opened by {self.name} {self.trt.__version__}", mend)
        return PlanEngine(self, plan.plan, engine)

    def value(self, array: Array) -> Value:
        return self.cuda.upload(array)

    def array(self, value: Value) -> Array:
        return value if isinstance(value, np.ndarray) else self.cuda.download(value)

    def dtype(self, kind: Any) -> tuple[np.dtype[Any] | None, int]:
        """(numpy's dtype or None, bytes of an element) of a type of the library."""
        if kind == self.trt.DataType.BF16:
            return None, 2
        dtype: np.dtype[Any] = np.dtype(self.trt.nptype(kind))
        return dtype, dtype.itemsize


class PlanEngine:
    """One plan, and an execution context for each of its profiles that is used."""

    def __init__(self, backend: TensorRt, name: str, engine: Any) -> None:
        self.backend, self.name, self.engine = backend, name, engine
        self.contexts: dict[int, Any] = {}
        trt = backend.trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        types = {n: backend.dtype(engine.get_tensor_dtype(n)) for n in names}
        taken = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self.inputs = {n: types[n] for n in names if n in taken}
        self.outputs = {n: types[n] for n in names if n not in taken}

    def run(self, inputs: Mapping[str, Value | Array], outputs: Sequence[str]) -> dict[str, Value]:
        if inputs.keys() != self.inputs.keys() or not self.outputs.keys() >= set(outputs):
            raise BundleError(
                "E0607",
                f"{self.name} takes {sorted(self.inputs)} and gives {sorted(self.outputs)}, but the manifest has it "
                f"take {sorted(inputs)} and give {sorted(outputs)}",
                "compile the bundle again with `latentc compile`",
            )
        cuda = self.backend.cuda
        given = {name: self._given(name, value) for name, value in inputs.items()}
        context = self._context({name: value.shape for name, value in given.items()})
        for name, value in given.items():
            context.set_input_shape(name, value.shape)
            context.set_tensor_address(name, int(value.pointer))
        made: dict[str, DeviceArray] = {}
        for name, (dtype, itemsize) in self.outputs.items():  # also those that are not asked for: it writes them all
            made[name] = DeviceArray(cuda, context.get_tensor_shape(name), dtype, itemsize)
            context.set_tensor_address(name, int(made[name].pointer))
        if not context.execute_async_v3(int(cuda.stream)):
            raise BundleError("E0607", f"{self.name} failed", "there may not be enough memory: give a smaller `batch`")
        return {name: made[name] for name in outputs}

    def _given(self, name: str, value: Value | Array) -> DeviceArray:
        dtype = self.inputs[name][0]
        if isinstance(value, DeviceArray):
            # The sampler's own inputs arrive as they were given; between engines the dtypes agree by construction.
            if value.dtype == dtype:
                return value
            value = self.backend.cuda.download(value)
        if dtype is None:
            raise BundleError("E0607", f"{self.name}: input {name} is bf16, which numpy does not have")
        return self.backend.cuda.upload(cast(value, dtype, name))

    def _context(self, shapes: Mapping[str, Sequence[int]]) -> Any:
        """The context of the tightest profile that takes the shapes. BundleError E0608 where none does."""
        found: tuple[int, int] | None = None
        for number in range(self.engine.num_optimization_profiles):
            limits = {name: self.engine.get_tensor_profile_shape(name, number) for name in shapes}
            if all(
                all(low <= n <= high for low, n, high in zip(least, shapes[name], most, strict=True))
                for name, (least, _, most) in limits.items()
            ):
                size = sum(int(np.prod(most)) for _, _, most in limits.values())
                found = min(found or (size, number), (size, number))
        if found is None:
            shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
            raise BundleError(
                "E0608", f"{self.name} has no profile for {shown}", "compile with other `target.profiles`"
            )
        number = found[1]
        if number not in self.contexts:
            context = self.engine.create_execution_context()
            if context is None:
                raise BundleError("E0607", f"{self.name} does not fit the GPU's memory", "close other programs")
            context.set_optimization_profile_async(number, int(self.backend.cuda.stream))
            self.contexts[number] = context
        return self.contexts[number]


def _number(capability: str) -> int:
    return int(capability.removeprefix("sm"))


def _release(version: str) -> tuple[str, ...]:
    """The part of a version that plans depend on: 1.7.1 of 1.7.1.116."""
    return tuple(version.split(".")[:3])
