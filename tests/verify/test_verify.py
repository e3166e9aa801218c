"""Verification finds a bundle right that is right, and says where one is wrong that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from bundles import TINY_DIT, TINY_TOKENS, tiny_bundle

from latentc.emit import ops as emit_ops
from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.ir.core import Module, only_entry
from latentc.ir.text import text_from_module
from latentc.lower import lower
from latentc.measure.tolerances import TOLERANCES, Tolerance
from latentc.pipeline import optimised
from latentc.spec import load_spec
from latentc.verify import methods
from latentc.verify import run as verification
from latentc.verify.control import control_of
from latentc.verify.report import ENGINE, ORACLE, TORCH, Control
from latentc.verify.run import verify


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle("digits_dit", tmp_path_factory.mktemp("verify") / "dit", TINY_DIT, steps=(6, 3))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle("digits_llamagen", tmp_path_factory.mktemp("verify") / "tokens", TINY_TOKENS)


def test_right_diffusion_bundle(dit: Path) -> None:
    told: list[tuple[int, int, str]] = []
    report = verify(dit, progress=lambda *step: told.append(step))
    assert report.ok and not report.broken, report.text()
    pairs = {(c.what, c.reference, c.candidate) for c in report.comparisons}
    assert pairs == {
        (what, *pair)
        for what in ("forward", "sampler")
        for pair in ((ORACLE, TORCH), (ORACLE, ENGINE), (TORCH, ENGINE))
    }
    assert {c.point for c in report.comparisons if c.what == "sampler"} == {"6 steps", "3 steps"}
    assert {c.batch for c in report.comparisons} == {1, 2, 3, 4}
    assert len({c.point for c in report.comparisons if c.what == "forward"}) >= 4, "several places of the trajectory"
    assert told[0][0] == 0 and told[-1][0] == told[-1][1]
    assert json.loads(json.dumps(report.data(), allow_nan=False))["ok"] is True


@pytest.mark.parametrize(("engine", "precision"), [("openvino", "bf16"), ("onnxruntime", "fp16")])
def test_forward_runs_the_graph_that_is_deployed(
    engine: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pass of the target has run on it, so a half-precision bundle's forward is not the float32 graph."""
    pytest.importorskip(engine)
    target = f"target={{engine: {engine}, precision: {precision}}}"
    bundle = tiny_bundle("digits_dit", tmp_path / "bundle", (*TINY_DIT, target))
    exported: list[Module] = []
    real = methods.runner

    def watched(module: Module, *args: Any) -> Any:
        exported.append(module)
        return real(module, *args)

    monkeypatch.setattr(methods, "runner", watched)
    report = verify(bundle)
    assert report.ok, report.text()
    spec = load_spec(bundle / "spec.yaml")
    deployed = optimised(lower(spec), spec).module
    (forward,) = exported
    assert text_from_module(only_entry(forward, "main.forward")) == text_from_module(
        only_entry(deployed, "main.forward")
    )


def test_right_token_bundle(tokens: Path) -> None:
    report = verify(tokens)
    assert report.ok, report.text()
    samplers = [c for c in report.comparisons if c.what == "sampler"]
    assert samplers and all(c.tolerance == 0 and c.error == 0 for c in samplers)


@pytest.mark.parametrize(
    "sampler",
    [
        "{kind: heun, steps: 4, guidance: {scale: 2.0, interval: [0.3, 0.9]}}",
        "{kind: ddim, steps: 4, eta: 1.0}",
    ],
)
def test_other_samplers(tmp_path: Path, sampler: str) -> None:
    spec = "sit" if "heun" in sampler else "digits_dit"
    sizes = ("data.shape=[4, 8, 8]", "data.classes=10") if spec == "sit" else ()
    folder = tiny_bundle(spec, tmp_path / "bundle", [*TINY_DIT[:3], *sizes, f"sampler={sampler}"])
    report = verify(folder)
    assert report.ok, report.text()


PRECISIONS = [("onnxruntime", "fp32"), ("onnxruntime", "fp16"), ("openvino", "fp32"), ("openvino", "bf16")]


@pytest.mark.parametrize(("engine", "precision"), PRECISIONS)
def test_right_generator_bundle(tmp_path: Path, engine: str, precision: str) -> None:
    """A discriminator stays out; the control changes weights enough to be seen behind spectral norms."""
    pytest.importorskip(engine)
    target = [f"target.engine={engine}", f"target.precision={precision}"]
    report = verify(tiny_bundle("digits_biggan", tmp_path / "bundle", target))
    assert report.ok, report.text()
    assert {c.what for c in report.comparisons} == {"forward", "sampler"}
    assert {c.tolerance for c in report.comparisons} == {TOLERANCES[precision].forward}, "one forward is all there is"
    assert [c.ok for c in report.controls] == [True]


def test_right_flow_bundle(tmp_path: Path) -> None:
    """Two methods, of which each program calls another, and a program of two outputs."""
    sizes = ("backbone.width=16", "backbone.flows=2", "backbone.block.mixer.heads=2")
    report = verify(tiny_bundle("digits_tarflow", tmp_path / "bundle", sizes))
    assert report.ok, report.text()
    programs = {"sampler", "program log_likelihood: log_likelihood", "program log_likelihood: latent"}
    assert {c.what for c in report.comparisons} == {"forward", "guided_inverse", *programs}
    assert [c.ok for c in report.controls] == [True]


def _wrong_gelu(c: Context) -> None:
    """ReLU for GELU: a mistake that keeps all shapes."""
    c.final("Relu", [c.ins[0]])


def test_wrong_lowering_is_traced_to_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "gelu", Lowering(_wrong_gelu, TABLE["gelu"].opset))
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT))
    assert not report.ok and not report.broken
    failed = {(c.what, c.reference, c.candidate) for c in report.comparisons if not c.ok}
    assert failed == {(w, r, ENGINE) for w in ("forward", "sampler") for r in (ORACLE, TORCH)}
    (found,) = report.divergences
    assert (found.candidate, found.path) == (ENGINE, "blocks.0.mlp")
    assert found.error > 1e-3 > found.before
    assert "blocks.0.mlp" in report.text() and "NOT VERIFIED" in report.text()


def test_wrong_emission_is_traced_to_its_call(dit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(emit_ops.TORCH, "gelu", emit_ops.TORCH["silu"])
    report = verify(dit)
    assert {c.candidate for c in report.comparisons if not c.ok and c.reference == ORACLE} == {TORCH}
    assert (report.divergences[0].candidate, report.divergences[0].path) == (TORCH, "blocks.0.mlp")


def test_engine_that_its_spec_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files hash well, but an older or faulty compiler wrote them."""
    with monkeypatch.context() as faulty:
        faulty.setitem(TABLE, "gelu", Lowering(_wrong_gelu, TABLE["gelu"].opset))
        folder = tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT)
    report = verify(folder)
    assert {c.what for c in report.comparisons if not c.ok} == {"sampler"}
    (found,) = report.divergences
    assert "compiled anew" in found.detail


def test_wrong_tokens_are_traced_to_a_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def backwards(c: Context) -> None:
        c.final("CumSum", [c.ins[0], c.g.ints(int(c.attrs["axis"]))], reverse=1)

    with monkeypatch.context() as faulty:
        faulty.setitem(TABLE, "cumsum", Lowering(backwards, TABLE["cumsum"].opset))
        folder = tiny_bundle("digits_llamagen", tmp_path / "bundle", TINY_TOKENS)
    report = verify(folder)
    assert not report.ok
    assert any(d.path.startswith("position ") for d in report.divergences), report.text()


def test_blind_comparison_is_reported_as_broken(dit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, "fp32", Tolerance(forward=1e6, sampler=1e6))
    report = verify(dit)
    assert all(c.ok for c in report.comparisons)
    assert report.broken and not report.ok
    assert "must fail did not" in report.text()


def test_network_after_a_few_steps(tmp_path: Path) -> None:
    # Gates and the last layer are all but zero, and the norm before that hides what adds to all its inputs alike.
    report = verify(tiny_bundle("digits_dit", tmp_path / "b", TINY_DIT, std=1e-6))
    assert report.ok and not report.broken, report.text()


def test_untrained_network(tmp_path: Path) -> None:
    """Its last layer is zero, and so is all it puts out: the control changes what still matters."""
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT, std=0.0))
    assert report.ok
    assert any("all zero" in s.why for s in report.skipped)


def test_small_budget_leaves_the_oracle_out(dit: Path) -> None:
    report = verify(dit, budget=0.0)
    assert not any(c.reference == ORACLE for c in report.comparisons)
    assert report.ok, "PyTorch and the engine are always compared"
    assert {s.what for s in report.skipped} >= {
        "samplers of 6 steps by the oracle",
        "forward by the oracle",
    }


def test_without_torch(dit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    real: Callable[..., object] = importlib.import_module

    def absent(name: str, *args: object) -> object:
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", absent)
    report = verify(dit)
    assert report.ok
    assert not any(TORCH in (c.reference, c.candidate) for c in report.comparisons)
    assert any(s.what == "the emitted PyTorch" for s in report.skipped)


def test_oracle_too_large(dit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "available_memory", lambda: 1000.0)
    report = verify(dit)
    assert report.ok, "the control then changes a weight of the emitted PyTorch"
    assert {c.reference for c in report.comparisons} == {TORCH}
    assert "GB of memory" in report.text()


def test_a_control_needs_a_weight_that_matters() -> None:
    """A reference that no weight changes is no control."""
    x, arrays = np.array([3.0, 4.0]), {"main.w.weight": np.ones((1, 2))}

    def made(bound: float) -> Control | None:
        def rerun(path: str, changed: np.ndarray) -> list[np.ndarray]:
            return [np.where(np.abs(x) < bound, changed[0] * x, x)]  # unchanged beyond the bound

        return control_of("spline", "main", ["w.weight"], arrays, [x], rerun, 1e-5)

    assert made(bound=0.1) is None
    assert (found := made(bound=10.0)) is not None and found.ok
