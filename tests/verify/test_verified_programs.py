"""Any program of any networks is verified: encoders, caches, several programs; and a mistake between calls is found."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from bundles import TINY_DIT, TINY_TOKENS, tiny_bundle

from latentc.diagnostics import DiagnosticError
from latentc.emit.helpers import HELPERS
from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.verify.report import ENGINE, ORACLE, TORCH
from latentc.verify.run import _Verification, verify

SYSTEMS = {
    "an encoder": (
        "dp3",
        (
            "networks.main.widths=[16,32,64]",
            "networks.main.groups=8",
            "networks.encoder.features=16",
            "sampler.steps=3",
        ),
        {"encode encoder", "forward", "sampler"},
    ),
    "several programs": (
        "digits_maskgit",
        ("backbone.width=32", "backbone.depth=1", "sampler.steps=4"),
        {"forward", "sampler", "program inpaint"},
    ),
    "caches": ("digits_llamagen", TINY_TOKENS, {"prefill", "decode", "sampler"}),
}


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_method_and_program(system: str, tmp_path: Path) -> None:
    name, overrides, expected = SYSTEMS[system]
    report = verify(tiny_bundle(name, tmp_path / "bundle", overrides))
    assert report.ok, report.text()
    assert {c.what for c in report.comparisons} == expected
    pairs = {(ORACLE, TORCH), (ORACLE, ENGINE), (TORCH, ENGINE)}
    for what in expected:
        assert {(c.reference, c.candidate) for c in report.comparisons if c.what == what} == pairs
    assert {c.network for c in report.controls} == ({"main", "encoder"} if name == "dp3" else {"main"})
    scored = [c.agreement for c in report.comparisons if c.agreement is not None]
    assert bool(scored) == ("dp3" not in name) and all(share == 1.0 for share in scored)


@pytest.mark.parametrize("torch", [True, False])
def test_samples_that_do_not_reach_their_end(torch: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are NaN by the engine and by the oracle, which is no difference between the two."""
    monkeypatch.setattr(_Verification, "_torch_works", lambda self: torch)
    sizes = (*TINY_DIT[:-1], "backbone.depth=1", "sampler={kind: dopri5, rtol: 1e-7, atol: 1e-7, max_steps: 2}")
    with pytest.raises(DiagnosticError) as caught:
        verify(tiny_bundle("digits_sit", tmp_path / "bundle", sizes))
    (found,) = caught.value.diagnostics
    assert found.code == "E0713" and "after the 2 steps of `sample`" in found.message
    assert found.help is not None and "--steps 20" in found.help


def test_wrong_method_of_a_token_model_is_traced_to_its_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(c: Context) -> None:
        c.final("Relu", [c.ins[0]])

    monkeypatch.setitem(TABLE, "silu", Lowering(wrong, TABLE["silu"].opset))
    report = verify(tiny_bundle("digits_llamagen", tmp_path / "bundle", TINY_TOKENS))
    assert {"prefill", "decode"} <= {c.what for c in report.comparisons if not c.ok}
    (found,) = report.divergences
    assert (found.candidate, found.path) == (ENGINE, "blocks.0.mlp"), report.text()


def test_wrong_emission_between_evaluations_is_traced_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "uncond + scale" in HELPERS["guide"]
    monkeypatch.setitem(HELPERS, "guide", HELPERS["guide"].replace("uncond + scale", "uncond + 1.5 * scale"))
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT))
    assert {(c.what, c.reference) for c in report.comparisons if not c.ok} == {("sampler", ORACLE), ("sampler", TORCH)}
    found = {d.candidate: d for d in report.divergences}
    assert found[TORCH].path == "evaluation 2 of 6" and found[TORCH].error > 1e-3 > found[TORCH].before


def test_wrong_lowering_between_evaluations_is_traced_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance alone subtracts."""
    monkeypatch.setitem(TABLE, "sub", TABLE["add"])
    report = verify(tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT))
    assert {(c.what, c.candidate) for c in report.comparisons if not c.ok} == {("sampler", ENGINE)}
    (found,) = report.divergences
    assert (found.candidate, found.path) == (ENGINE, "evaluation 2 of 6") and found.before < 1e-4 < found.error
