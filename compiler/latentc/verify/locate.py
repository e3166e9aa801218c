"""Where a result first leaves the oracle: the call inside a method of a network, or the evaluation of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.ir.core import Module, only_entry
from latentc.ir.interpret import Interpreter
from latentc.measure.calls import calls_of, methods_of, operands_shown, watch
from latentc.measure.execute import runner
from latentc.measure.metrics import relative_error
from latentc.measure.probe import calls_shown
from latentc.measure.subject import Subject
from latentc.verify.methods import Called, Operands
from latentc.verify.report import ENGINE, TORCH, Divergence
from latentc_runtime.request import Request

Array = np.ndarray
OWN = "(outside of any call)"
AT_ONCE = 8  # calls of networks whose operands one compiled sampler returns


def diverging_call(
    subject: Subject, called: Called, operands: Operands, candidate: str, tolerance: float
) -> Divergence:
    """The first call inside a method whose result is further from the oracle's than `tolerance`.

    Calls are taken in the order they end, so a call inside another comes before it. For the engine, the method is
    compiled with the results of its calls as outputs.
    """
    network, entry = called.network.name, f"{called.network.name}.{called.name}"
    lowered = subject.expanded if candidate == TORCH else subject.exported
    own = len(lowered.module.entry(entry).outputs)
    module, paths = calls_shown(only_entry(lowered.module, entry), entry)
    exact = Interpreter(module, subject.measured).run(entry, *operands, prefix=network)[own:]
    if candidate == TORCH:
        results: Mapping[str, Array] = subject.emitted.inner_results(network, called.name, operands)
    else:
        run = runner(module, entry, subject.deployed, subject.spec.target.opset, subject.backend)
        results = dict(zip(paths, run(operands)[own:], strict=True))
    before = 0.0
    for path, reference in zip(paths, exact, strict=True):
        if path not in results:
            continue
        error = relative_error(results[path], reference)
        if error > tolerance:
            cls = _class_of(subject.lowered.module, called.method.function, path)
            return Divergence(candidate, path, f"in {cls}" if cls else "", error, before)
        before = error
    detail = f"every call inside {network} agrees: the difference comes from its own operations"
    return Divergence(candidate, OWN, detail, float("nan"), before)


def _class_of(module: Module, function: str, path: str) -> str:
    """The class of the function that is called at a path inside a function, as the emitted code names it."""
    fn = module.functions[function]
    while path:
        calls = [node for node in fn.nodes if node.op == "call"]
        node = next((n for n in calls if f"{path}.".startswith(f"{n.attrs['name']}.")), None)
        if node is None:
            return ""
        fn = module.functions[node.attrs["fn"]]
        path = path[len(node.attrs["name"]) + 1 :]
    return fn.origin.cls if fn.origin else ""


def diverging_evaluation(subject: Subject, request: Request, candidate: str, tolerance: float) -> Divergence:
    """The first call of a network in a program whose operands are further from the oracle's than `tolerance`.

    Single methods agree when this is called, so the difference arises between two calls.
    """
    operands = subject.operands(request)
    exact, expected = _oracle_calls(subject, request, operands, candidate)
    if expected[0].dtype.kind in "iu":
        return _diverging_token(subject, request, expected[0], candidate)
    shown = (_torch_calls if candidate == TORCH else _engine_calls)(subject, request, operands)
    errors: dict[int, float] = {-1: 0.0}
    agrees, differs = -1, len(exact)
    while differs - agrees > 1:
        chosen = np.linspace(agrees + 1, differs - 1, min(AT_ONCE, differs - agrees - 1)).round().astype(int)
        for i, results in shown(sorted({int(i) for i in chosen})).items():
            errors[i] = max(map(_error, results, exact[i]), default=0.0)
            if errors[i] > tolerance:
                differs = i
                break
            agrees = i
    if differs < len(exact):
        what = f"it arises after evaluation {differs}" if differs else "it arises before the first evaluation"
        place = f"evaluation {differs + 1} of {len(exact)}"
        return Divergence(candidate, place, what, errors[differs], errors[agrees])
    error = max(map(_error, _results(subject, request, operands, candidate), expected))
    if error > tolerance:
        what = "every evaluation agrees: it arises after the last one"
        return Divergence(candidate, "the end", what, error, errors[agrees])
    detail = "compiled anew from the spec it agrees: the bundle is another version's, or its engines were exchanged"
    return Divergence(candidate, "nothing", detail, error, errors[agrees])


def _error(result: Array, reference: Array) -> float:
    return relative_error(np.asarray(result, np.float64), np.asarray(reference, np.float64))


Shown = Callable[[Sequence[int]], dict[int, list[Array]]]
"""The operands of some of a program's calls by their numbers, without caches."""


def _oracle_calls(
    subject: Subject, request: Request, operands: Operands, candidate: str
) -> tuple[list[list[Array]], Sequence[Array]]:
    """The operands of all calls, and the results. The emitted sampler guides as the module before its passes does."""
    lowered, entry = subject.lowered if candidate == TORCH else subject.expanded, subject.program(request.entry).entry
    found: list[list[Array]] = []

    def seen(network: str, method: str, given: Operands) -> None:
        found.append(_without_caches(subject, network, method, given))

    module = only_entry(lowered.module, entry)
    return found, watch(module, entry, methods_of(lowered), subject.arrays, operands, seen)


def _torch_calls(subject: Subject, request: Request, operands: Operands) -> Shown:
    methods = {name: tuple(subject.lowered.networks[name].methods) for name in subject.lowered.sampled}
    made = subject.emitted.network_calls(request.entry, methods, operands)
    calls = [_without_caches(subject, *call) for call in made]
    return lambda chosen: {i: calls[i] for i in chosen if i < len(calls)}


def _engine_calls(subject: Subject, request: Request, operands: Operands) -> Shown:
    """By the sampler compiled again, with the operands as further outputs."""
    lowered, entry = subject.expanded, subject.program(request.entry).entry
    module = only_entry(lowered.module, entry)
    every, own = calls_of(module, entry, methods_of(lowered)), len(module.entry(entry).outputs)

    def shown(chosen: Sequence[int]) -> dict[int, list[Array]]:
        calls = [every[i] for i in chosen]
        made = iter(_compiled(subject, operands_shown(module, entry, calls), entry, operands)[own:])
        methods = [lowered.networks[call.network].methods[call.method] for call in calls]
        given = [[next(made) for _ in method.inputs] for method in methods]
        return {
            i: _without_caches(subject, call.network, call.method, some)
            for i, call, some in zip(chosen, calls, given, strict=True)
        }

    return shown


def _compiled(subject: Subject, module: Module, entry: str, operands: Operands) -> list[Array]:
    module = for_form(module, "loop", ENGINES[subject.spec.target.engine])
    return runner(module, entry, subject.weights, subject.spec.target.opset, subject.backend)(operands)


def _without_caches(subject: Subject, network: str, method: str, operands: Operands) -> list[Array]:
    ports = subject.lowered.networks[network].methods[method].inputs
    return [x for x, port in zip(operands, ports, strict=True) if port.role != "cache"]


def _results(subject: Subject, request: Request, operands: Operands, candidate: str) -> Sequence[Array]:
    """The results of a program that a candidate compiles anew."""
    if candidate == TORCH:
        return subject.emitted.program(request.entry)(operands)
    entry = subject.program(request.entry).entry
    return _compiled(subject, only_entry(subject.expanded.module, entry), entry, operands)


def _diverging_token(subject: Subject, request: Request, expected: Array, candidate: str) -> Divergence:
    """The first token that differs, in order of position."""
    if candidate == ENGINE:
        got = next(iter(subject.pipeline.run(request).values()))
    else:
        got = subject.emitted.program(request.entry)(subject.operands(request))[0]
    flat, exact = got.reshape(len(got), -1), expected.reshape(len(got), -1)
    differing = np.nonzero((flat != exact).any(axis=0))[0]
    if not differing.size:
        return Divergence(candidate, "nothing", "this sample agrees; another of the batch does not", 0.0, 0.0)
    first = int(differing[0])
    detail = f"token {int(flat[0, first])} instead of {int(exact[0, first])}"
    return Divergence(candidate, f"position {first} of {flat.shape[1]}", detail, relative_error(flat, exact), 0.0)


__all__ = ["diverging_call", "diverging_evaluation"]
