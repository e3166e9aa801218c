"""Programs whose tokens a first stage decodes: ties are decided as the engine decided them, other tokens are named."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from bundles import tiny_bundle

from latentc.export.lowerings import TABLE
from latentc.export.lowerings.table import Context, Lowering
from latentc.verify.report import ENGINE, Report
from latentc.verify.run import verify

STAGE = """
latentc: 1
name: stage
extends: vq_f16
backbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4, attention: [1], bottleneck: {size: 512, channels: 4}}
"""
SIZES = {
    "llamagen": ("backbone.block.feed_forward.multiple_of=8", "sampler={kind: autoregressive, guidance: {scale: 2.0}}"),
    "maskgit": ("sampler.steps=3",),
}


def report(name: str, off: float, folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> Report:
    """The report on a bundle with a decoder, whose engine adds `off` to the cumulative probabilities of tokens."""

    def cumsum(c: Context) -> None:
        c.final("Add", [c.tmp("CumSum", [c.ins[0], c.g.ints(c.axis)]), c.scalar(off)])

    monkeypatch.setitem(TABLE, "cumsum", Lowering(cumsum, TABLE["cumsum"].opset))
    (folder / "stage.yaml").write_text(STAGE)
    sizes = (
        "data.classes=3",
        "data.tokens={vocabulary: 512, grid: [4, 4]}",
        f"data.first_stage={{spec: {folder / 'stage.yaml'}, weights: stage.safetensors}}",
        "backbone.width=16",
        "backbone.depth=1",
        "backbone.block.mixer.heads=2",
        *SIZES[name],
    )
    return verify(tiny_bundle(name, folder / "bundle", sizes), seed=seed)


@pytest.mark.parametrize(("name", "seed"), [("llamagen", 4), ("maskgit", 1)])
def test_ties_before_a_decoder(name: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds draw numbers within 8e-6 of the border between two tokens, so that pictures differ by far."""
    found = report(name, 8e-6, tmp_path, monkeypatch, seed)
    assert found.ok, found.text()
    tied = [c for c in found.comparisons if c.ties and c.candidate == ENGINE]  # PyTorch's rounding may tie as well
    assert tied and all(c.program for c in tied)
    assert " tie" in found.text()


@pytest.mark.parametrize("name", SIZES)
def test_other_tokens_are_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(name, 3e-3, tmp_path, monkeypatch, seed=0)
    assert {c.what for c in found.comparisons if not c.ok} >= {"sampler"}
    (divergence,) = found.divergences
    assert divergence.candidate == ENGINE and divergence.path.startswith("position "), found.text()
    assert "token " in divergence.detail
