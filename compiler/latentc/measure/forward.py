"""One run of one method of a network, by the oracle, by the emitted PyTorch or by an engine.

Symbols: B batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from latentc.checkpoint import arrays, check_complete
from latentc.components.contract import Lowered, Method, Network, Port
from latentc.diagnostics import Diagnostic, DiagnosticError, nearest
from latentc.diagnostics.faults import needed
from latentc.ir.core import Function, Value, only_entry
from latentc.ir.interpret import Interpreter
from latentc.ir.types import FLOATS, NUMPY, Sym
from latentc.pipeline import optimised
from latentc.spec import Spec
from latentc.weights import Expr, materialise
from latentc_runtime.manifest import RESULT

Array = np.ndarray
Weights = Mapping[str, Expr]


def run_method(
    spec: Spec,
    lowered: Lowered,
    weights: Weights,
    inputs: Mapping[str, ArrayLike],
    backend: str = "oracle",
    network: str = "main",
    method: str = "forward",
) -> dict[str, Array]:
    """The outputs of a network's method by name (`out` if it has one): f64 by the oracle, f32 by other `BACKENDS`.

    `weights`: {state-dict path: tensor}, buffers included. `inputs`: arrays by the names of the method's inputs; those
    that it does not read may be left out.
    Raises DiagnosticError: E0410 if weights of the method are missing, E0702 if inputs do not fit, E0706 if the
    backend's package is missing.
    """
    net = lowered.networks[network]
    if method not in net.methods:
        held = ", ".join(net.methods)
        message = f"network `{network}` has no method `{method}`"
        raise DiagnosticError(Diagnostic("E0702", message, help=f"its methods are {held}"))
    fn = lowered.module.functions[net.methods[method].function]
    check_complete(lowered, fn.name, weights)
    if backend not in ("oracle", "torch"):  # the last pass that keeps the names of functions
        lowered = optimised(replace(lowered, programs=()), spec, "expand_guidance")
    operands = checked_inputs(f"method `{method}` of network `{network}`", fn, inputs, net.methods[method].inputs)
    outs = BACKENDS[backend](lowered, net, method, weights, operands)
    return dict(zip(output_names(net.methods[method]), outs, strict=True))


def output_names(method: Method) -> list[str]:
    """Names of a method's outputs: `out` if there is one, else those of its ports, numbered if they repeat."""
    names = [port.name for port in method.outputs]
    if len(names) == 1:
        return [RESULT]
    counts = {name: itertools.count() for name in names}
    return [f"{name}.{next(counts[name])}" if names.count(name) > 1 else name for name in names]


# ---- backends


def _oracle(
    lowered: Lowered, network: Network, method: str, weights: Weights, inputs: Sequence[Array]
) -> Sequence[Array]:
    return Interpreter(lowered.module, arrays(weights)).run(network.methods[method].function, *inputs)


def _torch(
    lowered: Lowered, network: Network, method: str, weights: Weights, inputs: Sequence[Array]
) -> Sequence[Array]:
    torch = needed("torch", "the backend `torch`", 'pip install "latentc[torch]"')
    from latentc.emit.model import model_file
    from latentc.emit.numbered import method_of
    from latentc.measure.emitted import load_arrays, module_from_source

    file = model_file(lowered)
    constants = {name: torch.from_numpy(array) for name, array in file.constants.items()}
    module = module_from_source(file.text, "model", constants)
    net = getattr(module, "build" if network.name == "main" else f"build_{network.name}")()
    # Other methods may need weights that are missing.
    load_arrays(net, {path: materialise(expr) for path, expr in weights.items()})
    net.eval()
    with torch.no_grad():
        outs = method_of(net, method)(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs))
    return [out.numpy() for out in (outs if isinstance(outs, tuple) else (outs,))]


def _engine(
    engine: str,
    extra: str,
    lowered: Lowered,
    network: Network,
    method: str,
    weights: Weights,
    inputs: Sequence[Array],
) -> Sequence[Array]:
    needed(engine, "this backend", f'pip install "latentc[{extra}]"')
    from latentc.engines import ENGINES
    from latentc.export.forms import for_form
    from latentc.measure.execute import runner
    from latentc.passes.decompose import group_norm_by_channels
    from latentc_runtime.backends import open_backend

    entry = f"{network.name}.{method}"
    own = {f"{network.name}.{path}": expr for path, expr in weights.items()}
    module = for_form(only_entry(lowered.module, entry), "loop", ENGINES[engine])
    if ENGINES[engine].group_norm == "by_channels":
        module = group_norm_by_channels(module, "fp32")
    return runner(module, entry, own, backend=open_backend("cpu", engine=engine))(inputs)


BACKENDS: dict[str, Callable[[Lowered, Network, str, Weights, Sequence[Array]], Sequence[Array]]] = {
    "oracle": _oracle,
    "torch": _torch,
    "onnx": functools.partial(_engine, "onnxruntime", "cpu"),
    "openvino": functools.partial(_engine, "openvino", "openvino"),
}


# ---- inputs


def checked_inputs(
    what: str,
    fn: Function,
    given: Mapping[str, ArrayLike],
    ports: Sequence[Port] = (),
    about: Mapping[str, str] | None = None,
) -> list[Array]:
    """The arrays in the order and dtype of a function's inputs. DiagnosticError E0702 lists every misfit.

    Inputs that the function does not read are zeros if they are not given. `what` names the function in messages;
    `ports` say which integers may be given, `about` what inputs are.
    """
    sizes: dict[str, int] = {}
    values = fn.inputs
    takes = ", ".join(f"{v.name}: {v.type}" for v in values)
    if about:
        takes = "".join(f"\n  {v.name}: {v.type}" + (f" ({about[v.name]})" if v.name in about else "") for v in values)
    problems = []
    names = [v.name for v in values]
    read = {v for node in fn.nodes for v in node.inputs} | {*fn.outputs}
    for name in given:
        if name not in names:
            close = nearest(name, [n for n in names if n not in given])
            problems.append(f"no such input: `{name}`" + (f" (did you mean `{close}`?)" if close else ""))
    arrays: dict[str, Array] = {}
    for value in values:
        if value.name not in given:
            if value in read:
                problems.append(f"the input `{value.name}` is missing")
            continue
        array: Any = given[value.name]
        if not hasattr(array, "dtype"):
            array = np.asarray(array)
        problem = _shape_problem(value, array, sizes) or _dtype_problem(value, array)
        if problem is None:  # only now, because an array of a file is read here
            array = np.asarray(array)
            problem = _range_problem(ports, value, array)
        if problem:
            problems.append(f"`{value.name}` {problem}")
        else:
            arrays[value.name] = array.astype(NUMPY[value.type.dtype])
    if problems:
        help_text = f"{what} takes{'' if about else ' '}{takes}"
        helps = [None if about else help_text] * (len(problems) - 1) + [help_text]
        raise DiagnosticError(*(Diagnostic("E0702", p, help=h) for p, h in zip(problems, helps, strict=True)))
    return [arrays[v.name] if v.name in arrays else _zeros(v, sizes) for v in values]


def _zeros(value: Value, sizes: Mapping[str, int]) -> Array:
    """An array for an input that nothing reads."""
    shape = [sizes.get(d.name, 1) * d.factor if isinstance(d, Sym) else int(d) for d in value.type.shape]
    return np.zeros(shape, NUMPY[value.type.dtype])


def _shape_problem(value: Value, array: Array, sizes: dict[str, int]) -> str | None:
    wanted = value.type.shape
    fits = len(wanted) == array.ndim
    for dim, size in zip(wanted, array.shape, strict=False):
        if isinstance(dim, Sym):
            known = sizes.setdefault(dim.name, size // dim.factor)
            if fits and known * dim.factor != size:
                return f"has {size} samples, but another input has {known}"
            fits = fits and size > 0
        else:
            fits = fits and int(dim) == size
    shape = ", ".join(str(d if isinstance(d, Sym) else int(d)) for d in wanted)
    return None if fits else f"has the shape {list(array.shape)}, not [{shape}]"


def _dtype_problem(value: Value, array: Array) -> str | None:
    kinds = "fiu" if value.type.dtype in FLOATS else "b" if value.type.dtype == "bool" else "iu"
    if array.dtype.kind in kinds:
        return None
    wanted = {"f": "numbers", "i": "whole numbers", "b": "true or false"}[kinds[0]]
    return f"holds {array.dtype}, not {wanted}"


def _range_problem(ports: Sequence[Port], value: Value, array: Array) -> str | None:
    port = next((port for port in ports if port.name == value.name), None)
    if port is None or port.values is None or array.size == 0:
        return None
    last = port.values - 1
    outside = array[(array < 0) | (array > last)]
    null = f", where {port.null} means none" if port.null is not None else ""
    return f"holds {outside[0]}, outside of 0 to {last}{null}" if outside.size else None
