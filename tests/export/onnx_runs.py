"""Small modules built by hand, and the ways to run them: interpreter, ONNX Runtime, host program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from inline_tensors import InlineTensors

from latentc.export.host import carry_stacks, program_from_module
from latentc.export.onnx import OPSET, flat_module, onnx_from_module
from latentc.ir.builder import ModuleBuilder
from latentc.ir.core import Module
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.ir.types import NUMPY, Sym, TensorType
from latentc.ir.verify import verify
from latentc_runtime.manifest import RESULT, Statement
from latentc_runtime.program import run_program

SIZES = {"B": 3}
TOLERANCE = 1e-5  # max|a - b| / max|reference|, fp32


def array(type: TensorType, low: float = -2, high: float = 2, rng: np.random.Generator | None = None) -> Any:
    """A random array of a type, B being 3."""
    rng = rng or np.random.default_rng(0)
    shape = [SIZES[d.name] * d.factor if isinstance(d, Sym) else int(d) for d in type.shape]
    if type.dtype == "bool":
        return rng.random(shape) < 0.6
    if type.is_float:
        return rng.uniform(low, high, shape).astype(np.float32)
    return rng.integers(int(low), int(high) + 1, shape).astype(NUMPY[type.dtype])


def module_of(types: Sequence[TensorType], build: Callable[..., Any], module: ModuleBuilder | None = None) -> Module:
    """A module whose entry `main` takes x0, x1, … and gives what `build(b, *operands)` gives."""
    mb = module or ModuleBuilder()
    b = mb.function("main")
    b.output(build(b, *(b.input(f"x{i}", t) for i, t in enumerate(types))))
    b.finish()
    mb.entries["main"] = "main"
    return verify(mb.finish())


def weights_of(params: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    result = {}
    for path, param in params.items():
        shape = tuple(int(d) for d in param.type.shape)
        value = INITS[param.init.kind](rng, shape, **param.init.args)
        noise = 0.1 * rng.standard_normal(shape) if param.kind == "weight" else 0.0
        result[path] = np.asarray(value + noise, np.float32)
    return result


def session_of(module: Module, weights: Mapping[str, Any], opset: int = OPSET) -> Any:
    model = onnx_from_module(module, "main", InlineTensors(lambda path, param: weights[path]), opset)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def run_onnx(
    module: Module,
    inputs: Sequence[Any],
    opset: int = OPSET,
    unroll: bool = False,
    weights: Mapping[str, Any] | None = None,
) -> list[Any]:
    """Entry `main` of a module at stage `expanded` through ONNX Runtime."""
    session = session_of(verify(flat_module(module, "main", unroll, opset), "inlined"), weights or {}, opset)
    feeds = {i.name: np.asarray(x) for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, feeds))


class _Engine:
    def __init__(self, session: Any) -> None:
        self.session = session

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str], shared: Any = None) -> dict[str, Any]:
        kinds = {"tensor(int64)": np.int64, "tensor(bool)": np.bool_}
        types = {i.name: kinds.get(i.type, np.float32) for i in self.session.get_inputs()}
        feeds = {name: np.asarray(x, types[name]) for name, x in inputs.items()}
        return dict(zip(outputs, self.session.run(list(outputs), feeds), strict=True))


def host_program(
    module: Module, per_step: Mapping[str, int], weights: Mapping[str, Any] | None = None
) -> tuple[list[Statement], dict[str, Any]]:
    """The host program of entry `main`, and its engines by file."""
    flat = verify(carry_stacks(flat_module(module, "main")), "inlined")
    engines: dict[str, Any] = {}

    def add(role: str, part: Module) -> str:
        name = f"{role}-{len(engines)}.onnx"
        engines[name] = _Engine(session_of(verify(part, "inlined"), weights or {}))
        return name

    return program_from_module(flat, "main", per_step, add, any_trip=True, inner_loops=True)[0], engines


def run_host(
    module: Module, inputs: Sequence[Any], per_step: Mapping[str, int] = {}, weights: Mapping[str, Any] | None = None
) -> Any:
    """Entry `main` cut at its loops, run by the runtime's own interpreter of programs."""
    program, engines = host_program(module, per_step, weights)
    feeds = {v.name: np.asarray(x) for v, x in zip(module.entry("main").inputs, inputs, strict=True)}
    run = run_program(program, feeds, engines.__getitem__, lambda name, i: feeds[name][i], lambda: None)
    return run[RESULT]


def assert_close(got: Any, want: Any, tolerance: float = TOLERANCE) -> None:
    assert got.shape == want.shape
    if want.dtype.kind == "f":
        assert got.dtype == np.float32
        assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-3)
    else:
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def compare(module: Module, inputs: Sequence[Any], opset: int = OPSET, unroll: bool = False) -> None:
    """ONNX Runtime against the interpreter, for a module without weights."""
    expected = Interpreter(module).run("main", *inputs)
    for got, want in zip(run_onnx(module, inputs, opset, unroll), expected, strict=True):
        assert_close(got, want)
