"""`verify --training`: losses, their gradients and every method of every network, and mistakes that each would show."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")

from tiny_systems import SYSTEMS

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.emit import ops as emit_ops
from latentc.emit.text import Text
from latentc.ir.ops import OPS
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.report import ORACLE, TORCH, Report
from latentc.verify.training import verify_training


def of(name: str, *more: str) -> Report:
    tiny = SYSTEMS[name]
    spec = load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *more])
    return verify_training(spec, lower(spec), name)


# Diffusion with a learned variance, a GAN with a gradient penalty, MeanFlow's jvp, masked and autoregressive tokens, a
# VQGAN with its discriminator, a student and its teacher.
CHOSEN = {
    "uvit": {"loss", "gradient of loss by main", "forward"},
    "wgan_gp": {"loss discriminator", "gradient of loss discriminator by discriminator", "forward discriminator"},
    "mean_flow": {"gradient of loss by main"},
    "maskgit": {"gradient of loss by main"},
    "taming": {"gradient of loss by main", "prefill", "decode"},
    "vq_f16": {"gradient of loss by main", "encode", "decode"},
    "vae": {"gradient of loss by main", "posterior", "likelihood"},  # which returns a view of a parameter
    "guidance_distillation": {"gradient of loss by main", "forward teacher"},
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_trains_is_the_oracles(name: str) -> None:
    report = of(name)
    assert report.ok, report.text()
    assert {c.what for c in report.comparisons} >= CHOSEN[name]
    assert {c.reference for c in report.comparisons} == {ORACLE}
    assert report.skipped == () and report.controls
    json.dumps(report.data(), allow_nan=False)


def test_layers_that_change_in_training_are_compared_in_training() -> None:
    """Batch norms of a generator, whose statistics a spectrally normalised discriminator's loss updates as well."""
    spec = load_spec("digits_biggan", None, ["networks.main.width=8", "networks.discriminator.width=8"])
    report = verify_training(spec, lower(spec), "digits_biggan")
    assert report.ok, report.text()
    assert {"loss discriminator in training", "loss generator in training"} <= {c.what for c in report.comparisons}


def failed(report: Report) -> set[str]:
    return {c.what for c in report.comparisons if not c.ok}


def test_a_gradient_that_flows_where_it_must_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is right, so that only its gradient shows it."""
    monkeypatch.setitem(emit_ops.TORCH, "stop_gradient", lambda p, n: Text(p.arg(n.inputs[0]).atom))
    report = of("mean_flow")
    assert failed(report) == {"gradient of loss by main"}, report.text()
    assert not report.broken


def test_a_wrong_derivative_of_the_oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    row = OPS["gelu"]
    assert row.vjp is not None

    def wrong(b: Any, operands: Any, outs: Any, grads: Any, attrs: Any) -> Any:
        return [None if g is None else g * 1.01 for g in row.vjp(b, operands, outs, grads, attrs)]

    monkeypatch.setitem(OPS, "gelu", replace(row, vjp=wrong))
    assert failed(of("uvit")) == {"gradient of loss by main"}


def test_a_wrong_layer_shows_in_losses_and_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(emit_ops.TORCH, "gelu", emit_ops.TORCH["silu"])
    report = of("uvit")
    assert failed(report) >= {"loss", "gradient of loss by main", "forward"}
    assert {c.candidate for c in report.comparisons if not c.ok} == {TORCH}


def test_weights_that_would_fill_the_memory_are_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentc.verify.training.available_memory", lambda: 1e5)
    with pytest.raises(MemoryError):
        api.verify_training("digits_dit")


def test_a_small_budget_skips_and_says_so() -> None:
    tiny = SYSTEMS["uvit"]
    spec = load_spec(tiny.spec, tiny.variant, list(tiny.sizes))
    report = verify_training(spec, lower(spec), "uvit", budget=0.0)
    assert not report.ok and "NOT VERIFIED: nothing was compared" in report.text()
    assert not report.ok and not report.comparisons, "nothing compared is nothing verified"
    assert {one.what for one in report.skipped} >= {"loss", "forward"}


def test_given_weights_are_those_of_all_networks(tmp_path: Any) -> None:
    tiny = SYSTEMS["guidance_distillation"]
    with pytest.raises(DiagnosticError) as error:
        api.verify_training(tiny.spec, {"none": [1.0]}, overrides=tiny.sizes)
    assert error.value.diagnostics[0].code.startswith("E04")
