"""Compares one evaluation of a finished bundle with the oracle's, so that `compile` refuses an engine that is wrong.

Each method that a program calls is run on the engine, after all passes and with the weights that the bundle holds, on
the operands of its first call; programs of a few evaluations are also compared as a whole. `verify` compares much more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from latentc.components.contract import Lowered
from latentc.diagnostics import Diagnostic, DiagnosticError
from latentc.engines import ENGINES
from latentc.ir.core import join, networks_called, parameters
from latentc.ir.costs import Costs, flops
from latentc.ir.interpret import Interpreter
from latentc.measure.calls import calls_of, methods_of
from latentc.measure.memory import available_memory
from latentc.measure.subject import Subject, weights_of
from latentc.measure.tolerances import tolerance_of
from latentc.pipeline import optimised
from latentc.spec import Spec
from latentc.verify.methods import called_methods, largest_error, title_of
from latentc.verify.rounding import FACTOR, MOST, Arrays, rounding_error
from latentc.verify.tokens import draws_tokens
from latentc_runtime import load
from latentc_runtime.manifest import Manifest
from latentc_runtime.request import Request

Array = np.ndarray
Oracle = Callable[[Interpreter, Arrays], Arrays]

LARGEST = 2e10
"""FLOPs of one call of a method, or of a whole program, up to which the oracle runs: about ten seconds."""

BEFORE = 1e11
"""FLOPs of the calls before a method's first one, which the engine makes, up to which it is compared."""

WHOLE = 4
"""Network evaluations up to which a program is compared as a whole; in longer ones rounding adds up."""

FURTHER = 16
"""Samples, within LARGEST in all, on which a program's rounding is measured before it is refused.

That of one sample may be small by luck: samplers of few, strongly guided steps multiply it by very different factors.
"""


def check_computes(
    folder: Path,
    manifest: Manifest,
    spec: Spec,
    lowered: Lowered,
    final: Lowered,
    tell: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """Compare the bundle in `folder` with the oracle; `warn` says what is left out because it is too much work.

    `final` is `lowered` after all passes. DiagnosticError E0513 if the engine is further off than the tolerance of
    samplers and than rounding explains.
    """
    entries = {entry.name: entry for entry in reversed(manifest.programs)}
    expanded = optimised(lowered, spec, "expand_guidance")
    methods = {n: _affordable(expanded, lowered.program(n, e.steps).entry) for n, e in entries.items()}
    wanted = {function for own, _ in methods.values() for function in own}
    left = {name: text for _, own in methods.values() for name, text in own.items() if name not in wanted}
    if left:
        warn(f"too much work to compare with the reference: {', '.join(left.values())}; `latentc verify` can")
    if (held := _memory(expanded, wanted)) > available_memory() / 2:
        warn(f"comparing with the reference needs {held / 1e9:.0f} GB of memory; `latentc verify` can do it")
        return
    if not wanted:
        return
    tell("comparing one evaluation with the reference")
    pipeline = load(folder, "cpu", verify=False)
    subject = Subject(folder, pipeline, spec, lowered, weights_of(pipeline, lowered, final)[0])
    subject.expanded, subject.exported = expanded, final
    check = _Check(subject)
    requests = [Request(e, subject.pipeline.usual_request(1, 0, e.steps, e.name).given) for e in entries.values()]
    done: set[str] = set()
    for request in requests:
        for method in called_methods(subject, [request], 0.0, methods[request.entry.name][0]):
            name = f"{method.network.name}.{method.name}"
            if name in done:
                continue
            done.add(name)
            place, operands = method.calls[0]
            run = functools.partial(_run, entry=name, prefix=method.network.name)
            error = functools.partial(largest_error, called=method)
            check(f"`{method.title}`, at {place}", method.engine(operands), run, operands, error)
    for request in requests:
        program = subject.program(request.entry)
        cost = flops(subject.lowered.module, program.entry)
        if program.evaluations > WHOLE or cost > LARGEST:
            continue
        outs = list(subject.pipeline.run(request).values())
        if _draws(subject, program.entry) and any(draws_tokens(subject, request)):
            continue  # rounding may decide between two tokens
        run = functools.partial(_run, entry=program.entry, prefix="")
        error = functools.partial(largest_error, called=None)
        count = min(FURTHER, max(1, int(LARGEST // max(cost, 1))))
        usual = subject.pipeline.usual_request(count, 1, request.entry.steps, request.entry.name)
        further = functools.partial(subject.operands, Request(request.entry, usual.given))
        check(f"program `{request.entry.name}`", outs, run, subject.operands(request), error, further)


class _Check:
    """Compares results of the engine with the oracle's, and measures the oracle's rounding error if they differ."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        manifest = subject.pipeline.manifest
        self.title, self.tolerance = ENGINES[manifest.engine].title, tolerance_of(manifest.precision).sampler

    def __call__(
        self,
        what: str,
        got: Arrays,
        run: Oracle,
        operands: Arrays,
        error: Callable[[Arrays, Arrays], float],
        further: Callable[[], Arrays] | None = None,
    ) -> None:
        """Raise E0513 if `got` is wrong; `further` gives operands of other samples, which may be rounded more."""
        exact = run(self.subject.oracle, operands)
        off = error(got, exact)
        if off <= self.tolerance:
            return
        rounding = rounding_error(self.subject, run, operands, exact, error)
        if further is not None and off > FACTOR * min(rounding, MOST):
            operands = further()
            exact = run(self.subject.oracle, operands)
            rounding = max(rounding, rounding_error(self.subject, run, operands, exact, error))
        if off <= FACTOR * min(rounding, MOST):
            return
        message = f"{self.title} computes {what}, wrong: its results are {off:.1e} off the reference"
        notes = (f"{self.tolerance:.0e} is tolerated, and float32 itself is {rounding:.1e} off",)
        mend = "compile for another engine (`--set target.engine=…`); `--no-check` writes the bundle all the same"
        raise DiagnosticError(Diagnostic("E0513", message, notes=notes, help=mend))


def _affordable(expanded: Lowered, entry: str) -> tuple[dict[str, str], dict[str, str]]:
    """The methods that a program calls, {function: method}, up to the first whose comparison is too much work.

    Also {function: title and reason} of the others: that method and those that are first called after it.
    """
    costs, every = Costs(expanded.module.functions), methods_of(expanded)
    wanted: dict[str, str] = {}
    left: dict[str, str] = {}
    before = 0
    for call in calls_of(expanded.module, entry, every):
        function = expanded.networks[call.network].methods[call.method].function
        cost = costs.flops(function)
        if function not in wanted:
            if left or cost > LARGEST or before > BEFORE:
                why = f"{cost / 1e9:.0f} GFLOP" if cost > LARGEST else "called late"
                left.setdefault(function, f"`{title_of(call.network, call.method)}` ({why})")
                continue
            wanted[function] = call.method
        before += cost
    return wanted, left


def _memory(expanded: Lowered, functions: Collection[str]) -> int:
    """Bytes of the weights of these methods in float64."""
    sizes = {
        join(network.name, path): param.value.type.count()
        for network in expanded.networks.values()
        for method in network.methods.values()
        if method.function in functions
        for path, param in parameters(expanded.module, method.function).items()
    }
    return 8 * sum(sizes.values())


def _run(oracle: Interpreter, operands: Arrays, entry: str, prefix: str) -> Arrays:
    return list(oracle.run(entry, *operands, prefix=prefix))


def _draws(subject: Subject, entry: str) -> bool:
    """True if a program calls a network of logits, which it may draw tokens from."""
    module, networks = subject.lowered.module, subject.lowered.networks
    return any(networks[name].discrete for name in networks_called(module, module.entries[entry]))
