"""Where a result first leaves the oracle: the call inside a network, or the step of a sampler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from latentc.components.contract import Network, Program
from latentc.export.bundle import onnx_from_network
from latentc.ir.interpret import Interpreter
from latentc.measure.metrics import relative_error
from latentc.measure.probe import calls_shown
from latentc.measure.subject import Subject
from latentc.measure.tolerances import Tolerance
from latentc.measure.trajectory import engine_calls, oracle_calls
from latentc.verify.report import ENGINE, TORCH, Divergence

Array = np.ndarray
OWN = "(outside of any call)"


def diverging_call(
    subject: Subject, network: Network, feed: Mapping[str, Array], torch: bool, tolerance: float
) -> Divergence:
    """The first call inside a network's forward whose result is further from the oracle's than `tolerance`.

    Calls are taken in the order they end, so a call inside another comes before it. `torch`: of the emitted PyTorch,
    else of the engine, for which the network is compiled with the results of its calls as outputs.
    """
    entry = f"{network.name}.{network.main_method}"
    module, paths = calls_shown((subject.expanded if torch else subject.exported).module, entry)
    _, *exact = Interpreter(module, subject.measured).run(entry, *feed.values(), prefix=network.name)
    if torch:
        results = subject.emitted.inner_results(network.name, list(feed.values()))
    else:
        made = _engine_results(subject, network, feed, replace(subject.exported, module=module))
        results = dict(zip(paths, made, strict=True))
    errors = [(path, relative_error(results[path], e)) for path, e in zip(paths, exact, strict=True) if path in results]
    before = 0.0
    for path, error in errors:
        if error > tolerance:
            cls = _class_of(subject, network, path)
            return Divergence(TORCH if torch else ENGINE, path, f"in {cls}" if cls else "", error, before)
        before = error
    detail = f"every call inside {network.name} agrees: the difference is made by its own operations"
    return Divergence(TORCH if torch else ENGINE, OWN, detail, float("nan"), before)


def _engine_results(subject: Subject, network: Network, feed: Mapping[str, Array], lowered: object) -> list[Array]:
    with TemporaryDirectory(prefix="latentc-") as folder:
        model, external = onnx_from_network(
            lowered,  # type: ignore[arg-type]
            network.name,
            network.main_method,
            subject.own(network),
            Path(folder),
            subject.spec.target.opset,
        )
        return subject.engine_function(model, external)(feed)[1:]


def _class_of(subject: Subject, network: Network, path: str) -> str:
    """The class of the function that is called at a path of a network, as the emitted code names it."""
    fn = subject.lowered.module.functions[network.main.function]
    rest = path
    while rest:
        node = next(
            (
                n
                for n in fn.nodes
                if n.op == "call" and (rest == n.attrs["name"] or rest.startswith(n.attrs["name"] + "."))
            ),
            None,
        )
        if node is None:
            return ""
        fn = subject.lowered.module.functions[node.attrs["fn"]]
        rest = rest[len(node.attrs["name"]) + 1 :]
    return fn.origin.cls if fn.origin else ""


def diverging_step(
    subject: Subject, program: Program, inputs: Mapping[str, Array], torch: bool, tolerance: Tolerance
) -> Divergence:
    """The first evaluation of a sampler whose input is further from the oracle's than the sampler's tolerance.

    Single forwards agree where this is asked, so what differs is made between two evaluations.
    """
    candidate = TORCH if torch else ENGINE
    main = subject.lowered.networks.get("main") or next(iter(subject.lowered.networks.values()))
    if main.discrete and main.recurrent:
        return _diverging_token(subject, program, inputs, torch)
    expected, exact = oracle_calls(subject, program, main, inputs)
    if torch:
        got = subject.emitted.network_calls(main.name, program.steps, list(inputs.values()), program.name)
        result = subject.emitted.sampler(program.steps, program.name)(*inputs.values())
    else:
        result, got = engine_calls(subject, program, main, inputs)
    before = 0.0
    for i, (ours, theirs) in enumerate(zip(exact, got, strict=False)):
        error = _call_error(ours, theirs)
        if error > tolerance.sampler:
            what = f"made after evaluation {i}" if i else "in what is prepared before the first evaluation"
            return Divergence(candidate, f"evaluation {i + 1} of {len(exact)}", what, error, before)
        before = error
    error = relative_error(result, expected)
    if error > tolerance.sampler:
        return Divergence(candidate, "the end", "every evaluation agrees: made after the last one", error, before)
    detail = "compiled anew from the spec it agrees: the bundle is another version's, or its engines were exchanged"
    return Divergence(candidate, "nothing", detail, error, before)


def _call_error(ours: Sequence[Array], theirs: Sequence[Array]) -> float:
    return max(
        relative_error(np.asarray(b, np.float64), np.asarray(a, np.float64)) for a, b in zip(ours, theirs, strict=True)
    )


def _diverging_token(subject: Subject, program: Program, inputs: Mapping[str, Array], torch: bool) -> Divergence:
    """The first token that differs, in order of position."""
    expected = subject.oracle.run(program.entry, *inputs.values())[0]
    emitted = subject.emitted.sampler(program.steps, program.name) if torch else None
    got = subject.sample(program, inputs) if emitted is None else emitted(*inputs.values())
    differing = np.nonzero((got != expected).any(axis=0))[0]
    candidate = TORCH if torch else ENGINE
    if not differing.size:
        return Divergence(candidate, "nothing", "this sample agrees; another of the batch does not", 0.0, 0.0)
    first = int(differing[0])
    share = float(np.mean(got != expected))
    detail = f"token {int(got[0, first])} instead of {int(expected[0, first])}"
    return Divergence(candidate, f"position {first} of {expected.shape[1]}", detail, share, 0.0)


__all__ = ["diverging_call", "diverging_step"]
