"""`compile` refuses a bundle whose engine computes something else than the spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_systems import SYSTEMS

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify import compiled
from latentc.verify.draws import drawn_weights
from latentc.weights import Array, write_safetensors
from latentc_runtime import load

SIZES = ("backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=4", "sampler.steps=6")
TOKENS = ("backbone.width=32", "backbone.depth=1", "backbone.block.mixer.heads=2")


def bundle(folder: Path, name: str, *overrides: str, **options: Any) -> list[str]:
    """Compiles a shipped spec with random weights into `folder`/b; returns the warnings."""
    lowered, file, warnings = lower(load_spec(name, None, list(overrides))), folder / "w.safetensors", list[str]()
    weights = drawn_weights(lowered, lowered.networks["main"], np.random.default_rng(0))
    write_safetensors(file, {path: Array(array) for path, array in weights.items()})
    api.compile(name, file, folder / "b", overrides=overrides, warn=warnings.append, **options)
    return warnings


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("digits_dit", SIZES),
        ("digits_dit", (*SIZES, "sampler.steps=2")),  # as a whole, too
        ("digits_dit", (*SIZES, "target.precision=fp16")),
        ("digits_llamagen", TOKENS),
    ],
)
def test_right_bundles_pass(name: str, sizes: tuple[str, ...], tmp_path: Path) -> None:
    assert bundle(tmp_path, name, *sizes) == []


@pytest.mark.parametrize(
    ("name", "sizes", "method"), [("digits_dit", SIZES, "forward"), ("digits_llamagen", TOKENS, "")]
)
def test_a_wrong_operator_is_refused(
    name: str, sizes: tuple[str, ...], method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relu(c: Context) -> None:
        c.final("Relu", [c.ins[0]])

    for op in ("gelu", "silu"):
        monkeypatch.setitem(TABLE, op, Lowering(relu, TABLE[op].opset))
    with pytest.raises(DiagnosticError) as caught:
        bundle(tmp_path, name, *sizes)
    (found,) = caught.value.diagnostics
    assert found.code == "E0513" and "ONNX Runtime computes" in found.message and method in found.message
    assert "--no-check" in (found.help or "")
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]  # nothing half-written
    bundle(tmp_path, name, *sizes, check=False)
    assert (tmp_path / "b").is_dir()


def test_an_attention_that_the_engine_gets_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four heads of four tokens, whose queries are normalised: right unless the compiler leaves them to OpenVINO."""
    pytest.importorskip("openvino")
    pixels = "data={kind: npz, path: train.npz, classes: 10, shape: [1, 4, 4]}"
    sizes = (*SYSTEMS["edm2"].sizes, pixels, "target.engine=openvino")
    assert bundle(tmp_path, "edm2", *sizes) == []
    monkeypatch.setattr("latentc.pipeline.fold_heads", lambda module: module)
    with pytest.raises(DiagnosticError) as caught:
        bundle(tmp_path, "edm2", *sizes, rebuild=True)
    assert [d.code for d in caught.value.diagnostics] == ["E0513"]
    assert np.isfinite(load(tmp_path / "b").sample([1])).all(), "the bundle that was right is still there"


def test_what_is_too_much_work_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "LARGEST", 0)
    (warning,) = bundle(tmp_path, "digits_dit", *SIZES)
    assert "too much work" in warning and "`forward`" in warning


def test_methods_that_are_called_late_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the decoder of an autoencoder is, for which the whole program would run."""
    checked: list[str] = []
    monkeypatch.setattr(compiled._Check, "__call__", lambda self, what, *given: checked.append(what))
    monkeypatch.setattr(compiled, "BEFORE", 0)
    (warning,) = bundle(tmp_path, "digits_llamagen", *TOKENS)
    assert "`decode`" in warning and "prefill" not in warning
    assert [what.split(",")[0] for what in checked] == ["`prefill`"]


def test_rounding_of_other_samples_counts_before_a_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the sample that is compared is small by luck; that of sixteen others excuses the difference, or not."""
    roundings = {1: 1e-9, compiled.FURTHER: 1e-3}
    monkeypatch.setattr(compiled, "rounding_error", lambda s, run, operands, *more: roundings[operands[0].shape[0]])
    run = compiled._run
    monkeypatch.setattr(compiled, "_run", lambda *given, **more: [x + 1e-3 for x in run(*given, **more)])
    monkeypatch.setattr(compiled, "called_methods", lambda *given: [])
    assert bundle(tmp_path, "digits_dit", *SIZES, "sampler.steps=2") == []
    roundings[compiled.FURTHER] = 1e-5
    with pytest.raises(DiagnosticError, match=r"program `sample`, wrong"):
        bundle(tmp_path, "digits_dit", *SIZES, "sampler.steps=2", rebuild=True)
