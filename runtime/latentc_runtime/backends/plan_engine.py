"""One plan of TensorRT or TensorRT-RTX, run on device arrays; repeated runs are replayed as a CUDA graph."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentc_runtime.backends import NOTHING, Array, Value, cast, check_names
from latentc_runtime.backends.cuda import DeviceArray, Graph
from latentc_runtime.errors import BundleError

if TYPE_CHECKING:
    from latentc_runtime.backends.tensorrt import TensorRt

Shapes = tuple[tuple[int, ...], ...]
Key = tuple[Shapes, tuple[int, ...]]  # shapes of the inputs, addresses of all tensors

GRAPHS = 32
"""Largest number of CUDA graphs per plan. A loop reuses few addresses, so more would mean that none recur."""


class PlanEngine:
    """One plan, and an execution context for each of its profiles that is used.

    A run on the same addresses as an earlier run is captured as a CUDA graph and replayed from then on. `no_graph`: the
    reason if capturing is given up. TensorRT-RTX captures by itself.
    """

    def __init__(self, backend: TensorRt, name: str, engine: Any, config: Any = None) -> None:
        self.backend, self.name, self.engine, self.config = backend, name, engine, config
        self.contexts: dict[int, Any] = {}
        self.made: dict[Shapes, tuple[Any, list[tuple[int, ...]]]] = {}  # context and shapes of the outputs
        self.graphs: dict[Key, Graph | None] = {}  # None: seen once
        self.ran: dict[int, Shapes] = {}  # by context: the shapes of its last run
        self.no_graph: str | None = None if config is None else f"{backend.name} captures by itself"
        trt = backend.trt
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        types = {n: backend.dtype(engine.get_tensor_dtype(n)) for n in names}
        taken = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self.inputs = {n: types[n] for n in names if n in taken}
        self.outputs = {n: types[n] for n in names if n not in taken}

    def run(
        self, inputs: Mapping[str, Value | Array], outputs: Sequence[str], shared: Mapping[str, str] = NOTHING
    ) -> dict[str, Value]:
        check_names(self.name, self.inputs, self.outputs, inputs, outputs)
        given = {name: self._given(name, inputs[name]) for name in self.inputs}
        shapes = tuple(value.shape for value in given.values())
        if shapes not in self.made:
            context = self._context(dict(zip(given, shapes, strict=True)))
            for name, value in given.items():
                context.set_input_shape(name, value.shape)
            self.made[shapes] = context, [tuple(context.get_tensor_shape(name)) for name in self.outputs]
        context, results = self.made[shapes]
        made = {  # including unwanted ones, because the engine writes all of them
            name: DeviceArray(self.backend.cuda, shape, *kind)
            for (name, kind), shape in zip(self.outputs.items(), results, strict=True)
        }
        begin = time.perf_counter()
        self._execute(context, shapes, {**given, **made}, given)
        self.backend.spent += time.perf_counter() - begin
        return {name: made[name] for name in outputs}

    def _execute(
        self, context: Any, shapes: Shapes, tensors: Mapping[str, DeviceArray], given: Mapping[str, DeviceArray]
    ) -> None:
        cuda = self.backend.cuda
        key = shapes, tuple(int(value.pointer) for value in tensors.values())
        graph = self.graphs.get(key)
        if graph is not None:
            graph.launch()
            return
        for name, value in given.items():
            context.set_input_shape(name, value.shape)
        for name, value in tensors.items():
            context.set_tensor_address(name, int(value.pointer))
        # The first run after a change of shapes does work that cannot be captured.
        warm = self.ran.get(id(context)) == shapes
        self.ran[id(context)] = shapes
        if self.no_graph is None and key in self.graphs and warm:
            try:
                graph = cuda.captured(lambda: bool(context.execute_async_v3(int(cuda.stream))))
            except BundleError as error:
                self.no_graph = error.message
                self.graphs.clear()
            else:
                self.graphs[key] = graph
                graph.launch()
                return
        if not context.execute_async_v3(int(cuda.stream)):
            raise BundleError("E0607", f"{self.name} failed", "there may not be enough memory: give a smaller `batch`")
        if self.no_graph is None:
            if len(self.graphs) >= GRAPHS:
                self.graphs.pop(next(iter(self.graphs)))
            self.graphs[key] = None

    def _given(self, name: str, value: Value | Array) -> DeviceArray:
        dtype = self.inputs[name][0]
        if isinstance(value, DeviceArray):
            # Only the sampler's own inputs can have another dtype; between engines dtypes agree by construction.
            if value.dtype == dtype:
                return value
            value = self.backend.cuda.download(value)
        if dtype is None:
            raise BundleError("E0607", f"{self.name}: input {name} is bf16, which numpy does not have")
        return self.backend.cuda.upload(cast(value, dtype, name))

    def _context(self, shapes: Mapping[str, Sequence[int]]) -> Any:
        """The context of the smallest profile that allows the shapes. Raises BundleError E0608 if none does."""
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
            made = () if self.config is None else (self.config,)
            context = self.engine.create_execution_context(*made)
            if context is None:
                raise BundleError("E0607", f"{self.name} does not fit the GPU's memory", "close other programs")
            context.set_optimization_profile_async(number, int(self.backend.cuda.stream))
            self.contexts[number] = context
        return self.contexts[number]
