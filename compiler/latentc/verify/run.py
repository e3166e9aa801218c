"""Does a bundle compute what its spec says? Oracle, emitted PyTorch and engine on the same inputs, through Polygraphy.

The forward of every network is compared on inputs taken along a sampling trajectory of the engine, and every sampler of
the bundle as a whole, with the same noise. A reference with one changed weight must fail the same comparison. Where
something fails, `locate` names the first call that differs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from latentc.components.contract import Network, Program
from latentc.diagnostics import DiagnosticError
from latentc.export.bundle import onnx_from_network
from latentc.ir.interpret import Interpreter
from latentc.ir.report import flops
from latentc.measure.forward import needed
from latentc.measure.memory import available_memory
from latentc.measure.metrics import relative_error
from latentc.measure.subject import Subject, open_subject
from latentc.measure.tolerances import Tolerance
from latentc.measure.trajectory import Feed, denoiser_feeds, engine_calls, token_feed
from latentc.verify.report import ENGINE, ORACLE, TORCH, Comparison, Control, Divergence, Report, Skipped
from latentc.verify.ties import reconciled
from latentc_runtime.sources import RandomSource

Array = np.ndarray
Progress = Callable[[int, int, str], None]

BUDGET = 120.0
"""Seconds that a verification may take by default, beyond which the float64 oracle leaves samplers out."""

ORACLE_RATE = 2e9
"""Floating-point operations a second that the oracle reaches at least; only decides whether to try it."""

SMALL = 1e9  # operations of one forward, below which threads do not pay
SIZES = (1, 2, 3)  # batches; the largest of the bundle comes with them where there is time


def verify(
    path: str | os.PathLike[str],
    *,
    budget: float = BUDGET,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Compare the engines of the bundle at `path` with its spec.

    `budget`: seconds that may be spent; what the oracle cannot do in them is skipped and reported so. `seed`: of the
    samples. `progress(done, total, what)` is told what is being run. Raises BundleError where the bundle cannot be
    opened, DiagnosticError where its spec cannot be read or a package is missing (E0706).
    """
    needed("polygraphy", "verification", 'pip install "latentc[verify]"')
    return _Verification(
        open_subject(path, device), budget, seed, progress or (lambda done, total, what: None)
    ).report()


@dataclass
class _Verification:
    subject: Subject
    budget: float
    seed: int
    progress: Progress
    comparisons: list[Comparison] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    oracle_speed: float = 0.0  # operations a second, measured; 0 where the oracle did not run

    def __post_init__(self) -> None:
        self.start = time.perf_counter()
        # Of what PyTorch and the engine make of the same weights, and of what the oracle makes of them.
        self.tolerance, self.exact = self.subject.tolerance(rounded=False), self.subject.tolerance(rounded=True)
        self.oracle = self._oracle_fits()
        self.torch = self._torch_works()

    def report(self) -> Report:
        """Everything compared. Small networks on one thread of PyTorch: more would wait for each other."""
        small = max(flops(self.subject.lowered.module, n.main.function) for n in self._networks()) < SMALL
        with self.subject.emitted.threads(1) if self.torch and small else contextlib.nullcontext():
            return self._report()

    def _networks(self) -> list[Network]:
        return [self.subject.lowered.networks[name] for name in self.subject.lowered.sampled]

    def _report(self) -> Report:
        subject = self.subject
        programs, networks = subject.lowered.programs, self._networks()
        total = len(networks) + len(programs) + 1
        self.progress(0, total, "sampling a trajectory")
        feeds = {network.name: self._feeds(network, programs[0]) for network in networks}
        for done, network in enumerate(networks):
            self.progress(done, total, f"comparing runs of network {network.name}")
            self._forward(network, feeds[network.name])
        for done, program in enumerate(programs):
            self.progress(len(networks) + done, total, f"comparing samplers of {program.steps} steps")
            self._sampler(program)
        if not all(c.ok for c in self.comparisons):
            self.progress(total - 1, total, "looking for where they part")
            self._locate(feeds)
        self.progress(total, total, "done")
        manifest = subject.pipeline.manifest
        return Report(
            bundle=str(subject.path),
            name=manifest.name,
            device=f"{subject.pipeline.device} ({manifest.engine}, {manifest.precision})",
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
        wanted = sum(8 * int(np.prod(expr.shape)) for expr in self.subject.weights.values())
        if wanted <= available_memory() / 2:
            return True
        self._skip("the oracle", f"its float64 weights take {wanted / 1e9:.1f} GB of memory")
        return False

    def _torch_works(self) -> bool:
        try:
            return bool(self.subject.emitted)
        except DiagnosticError as error:
            if [d.code for d in error.diagnostics] != ["E0706"]:
                raise
            self._skip("the emitted PyTorch", error.diagnostics[0].message)
            return False

    # ---- one run of a network

    def _feeds(self, network: Network, program: Program) -> list[Feed]:
        """Inputs of a network as a sampler gives them."""
        inputs, names = self._request(program, max(SIZES)), [v.name for v in self.subject.forward_inputs(network)]
        if network.discrete and network.recurrent:
            return [token_feed(network, names, self._engine(program)(*inputs.values()), inputs["y"], n) for n in SIZES]
        _, calls = engine_calls(self.subject, program, network, inputs)
        if not calls:
            self._skip(f"runs of network {network.name}", "the sampler does not call it")
            return []
        sizes = [*SIZES, self._largest(program)] if self._largest(program) > max(SIZES) else [*SIZES]
        return denoiser_feeds(names, calls, sizes, max(SIZES))

    def _largest(self, program: Program) -> int:
        return self.subject.pipeline.program(program.name, program.steps).max_batch or 0

    def _inside_profiles(self, program: Program) -> list[int]:
        """Batches at the ends of every profile of the plans, at the one it is tuned for, and between these."""
        profiles = {profile for plan in self.subject.pipeline.manifest.plans for profile in plan.profiles}
        points = {
            n for least, best, most in profiles for n in (least, (least + best) // 2, best, (best + most) // 2, most)
        }
        return sorted(n for n in points if n <= (self._largest(program) or n))

    def _forward(self, network: Network, feeds: list[Feed]) -> None:
        from latentc.verify.runners import FunctionRunner, joined, run

        if not feeds:
            return
        if self.subject.backend is not self.subject.pipeline.backend:
            self._skip(f"runs of network {network.name} by its plan", "plans are of samplers: ONNX Runtime ran it")
        subject, inputs = self.subject, self.subject.forward_inputs(network)
        with TemporaryDirectory(prefix="latentc-") as folder:
            model, external = onnx_from_network(
                subject.exported,
                network.name,
                network.main_method,
                subject.own(network),
                Path(folder),
                subject.spec.target.opset,
            )
            compiled, names = subject.engine_function(model, external), [value.name for value in inputs]
            runners = [
                FunctionRunner(ENGINE, inputs, lambda *arrays: compiled(dict(zip(names, arrays, strict=True)))[0])
            ]
            if self.torch:
                runners.append(FunctionRunner(TORCH, inputs, subject.emitted.forward(network.name)))
            feeds = self._affordable(network, feeds)
            found = run(runners, feeds)
        if self.oracle:
            small = [feed for feed in feeds if self._oracle_seconds(network, [feed]) < self._left() / 4]
            if small:
                oracle = FunctionRunner(ORACLE, inputs, self._oracle_forward(network, subject.oracle))
                found = joined(found, run([oracle], small))
                work = flops(subject.lowered.module, network.main.function) * sum(map(_size, small))
                self.oracle_speed = work / max(sum(found.seconds(ORACLE)), 1e-9)
            else:
                self._skip(f"runs of network {network.name} by the oracle", self._too_long(network, feeds[0]))
        what = "forward" if network.name == "main" else f"forward {network.name}"
        if not np.any(found.outputs(ENGINE)[0]):
            self._skip(
                f"what is behind the last layer of network {network.name}", "its outputs are all zero: untrained?"
            )
        points = [_point(feed) for feed in feeds]
        self._compare(found, what, points, [_size(feed) for feed in feeds], "forward")
        self._control(network, feeds[0], found.outputs(ENGINE)[0], what)

    def _affordable(self, network: Network, feeds: list[Feed]) -> list[Feed]:
        """Feeds without the largest batch where that would take too long."""
        largest = max(map(_size, feeds))
        if largest in SIZES or self._oracle_seconds(network, feeds[-1:]) < self._left() / 4:
            return feeds
        self._skip(f"runs of network {network.name} at batch {largest}", "they would take too long")
        return feeds[:-1]

    def _oracle_forward(self, network: Network, interpreter: Interpreter) -> Callable[..., Array]:
        return lambda *arrays: interpreter.run(f"{network.name}.{network.main_method}", *arrays, prefix=network.name)[0]

    def _oracle_seconds(self, network: Network, feeds: Sequence[Feed]) -> float:
        work = flops(self.subject.lowered.module, network.main.function) * sum(map(_size, feeds))
        return work / (self.oracle_speed or ORACLE_RATE)

    def _too_long(self, network: Network, feed: Feed) -> str:
        return f"one takes about {self._oracle_seconds(network, [feed]):.0f} s of a budget of {self.budget:.0f} s"

    def _compare(self, found: Any, what: str, points: Sequence[str], sizes: Sequence[int], kind: str) -> None:
        """Every pair of runners on every feed that both have run; the more exact one is the reference.

        `kind`: the tolerance, "forward", "sampler", or "tokens" for none.
        """
        present = [name for name in (ORACLE, TORCH, ENGINE) if any(name == n for n, _ in found.results)]
        for i, reference in enumerate(present):
            for candidate in present[i + 1 :]:
                between = self._between(reference, candidate)
                tolerance = 0.0 if kind == "tokens" else float(getattr(between, kind))
                errors = found.errors(reference, candidate, tolerance)
                self.comparisons += [
                    Comparison(what, point, size, reference, candidate, error, tolerance, ok)
                    for (error, ok), point, size in zip(errors, points, sizes, strict=False)
                ]

    def _between(self, reference: str, candidate: str) -> Tolerance:
        return self.tolerance if TORCH in (reference, candidate) else self.exact

    # ---- the control

    def _control(self, network: Network, feed: Feed, result: Array, what: str) -> None:
        """The engine's result against a reference with one changed weight."""
        subject, tolerance = self.subject, (self.exact if self.oracle else self.tolerance).forward
        error, path = 0.0, ""
        for path in _changeable(subject.arrays, network.name):
            changed = _changed(subject.arrays[path], max(0.01, 10 * tolerance))
            if self.oracle:
                reference = self._oracle_forward(network, subject.oracle_with({path: changed}))(*feed.values())
            elif self.torch:
                with subject.emitted.with_weight(network.name, path.removeprefix(f"{network.name}."), changed) as call:
                    reference = call(*feed.values())
            else:
                return
            error = relative_error(result, reference)
            if error > tolerance:
                break
        self.controls.append(Control(what, ENGINE, path, error, tolerance, error > tolerance))

    # ---- whole samplers

    def _request(self, program: Program, count: int) -> Feed:
        """Inputs of a sampler for `count` samples: classes in turn, scales from the default down."""
        return self.subject.request(program, count, self.seed, (1.0, 0.5, 0.0))

    def _engine(self, program: Program) -> Callable[..., Array]:
        """The bundle's own sampler as a function of its inputs."""
        names = [entry.name for entry in self.subject.pipeline.program(program.name, program.steps).inputs]
        return lambda *arrays: self.subject.sample(program, dict(zip(names, arrays, strict=True)))

    def _sampler(self, program: Program) -> None:
        from latentc.verify.runners import FunctionRunner, joined, run

        subject, inputs = self.subject, self.subject.sampler_inputs(program)
        call = self._engine(program)
        first = self._request(program, 1)
        begin = time.perf_counter()
        tokens = call(*first.values()).dtype.kind in "iu"
        if tokens and self._rounds_unseen():
            self._skip("samplers", "products with packed weights round more than the graph says, and draw other tokens")
            return
        # PyTorch is taken to be four times as slow as the engine.
        each = 5 * (time.perf_counter() - begin)
        sizes = [*SIZES] if sum(SIZES) * each < self._left() / 2 else [1]
        inside = [n for n in self._inside_profiles(program) if n not in SIZES]
        sizes += [n for n in inside if sum(inside) * each < self._left() / 4]
        largest = self._largest(program)
        if largest in sizes:
            pass
        elif largest > max(SIZES) and largest * each < self._left() / 4:
            sizes.append(largest)
        elif largest > max(SIZES) or sizes == [1]:
            count = max(largest, max(SIZES))
            self._skip(f"samplers of {program.steps} steps at batch {count}", f"it takes about {count * each:.0f} s")
        feeds = [self._request(program, size) for size in sizes]
        samplers = {ENGINE: call}
        if self.torch and tokens and subject.quantization is not None:
            self._skip("samplers by PyTorch", "it does not round as quantised layers do, and draws other tokens")
        elif self.torch:
            samplers[TORCH] = subject.emitted.sampler(program.steps, program.name)
        found = run([FunctionRunner(name, inputs, sample) for name, sample in samplers.items()], feeds)
        small = self._oracle_feeds(program, feeds)
        if small:
            samplers[ORACLE] = lambda *arrays: subject.oracle.run(program.entry, *arrays)[0]
            found = joined(found, run([FunctionRunner(ORACLE, inputs, samplers[ORACLE])], small))
        before = len(self.comparisons)
        # A sampler of one evaluation has no steps whose errors add up.
        kind = "tokens" if tokens else "forward" if program.evaluations == 1 else "sampler"
        self._compare(found, _label(program), [f"{program.steps} steps"] * len(feeds), sizes, kind)
        random = {name: s for name, s in program.sources.items() if isinstance(s, RandomSource)}
        # One number per token and sample: which token each decides is known.
        uniforms = next(
            (n for n, s in random.items() if s.distribution == "uniform" and feeds[0][n].ndim == 2),
            None,
        )
        if tokens and uniforms is not None:
            made = self.comparisons[before:]
            self.comparisons[before:] = [self._with_ties(c, found, samplers, feeds, uniforms) for c in made]

    def _rounds_unseen(self) -> bool:
        made = self.subject.pipeline.manifest.quantization
        return made is not None and made.scheme.endswith("_weights")

    def _with_ties(
        self, c: Comparison, found: Any, samplers: Mapping[str, Callable[..., Array]], feeds: list[Feed], uniforms: str
    ) -> Comparison:
        """A comparison of token sequences that differ, made again with ties decided alike."""
        if c.ok:
            return c
        which = next(i for i, feed in enumerate(feeds) if _batch(feed) == c.batch)
        got = found.outputs(c.candidate)[which]
        expected, ties = reconciled(samplers[c.reference], feeds[which], uniforms, got, self.exact.forward)
        error = relative_error(got, expected)
        return replace(c, error=error, ok=error == 0.0, ties=ties)

    def _oracle_feeds(self, program: Program, feeds: list[Feed]) -> list[Feed]:
        """The feeds that the oracle can sample in the time left."""
        if not self.oracle:
            return []
        each = flops(self.subject.lowered.module, program.entry) / (self.oracle_speed or ORACLE_RATE)
        for count in (len(SIZES), 1):
            if each * sum(_batch(f) for f in feeds[:count]) < self._left() / 2:
                return feeds[:count]
        why = f"one sample takes about {each:.0f} s of a budget of {self.budget:.0f} s"
        self._skip(f"samplers of {program.steps} steps by the oracle", why)
        return []

    # ---- where it went wrong

    def _locate(self, feeds: Mapping[str, list[Feed]]) -> None:
        from latentc.verify.locate import diverging_call, diverging_step

        subject = self.subject
        failed = [c for c in self.comparisons if not c.ok]
        for candidate in dict.fromkeys(c.candidate for c in failed):
            mine = [c for c in failed if c.candidate == candidate]
            forward = next((c for c in mine if c.what.startswith("forward")), None)
            if forward is not None:
                network = subject.lowered.networks[forward.what.removeprefix("forward").strip() or "main"]
                feed = feeds[network.name][0]
                # A call inside may be a little less exact than the whole; what went wrong is of the size of the error.
                least = max(self._between(ORACLE, candidate).forward, forward.error / 100)
                self.divergences.append(diverging_call(subject, network, feed, candidate == TORCH, least))
                continue
            if subject.quantization is not None:
                why = "single runs agree; samplers of quantised layers are not taken apart step by step"
                self.divergences.append(Divergence(candidate, "a sampler", why, mine[0].error, float("nan")))
                continue
            steps = int(mine[0].point.split()[0])
            program = next(p for p in subject.lowered.programs if (_label(p), p.steps) == (mine[0].what, steps))
            inputs = self._request(program, 1)
            self.divergences.append(diverging_step(subject, program, inputs, candidate == TORCH, self.tolerance))


def _label(program: Program) -> str:
    """What a program is called in the report: `sampler`, or its name if it is another."""
    return "sampler" if program.name == "sample" else f"program {program.name}"


def _size(feed: Feed) -> int:
    return len(next(iter(feed.values())))


def _batch(inputs: Feed) -> int:
    return len(inputs["y"]) if "y" in inputs else _size(inputs)


def _point(feed: Feed) -> str:
    return f"t={float(feed['t'][0]):.4g}" if "t" in feed else "sampled"


def _changeable(arrays: Mapping[str, Array], network: str) -> list[str]:
    """Weights to change for the control: a matrix in the middle, then the last ones, and the last outside of blocks.

    A fresh network has gates of zero, behind which a block's weights do nothing; the last layer's always do.
    """
    matrices = [p for p, a in arrays.items() if p.startswith(f"{network}.") and a.ndim >= 2 and p.endswith("weight")]
    outside = [path for path in matrices if path.count(".") == 2]
    return list(dict.fromkeys([*matrices[len(matrices) // 2 :][:1], *matrices[:-5:-1], *outside[-1:]]))


def _changed(array: Array, share: float) -> Array:
    """A weight with a share of its largest value (of 1 if all are zero) added to every other element, else taken off.

    Not added to all: what a norm gives has a mean of zero, so its sum with equal weights is zero as well.
    """
    signs = 1 - 2 * (np.arange(array.size) % 2).reshape(array.shape)
    return array + (signs * share * (np.max(np.abs(array)) or 1)).astype(array.dtype)


__all__ = ["BUDGET", "verify"]
