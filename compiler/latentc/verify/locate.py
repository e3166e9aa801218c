"""Where a result first leaves the oracle: the call inside a method of a network, or the evaluation of a program."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from latentc.engines import ENGINES
from latentc.export.forms import for_form
from latentc.ir.core import Module, only_entry
from latentc.ir.interpret import Interpreter
from latentc.measure.calls import Call, Watched, methods_of, operands_shown
from latentc.measure.execute import runner
from latentc.measure.metrics import relative_error
from latentc.measure.probe import calls_shown
from latentc.measure.subject import Subject
from latentc.verify.methods import Called, Operands
from latentc.verify.report import ORACLE, TORCH, Divergence
from latentc.verify.tokens import drawn, draws_tokens
from latentc_runtime.request import Request

Array = np.ndarray
OWN = "(outside of any call)"
AT_ONCE = 8  # network calls whose operands one compiled sampler returns


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
        target = subject.spec.target
        looped = for_form(module, "loop", ENGINES[target.engine])
        run = runner(looped, entry, subject.deployed, target.opset, subject.backend)
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
    if (found := _diverging_token(subject, request, candidate)) is not None:
        return found
    run = _Run(subject, request, candidate)
    calls, exact, expected = run.by_oracle()
    errors: dict[int, float] = {-1: 0.0}
    agrees, differs = -1, len(exact)
    while differs - agrees > 1:
        chosen = np.linspace(agrees + 1, differs - 1, min(AT_ONCE, differs - agrees - 1)).round().astype(int)
        for i, operands in run.operands_of({int(i): calls[i] for i in sorted(set(chosen))}).items():
            errors[i] = max(map(_error, operands, exact[i]), default=0.0)
            if errors[i] > tolerance:
                differs = i
                break
            agrees = i
    if differs < len(exact):
        what = f"it arises after evaluation {differs}" if differs else "it arises before the first evaluation"
        place = f"evaluation {differs + 1} of {len(exact)}"
        return Divergence(candidate, place, what, errors[differs], errors[agrees])
    error = max(map(_error, run.results(), expected))
    if error > tolerance:
        what = "every evaluation agrees: it arises after the last one"
        return Divergence(candidate, "the end", what, error, errors[agrees])
    detail = "these samples agree; others of the batch do not"
    if candidate != TORCH:
        other = "the bundle is from another version, its engines were replaced, or only other samples differ"
        detail = f"compiled anew from the spec these samples agree: {other}"
    return Divergence(candidate, "nothing", detail, error, errors[agrees])


def _diverging_token(subject: Subject, request: Request, candidate: str) -> Divergence | None:
    """The first token that differs, in order of position; None without tokens, or if a decoder takes equal ones."""
    if not draws_tokens(subject, request)[0]:
        return None
    expected, got = drawn(subject, ORACLE, request)[0], drawn(subject, candidate, request)[0]
    flat, exact = got.reshape(len(got), -1), expected.reshape(len(expected), -1)
    differing = np.nonzero((flat != exact).any(axis=0))[0]
    if not differing.size:
        if subject.undecoded is not subject:
            return None
        return Divergence(candidate, "nothing", "these samples agree; another of the batch does not", 0.0, 0.0)
    first = int(differing[0])
    detail = f"token {int(flat[0, first])} instead of {int(exact[0, first])}"
    place = f"position {first} of {flat.shape[1]}"
    return Divergence(candidate, place, detail, relative_error(flat, exact), 0.0)


class _Run:
    """A run of a program by the oracle and by a candidate, which compiles it anew; operands leave out caches."""

    def __init__(self, subject: Subject, request: Request, candidate: str) -> None:
        self.subject, self.request, self.candidate = subject, request, candidate
        self.entry, self.inputs = subject.program(request.entry).entry, subject.operands(request)

    def by_oracle(self) -> tuple[list[Call], list[list[Array]], Sequence[Array]]:
        """All calls, their operands, and the results."""
        # The emitted sampler guides like the module before its passes.
        lowered = self.subject.lowered if self.candidate == TORCH else self.subject.expanded
        calls: list[Call] = []
        found: list[list[Array]] = []

        def seen(call: Call, operands: Operands) -> None:
            calls.append(call)
            found.append(self._without_caches(call.network, call.method, operands))

        module = only_entry(lowered.module, self.entry)
        results = Watched(module, methods_of(lowered), self.subject.arrays, seen).run(self.entry, *self.inputs)
        return calls, found, results

    def operands_of(self, chosen: Mapping[int, Call]) -> dict[int, list[Array]]:
        """The operands of some of the candidate's calls, by their numbers in the order of calls."""
        lowered = self.subject.expanded
        if self.candidate == TORCH:
            made = self._torch_calls
            return {i: self._without_caches(*made[i]) for i in chosen if i < len(made)}
        module = only_entry(lowered.module, self.entry)
        own, calls = len(module.entry(self.entry).outputs), list(chosen.values())
        outputs = iter(self._compiled(operands_shown(module, self.entry, calls))[own:])
        found = {}
        for i, call in chosen.items():
            operands = [next(outputs) for _ in lowered.networks[call.network].methods[call.method].inputs]
            found[i] = self._without_caches(call.network, call.method, operands)
        return found

    def results(self) -> Sequence[Array]:
        """The results of the candidate."""
        if self.candidate == TORCH:
            return self.subject.emitted.program(self.request.entry)(self.inputs)
        return self._compiled(only_entry(self.subject.expanded.module, self.entry))

    @functools.cached_property
    def _torch_calls(self) -> list[tuple[str, str, list[Array]]]:
        lowered = self.subject.lowered
        methods = {name: tuple(lowered.networks[name].methods) for name in lowered.sampled}
        return self.subject.emitted.network_calls(self.request.entry, methods, self.inputs)

    def _compiled(self, module: Module) -> list[Array]:
        spec = self.subject.spec
        looped = for_form(module, "loop", ENGINES[spec.target.engine])
        return runner(looped, self.entry, self.subject.weights, spec.target.opset, self.subject.backend)(self.inputs)

    def _without_caches(self, network: str, method: str, operands: Operands) -> list[Array]:
        ports = self.subject.lowered.networks[network].methods[method].inputs
        return [x for x, port in zip(operands, ports, strict=True) if port.role != "cache"]


def _error(result: Array, reference: Array) -> float:
    return relative_error(np.asarray(result, np.float64), np.asarray(reference, np.float64))
