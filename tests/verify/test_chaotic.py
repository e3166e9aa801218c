"""Of programs that multiply every rounding error, the samples that float32 can compute are compared, no others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from bundles import TINY_DIT, tiny_bundle
from tiny_systems import SYSTEMS

from latentc.ir.builder import ModuleBuilder
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B, f32
from latentc.measure.calls import calls_of, methods_of
from latentc.measure.subject import open_subject
from latentc.verify import run
from latentc.verify.rounding import sample_roundings
from latentc.verify.run import verify
from latentc_runtime import Pipeline
from latentc_runtime.request import Request


def test_the_logistic_map_is_chaotic_at_4_and_steady_at_3() -> None:
    mb = ModuleBuilder()
    b = mb.function("f")
    x, rate = b.input("x", f32(B, 1)), b.input("rate", f32(B, 1))

    def body(inner: Any, i: Any, kept: Any, carried: Any, rows: Any) -> Any:
        (x,), (rate,) = carried, kept
        return (inner.mul(rate, x * (1.0 - x), out="x"),), ()

    b.output(*b.loop("f.map", 60, body, invariants=[rate], carried=[x], names=["x"]))
    mb.entries["f"] = b.finish("")
    module = mb.finish()
    subject: Any = SimpleNamespace(
        measured={}, oracle_with=lambda changed, dtype="f64": Interpreter(module, changed, dtype)
    )
    operands = [np.full((3, 1), 0.3, np.float32), np.array([[4.0], [2.5], [3.9]], np.float32)]

    def oracle(interpreter: Interpreter, given: Any) -> Any:
        return interpreter.run("f", *given)

    (exact,) = oracle(Interpreter(module), operands)
    off = sample_roundings(subject, oracle, operands, exact)
    assert off.shape == (3,)
    assert min(off[0], off[2]) > 1e-2 and off[1] < 1e-6


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One whose first sample is taken for chaotic."""
    monkeypatch.setattr(run, "rounding_error", lambda *given: 0.8)
    monkeypatch.setattr(run, "sample_roundings", lambda subject, f, operands, exact: np.where(_first(exact), 0.8, 1e-7))
    return tiny_bundle("digits_sit", tmp_path / "bundle", (*TINY_DIT, "backbone.depth=1"))


def _first(exact: np.ndarray) -> np.ndarray:
    return np.arange(len(exact)) == 0


def moved(row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the engine wrong in one sample of each request."""
    own: Callable[..., dict[str, np.ndarray]] = Pipeline.run

    def wrong(self: Pipeline, request: Any, *given: Any, **more: Any) -> dict[str, np.ndarray]:
        found = own(self, request, *given, **more)
        return {
            name: array + 0.5 * (np.arange(len(array)) == row)[:, None, None, None] for name, array in found.items()
        }

    monkeypatch.setattr(Pipeline, "run", wrong)


def test_samples_that_rounding_decides_are_left_out(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(0, monkeypatch)
    report = verify(bundle)
    assert report.ok, report.text()
    assert any("1 of 8 samples of sampler" in skipped.what and "80%" in skipped.why for skipped in report.skipped)
    (point,) = {c.point for c in report.comparisons if c.what == "sampler"}
    assert point.endswith("steps, 7 of 8 samples")


def test_others_have_to_agree(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved(1, monkeypatch)
    report = verify(bundle)
    failed = [c for c in report.comparisons if not c.ok]
    assert failed and all(c.what == "sampler" and c.candidate == "engine" for c in failed), report.text()


@pytest.mark.parametrize(("affordable", "rounding"), [(True, 2e-3), (True, 2e-6), (False, 2e-3)])
def test_rounding_is_measured_although_the_budget_is_spent(
    affordable: bool, rounding: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch and the engine alone differ by more than usual, in a program that the oracle has no time to compare."""
    monkeypatch.setattr(run, "rounding_error", lambda *given: rounding)
    monkeypatch.setattr(run._Verification, "_oracle_inputs", lambda *given: [])
    own, seconds = Pipeline.run, run._Verification._oracle_seconds
    if not affordable:
        monkeypatch.setattr(run._Verification, "_oracle_seconds", lambda self, f, n: 1e9 + seconds(self, f, n))
    changed = lambda self, request: {name: x * 1.001 for name, x in own(self, request).items()}  # noqa: E731
    monkeypatch.setattr(Pipeline, "run", changed)
    report = verify(tiny_bundle("digits_sit", tmp_path / "bundle", (*TINY_DIT, "backbone.depth=1")))
    found = [c for c in report.comparisons if c.what == "sampler"]
    assert {(c.reference, c.candidate) for c in found} == {("PyTorch", "engine")}
    assert all(c.ok == (affordable and rounding > 1e-4) for c in found), report.text()


def test_calls_inside_a_gradient_are_no_evaluations(tmp_path: Path) -> None:
    """The oracle has them in the derivative, so PyTorch's are not counted: both number evaluations alike."""
    tiny = SYSTEMS["ppgn"]
    subject = open_subject(tiny_bundle(tiny.spec, tmp_path / "bundle", tiny.sizes))
    entry = subject.pipeline.manifest.programs[0]
    request = Request(entry, subject.pipeline.usual_request(1, 0, entry.steps, entry.name).given)
    methods = {name: tuple(subject.lowered.networks[name].methods) for name in subject.lowered.sampled}
    found = subject.emitted.network_calls(entry, methods, subject.operands(request))
    module, program = subject.expanded.module, subject.program(entry).entry
    wanted = [(call.network, call.method) for call in calls_of(module, program, methods_of(subject.expanded))]
    assert [(network, method) for network, method, _ in found] == wanted
