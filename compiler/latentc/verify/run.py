"""Compares the oracle, the emitted PyTorch and the engine of a bundle on the same inputs.

Every method that a program calls is compared on operands taken along a run of that program, and every program as a
whole with the same noise. A reference with one changed weight must fail the same comparison. If something differs,
`locate` names the first call that does.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentc.components.contract import Program
from latentc.diagnostics import DiagnosticError
from latentc.export.forms import ends_early
from latentc.ir.core import networks_called, only_entry, parameters
from latentc.ir.costs import flops
from latentc.ir.interpret import Interpreter
from latentc.measure.emitted import unfinished
from latentc.measure.execute import Runner
from latentc.measure.memory import available_memory
from latentc.measure.metrics import agreement, relative_error
from latentc.measure.subject import Subject, open_subject
from latentc.measure.tolerances import Tolerance, tolerance_of
from latentc.verify.control import control_of
from latentc.verify.locate import diverging_call, diverging_evaluation
from latentc.verify.methods import Called, Operands, called_methods, largest_error
from latentc.verify.report import ENGINE, ORACLE, TORCH, Comparison, Control, Divergence, Report, Skipped
from latentc.verify.rounding import MOST, MOVES, rounding_error, sample_roundings, with_rounding
from latentc.verify.rows import backwards, forwards, request_of_rows
from latentc.verify.tokens import draws_tokens, with_ties
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.request import Request

Array = np.ndarray
Progress = Callable[[int, int, str], None]
Results = dict[str, list[Sequence[Array]]]
"""{runner: the outputs for each of its inputs}; a runner may have run fewer inputs than the others."""

BUDGET = 120.0
"""Default number of seconds, after which the float64 oracle leaves programs out."""

ORACLE_RATE = 2e9
"""FLOP/s that the oracle reaches at least; decides whether to try it before its speed is measured."""

SMALL = 1e9
"""FLOPs of one network evaluation below which PyTorch runs on one thread."""

SIZES = (1, 2, 3)
"""Batches; the largest of the bundle is added if there is time."""

CHAOTIC = 8
"""Samples of a program that rounding may decide: those that it does not decide are compared."""

SETTINGS = (1.0, 0.5, 0.0)
"""Factors of the defaults of unbounded settings (the guidance scale), sample by sample."""


def verify(
    path: str | os.PathLike[str],
    *,
    budget: float = BUDGET,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compare the engines of the bundle at `path` with its spec.

    `budget`: seconds that it may take; what the oracle cannot do in that time is skipped and reported. `seed`: of the
    samples. `progress(done, total, what)` is called before each part. Raises BundleError if the bundle cannot be
    opened, DiagnosticError if its spec cannot be read, and E0713 if samples do not reach their end.
    """
    subject = open_subject(path, device)
    return _Verification(subject, budget, seed, progress or (lambda done, total, what: None)).report()


class _Verification:
    def __init__(self, subject: Subject, budget: float, seed: int, progress: Progress) -> None:
        self.subject, self.budget, self.seed, self.progress = subject, budget, seed, progress
        self.start = time.perf_counter()
        self.comparisons: list[Comparison] = []
        self.controls: list[Control] = []
        self.divergences: list[Divergence] = []
        self.skipped: list[Skipped] = []
        quantization, precision = subject.pipeline.manifest.quantization, subject.spec.target.precision
        # The oracle rounds as quantised layers do; PyTorch does not.
        self.exact, self.tolerance = (
            tolerance_of(precision, None if quantization is None else quantization.scheme, rounded)
            for rounded in (True, False)
        )
        self.oracle_speed = 0.0  # FLOP/s, measured; 0 before the oracle has run
        self.oracle = self._oracle_fits()
        self.torch = self._torch_works()

    def report(self) -> Report:
        """Everything compared."""
        lowered = self.subject.lowered
        evaluations = [m.function for name in lowered.sampled for m in lowered.networks[name].methods.values()]
        small = max((flops(lowered.module, function) for function in evaluations), default=0) < SMALL
        # More threads would wait for each other.
        with self.subject.emitted.threads(1) if self.torch and small else contextlib.nullcontext():
            return self._report()

    def _report(self) -> Report:
        pipeline = self.subject.pipeline
        manifest = pipeline.manifest
        self.progress(0, len(manifest.programs) + 1, "sampling a trajectory")
        first = {entry.name: entry for entry in reversed(manifest.programs)}
        requests = [self._request(first[name], max(SIZES)) for name in dict.fromkeys(e.name for e in manifest.programs)]
        methods = called_methods(self.subject, requests, self.budget / 10)
        total = len(methods) + len(manifest.programs) + 1
        for done, called in enumerate(methods):
            self.progress(done, total, f"comparing {called.title}")
            self._method(called)
        for done, entry in enumerate(manifest.programs):
            self.progress(len(methods) + done, total, f"comparing {_title(entry)} of {entry.steps} steps")
            self._program(entry)
            if entry.chunk is not None:
                self._rows(entry)
        if not self.controls and (self.oracle or self.torch):
            self._control_of_program(manifest.programs[0])
        if not all(c.ok for c in self.comparisons):
            self.progress(total - 1, total, "looking for the first difference")
            self._locate(methods)
        self.progress(total, total, "done")
        return Report(
            bundle=str(self.subject.path),
            name=manifest.name,
            device=f"{pipeline.device} ({manifest.engine}, {manifest.precision})",
            comparisons=tuple(self.comparisons),
            controls=tuple(self.controls),
            divergences=tuple(self.divergences),
            skipped=tuple(self.skipped),
            seconds=time.perf_counter() - self.start,
        )

    # ---- what can be run

    def _left(self) -> float:
        return self.budget - (time.perf_counter() - self.start)

    def _skip(self, what: str, why: str) -> None:
        self.skipped.append(Skipped(what, why))

    def _oracle_fits(self) -> bool:
        size = sum(8 * int(np.prod(expr.shape)) for expr in self.subject.weights.values())
        if size <= available_memory() / 2:
            return True
        self._skip("the oracle", f"its float64 weights take {size / 1e9:.1f} GB of memory")
        return False

    def _torch_works(self) -> bool:
        try:
            return bool(self.subject.emitted)
        except DiagnosticError as error:
            if [d.code for d in error.diagnostics] != ["E0706"]:
                raise
            self._skip("the emitted PyTorch", error.diagnostics[0].message)
            return False

    def _oracle_seconds(self, function: str, samples: int) -> float:
        return flops(self.subject.lowered.module, function) * samples / (self.oracle_speed or ORACLE_RATE)

    def _request(self, entry: ProgramEntry, count: int) -> Request:
        """A usual request of a program, with a few values of each unbounded setting."""
        pipeline = self.subject.pipeline
        request = pipeline.usual_request(count, self.seed, entry.steps, entry.name)
        settings = dict(request.given.settings)
        for setting in pipeline.manifest.settings_of(entry):
            if setting.low is None and setting.high is None:
                settings[setting.name] = settings[setting.name] * np.resize(SETTINGS, count)
        return Request(entry, replace(request.given, settings=settings))

    # ---- one call of a method

    def _method(self, called: Called) -> None:
        subject, function = self.subject, called.method.function
        largest = max(entry.max_batch or 0 for entry in subject.pipeline.manifest.programs)
        sizes = [*SIZES, largest] if largest > max(SIZES) else [*SIZES]
        feeds = called.feeds(sizes, max(SIZES))
        if largest in sizes[len(SIZES) :] and self._oracle_seconds(function, largest) >= self._left() / 4:
            self._skip(f"{called.title} at batch {largest}", "it would take too long")
            feeds = [feed for feed in feeds if feed[1] != largest]
        if subject.backend is not subject.pipeline.backend:
            self._skip(f"{called.title} by its plan", "plans hold whole programs, so ONNX Runtime ran it")
        results: Results = {ENGINE: [called.engine(operands) for _, _, operands in feeds]}
        if self.torch:
            run = subject.emitted.method(called.network.name, called.name)
            results[TORCH] = [run(operands) for _, _, operands in feeds]
        if self.oracle:
            self._run_oracle(called, feeds, results)
        if not any(np.any(out) for out in results[ENGINE][0]):
            self._skip(f"all before the last layer of {called.network.name}", "its outputs are all zero: untrained?")
        compared = self._compared(called.title, feeds, results, "forward", called)

        def rounding() -> float:
            def run(oracle: Interpreter, operands: Operands) -> Operands:
                return oracle.run(f"{called.network.name}.{called.name}", *operands, prefix=called.network.name)

            error = functools.partial(largest_error, called=called)
            runs = zip(feeds, results.get(ORACLE, ()), strict=False)
            return max((rounding_error(subject, run, feed[2], exact, error) for feed, exact in runs), default=0.0)

        compared = with_rounding(compared, rounding)
        self.comparisons += compared
        widest = max((c.tolerance for c in compared if c.rounding is not None), default=0.0)
        self._control(called, [operands for *_, operands in feeds], results[ENGINE], widest)

    def _run_oracle(self, called: Called, feeds: Sequence[tuple[str, int, Operands]], results: Results) -> None:
        function = called.method.function
        small = [feed for feed in feeds if self._oracle_seconds(function, feed[1]) < self._left() / 4]
        if not small:
            seconds, budget = self._oracle_seconds(function, feeds[0][1]), self.budget
            self._skip(
                f"{called.title} by the oracle",
                f"one run takes about {seconds:.0f} s, but the budget is {budget:.0f} s",
            )
            return
        run, begin = self._oracle_method(called), time.perf_counter()
        results[ORACLE] = [run(operands) for _, _, operands in small]
        work = flops(self.subject.lowered.module, function) * sum(size for _, size, _ in small)
        self.oracle_speed = work / max(time.perf_counter() - begin, 1e-9)

    def _oracle_method(self, called: Called, changed: Mapping[str, Array] | None = None) -> Runner:
        oracle = self.subject.oracle if changed is None else self.subject.oracle_with(changed)
        name = called.network.name
        return lambda operands: list(oracle.run(f"{name}.{called.name}", *operands, prefix=name))

    # ---- comparisons

    def _compared(
        self,
        what: str,
        inputs: Sequence[tuple[str, int, Any]],
        results: Results,
        kind: str,
        called: Called | None = None,
    ) -> list[Comparison]:
        """Every pair of runners on all inputs that both have run; the more exact runner is the reference.

        `kind` of tolerance: "forward", "sampler", or "tokens" for none.
        """
        logits = [i for i, port in enumerate(called.method.outputs) if port.role == "logits"] if called else []
        present = [name for name in (ORACLE, TORCH, ENGINE) if name in results]
        compared = []
        for i, reference in enumerate(present):
            for candidate in present[i + 1 :]:
                tolerance = 0.0 if kind == "tokens" else float(getattr(self._between(reference, candidate), kind))
                for (point, size, _), exact, got in zip(inputs, results[reference], results[candidate], strict=False):
                    error = largest_error(got, exact, called)
                    same = min((agreement(got[k], exact[k]) for k in logits), default=None)
                    found = Comparison(what, point, size, reference, candidate, error, tolerance, error <= tolerance)
                    compared.append(replace(found, agreement=same, program=called is None))
        return compared

    def _between(self, reference: str, candidate: str) -> Tolerance:
        return self.tolerance if TORCH in (reference, candidate) else self.exact

    def _control(self, called: Called, feeds: Sequence[Operands], results: Sequence[Operands], least: float) -> None:
        """The engine's result against a reference with one changed weight, whose tolerance is at least `least`.

        On the first of `feeds` whose result depends on a weight.
        """
        known = any(control.network == called.network.name for control in self.controls)
        if known or not (self.oracle or self.torch):
            return
        subject, name = self.subject, called.network.name

        def rerun(path: str, changed: Array, operands: Operands) -> Sequence[Array]:
            if self.oracle:
                return self._oracle_method(called, {path: changed})(operands)
            with subject.emitted.with_weight(name, path.removeprefix(f"{name}."), changed):
                return subject.emitted.method(name, called.name)(operands)

        read, own = (
            parameters(subject.lowered.module, called.method.function),
            self.exact if self.oracle else self.tolerance,
        )
        tolerance = max(own.forward, least)
        for operands, result in zip(feeds, results, strict=True):
            run = functools.partial(rerun, operands=operands)
            made = control_of(called.title, name, read, subject.arrays, result, run, tolerance, called)
            if made is not None:
                self.controls.append(made)
                return
        self._skip(f"{called.title} with a changed weight", "no weight changes its results on these inputs")

    def _control_of_program(self, entry: ProgramEntry) -> None:
        """The same of samples, of programs that call no whole method, as those that always leave a network early."""
        subject, program, request = self.subject, self.subject.program(entry), self._request(entry, 1)
        operands, result = subject.operands(request), list(subject.pipeline.run(request).values())
        function = subject.lowered.module.entries[program.entry]
        for name in networks_called(subject.lowered.module, function):

            def rerun(path: str, changed: Array, name: str = name) -> Sequence[Array]:
                if self.oracle:
                    return subject.oracle_with({path: changed}).run(program.entry, *operands)
                with subject.emitted.with_weight(name, path.removeprefix(f"{name}."), changed):
                    return subject.emitted.program(entry)(operands)

            read = [path for path in parameters(subject.lowered.module, function) if path.startswith(f"{name}.")]
            own = [path.removeprefix(f"{name}.") for path in read]
            tolerance = self.tolerance.sampler
            made = control_of(_title(entry), name, own, subject.arrays, result, rerun, tolerance)
            self.controls += [] if made is None else [made]

    # ---- whole programs

    def _program(self, entry: ProgramEntry) -> None:
        subject, program = self.subject, self.subject.program(entry)
        title = f"{'samplers' if entry.name == 'sample' else entry.name} of {entry.steps} steps"
        runners: dict[str, Callable[[Request], Sequence[Array]]] = {
            ENGINE: lambda request: list(subject.pipeline.run(request).values())
        }
        subject.pipeline.warm_up(1, entry.steps, entry.name)  # some engines compile for a batch size at its first run
        begin = time.perf_counter()
        discrete = [output.dtype.kind in "iu" for output in runners[ENGINE](self._request(entry, 1))]
        each = 5 * (time.perf_counter() - begin)  # PyTorch is assumed to be four times slower than the engine
        if self._draws(program) and (why := self._other_tokens(all(discrete))):
            self._skip(title, why)
            return
        sizes = self._sizes(entry, title, each)
        inputs = [(f"{entry.steps} steps", size, self._request(entry, size)) for size in sizes]
        if self.torch and self._draws(program) and subject.quantization is not None:
            self._skip(f"{title} by PyTorch", "it does not round as quantised layers do, so it draws other tokens")
        elif self.torch:
            runners[TORCH] = lambda request: subject.emitted.program(entry)(subject.operands(request))
        oracle_inputs = self._oracle_inputs(program, inputs, title)
        if oracle_inputs:
            runners[ORACLE] = lambda request: subject.oracle.run(program.entry, *subject.operands(request))
        results: Results = {
            name: [run(request) for _, _, request in (oracle_inputs if name == ORACLE else inputs)]
            for name, run in runners.items()
        }
        chooses_steps = ends_early(only_entry(subject.lowered.module, program.entry))
        if chooses_steps and any(np.isnan(outputs[0]).any() for outputs in results.get(ORACLE, [])):
            raise unfinished(entry)  # as the emitted sampler does, unless it is missing
        for i, output in enumerate(entry.outputs):
            if program.outputs and program.outputs[i].effort:
                continue
            # A program of one evaluation has no steps over which errors add up.
            kind = "tokens" if discrete[i] else "forward" if program.evaluations == 1 else "sampler"
            what = _title(entry) if len(entry.outputs) == 1 else f"{_title(entry)}: {output.name}"
            own: Results = {name: [[outputs[i]] for outputs in runs] for name, runs in results.items()}
            compared = self._compared(what, inputs, own, kind)

            def rounding(i: int = i) -> float:
                def run(oracle: Interpreter, operands: Operands) -> Operands:
                    return [oracle.run(program.entry, *operands)[i]]

                def error(got: Operands, exact: Operands) -> float:
                    return relative_error(got[0], exact[0])

                requests = [request for *_, request in oracle_inputs] or [self._request(entry, 1)]
                exact = results.get(ORACLE) or [subject.oracle.run(program.entry, *subject.operands(requests[0]))]
                return max(
                    rounding_error(subject, run, subject.operands(request), [want[i]], error)
                    for request, want in zip(requests, exact, strict=True)
                )

            if not self._draws(program) or not draws_tokens(subject, inputs[0][2])[i]:
                # Of PyTorch and the engine alone nobody can say which is wrong, or whether both are rounded: the oracle
                # then runs one sample beyond the budget, if that takes no longer than the budget itself.
                if oracle_inputs or (self.oracle and self._oracle_seconds(program.entry, 1) <= self.budget):
                    compared = with_rounding(compared, rounding)
                if any(c.rounding is not None and c.rounding > MOST for c in compared):
                    compared = self._steady(entry, i, runners, what) or compared
            else:
                which, width = {size: n for n, size in enumerate(sizes)}, self.exact.forward
                compared = [
                    with_ties(c, subject, inputs[n][2], i, results[c.candidate][n][i], runners[c.reference], width)
                    for c in compared
                    for n in (which[c.batch],)
                ]
            self.comparisons += compared

    def _rows(self, entry: ProgramEntry) -> None:
        """More rows than a chunk, beside references that compute them in other chunks."""
        subject, program = self.subject, self.subject.program(entry)
        request = request_of_rows(subject.pipeline.manifest, entry, 2, self.seed)
        turned = backwards(request).in_chunks()
        what, operands = f"{_title(entry)}: {request.rows} rows", subject.operands(turned)
        results: Results = {ENGINE: [list(subject.pipeline.run(request).values())]}
        if self.torch:
            results[TORCH] = [forwards(request, subject.emitted.program(entry)(operands))]
        exact: list[Array] = []
        if self.oracle and self._oracle_seconds(program.entry, len(turned)) < self._left() / 4:
            exact = list(subject.oracle.run(program.entry, *operands))
            results[ORACLE] = [forwards(request, exact)]
        elif self.oracle:
            self._skip(f"{what} by the oracle", "it would take too long")
        inputs = [(f"{entry.steps} steps, chunks of {entry.chunk and entry.chunk.size}", len(request), request)]
        compared = self._compared(what, inputs, results, "forward" if program.evaluations == 1 else "sampler")

        def rounding() -> float:
            def run(oracle: Interpreter, operands: Operands) -> Operands:
                return oracle.run(program.entry, *operands)

            return rounding_error(subject, run, operands, exact, functools.partial(largest_error, called=None))

        self.comparisons += with_rounding(compared, rounding) if exact else compared

    def _steady(
        self, entry: ProgramEntry, output: int, runners: Mapping[str, Callable[[Request], Sequence[Array]]], what: str
    ) -> list[Comparison]:
        """Comparisons of the samples of a chaotic program that float32 computes to the usual tolerance.

        Reports the others as skipped; empty if there are no such samples. The oracle alone decides which they are.
        """
        function = self.subject.program(entry).entry
        fits = self._oracle_seconds(function, CHAOTIC * (2 + MOVES)) < self._left()
        request = self._request(entry, CHAOTIC if fits else max(SIZES))

        def run(oracle: Interpreter, operands: Operands) -> Operands:
            return [oracle.run(function, *operands)[output]]

        operands = self.subject.operands(request)
        (exact,) = run(self.subject.oracle, operands)
        off = sample_roundings(self.subject, run, operands, exact)
        steady = off <= self.exact.sampler
        if not steady.any():
            return []
        if not steady.all():
            which = f"{np.sum(~steady)} of {len(steady)} samples of {what} in {entry.steps} steps"
            self._skip(which, f"every step multiplies errors, and rounding alone moves them by {np.max(off):.0%}")
        results: Results = {
            name: [[(exact if name == ORACLE else own(request)[output])[steady]]] for name, own in runners.items()
        }
        point = f"{entry.steps} steps, {np.sum(steady)} of {len(steady)} samples"
        compared = self._compared(what, [(point, len(steady), request)], results, "sampler")
        return with_rounding(compared, lambda: float(np.max(off[steady])))

    def _draws(self, program: Program) -> bool:
        """True if a program draws tokens from logits, so that rounding may decide between two of them."""
        module, networks = self.subject.lowered.module, self.subject.lowered.networks
        called = networks_called(module, module.entries[program.entry])
        return any(networks[name].discrete for name in called)

    def _other_tokens(self, tokens: bool) -> str | None:
        """Why a program that draws tokens is not compared; `tokens`: they are its output."""
        manifest = self.subject.pipeline.manifest
        if manifest.quantization is not None and manifest.quantization.scheme.endswith("_weights"):
            return "matmuls with packed weights round more than the graph says, so they draw other tokens"
        if not tokens and (manifest.quantization is not None or manifest.precision != "fp32"):
            return "rounding makes it draw other tokens, and the output does not show which"
        return None

    def _sizes(self, entry: ProgramEntry, title: str, each: float) -> list[int]:
        """Batches of a program that there is time for, at `each` seconds per sample."""
        largest = entry.max_batch or 0
        profiles = {profile for plan in self.subject.pipeline.manifest.plans for profile in plan.profiles}
        # The ends of every profile of the plans, the batch it is tuned for, and one between each two of these.
        points = {n for low, best, high in profiles for n in (low, (low + best) // 2, best, (best + high) // 2, high)}
        inside = sorted(n for n in points if n not in SIZES and n <= (largest or n))
        sizes = [*SIZES] if sum(SIZES) * each < self._left() / 2 else [1]
        sizes += [n for n in inside if sum(inside) * each < self._left() / 4]
        if largest in sizes:
            return sizes
        if largest > max(SIZES) and largest * each < self._left() / 4:
            sizes.append(largest)
        elif largest > max(SIZES) or sizes == [1]:
            count = max(largest, max(SIZES))
            self._skip(f"{title} at batch {count}", f"it takes about {count * each:.0f} s")
        return sizes

    def _oracle_inputs(
        self, program: Program, inputs: list[tuple[str, int, Request]], title: str
    ) -> list[tuple[str, int, Request]]:
        """The inputs that the oracle has time for."""
        if not self.oracle:
            return []
        for count in (len(SIZES), 1):
            samples = sum(size for _, size, _ in inputs[:count])
            if self._oracle_seconds(program.entry, samples) < self._left() / 2:
                return inputs[:count]
        each = self._oracle_seconds(program.entry, 1)
        self._skip(
            f"{title} by the oracle", f"one sample takes about {each:.0f} s, but the budget is {self.budget:.0f} s"
        )
        return []

    # ---- the first divergence

    def _locate(self, methods: Sequence[Called]) -> None:
        subject = self.subject
        failed = [c for c in self.comparisons if not c.ok]
        for candidate in dict.fromkeys(c.candidate for c in failed):
            mine = [c for c in failed if c.candidate == candidate]
            found = next((c for c in mine if not c.program), None)
            if found is not None:
                called = next(one for one in methods if one.title == found.what)
                # A call inside may be slightly less exact than the whole; a mistake is as large as the error itself.
                least = max(self._between(ORACLE, candidate).forward, found.error / 100)
                operands = called.feeds(SIZES, max(SIZES))[0][2]
                self.divergences.append(diverging_call(subject, called, operands, candidate, least))
            elif subject.quantization is not None:
                why = "single calls agree; programs with quantised layers are not taken apart step by step"
                self.divergences.append(Divergence(candidate, "a program", why, mine[0].error, float("nan")))
            else:
                steps, title = int(mine[0].point.split()[0]), mine[0].what.split(":")[0]
                entries = subject.pipeline.manifest.programs
                entry = next(e for e in entries if (_title(e), e.steps) == (title, steps))
                request, least = self._request(entry, max(SIZES)), self.tolerance.sampler
                self.divergences.append(diverging_evaluation(subject, request, candidate, least))


def _title(entry: ProgramEntry) -> str:
    """The name of a program in the report: `sampler`, or `program NAME` for others."""
    return "sampler" if entry.name == "sample" else f"program {entry.name}"
