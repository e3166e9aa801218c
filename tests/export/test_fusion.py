"""What became one operator is counted in the engine's files, and a bundle that lacks some is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentc.api import fused
from latentc.diagnostics import DiagnosticError
from latentc.export.bundle import bundle_from_lowered
from latentc.export.fusion import require_fused
from latentc.ir.core import own_parameters
from latentc.lower import lower
from latentc.passes.decompose import decompose
from latentc.pipeline import hoist_reports, optimised
from latentc.spec import load_spec, resolved_yaml
from latentc.weights import Array
from latentc_runtime.manifest import Fusion, Plan

DIT = ("digits_dit", "backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2", "sampler.steps=5")
TOKENS = ("digits_llamagen", "backbone.width=32", "backbone.depth=2", "backbone.block.mixer.heads=2")


def compiled(folder: Path, name, *overrides, change=lambda module: module, **options):
    spec = load_spec(name, None, list(overrides))
    lowered = lower(spec)
    ready = optimised(lowered, spec)
    ready = replace(ready, module=change(ready.module))
    params = own_parameters(lowered.module, lowered.networks["main"].methods["forward"].function)
    weights = {
        path: Array(np.full([int(d) for d in p.type.shape], 0.01, np.float32))
        for path, p in params.items()
        if p.kind == "weight"
    }
    opset = spec.target.opset
    text = resolved_yaml(spec)
    return bundle_from_lowered(ready, spec, {"main": weights}, folder, spec_text=text, opset=opset, **options)


@pytest.mark.parametrize("form", ["unroll", "loop", "host"])
def test_counts_of_a_denoiser(form, tmp_path):
    manifest = compiled(tmp_path / "b", *DIT, form=form)
    times = 5 if form == "unroll" else 1
    fusion = manifest.fusion
    assert (fusion.attentions, fusion.operators, fusion.norms) == (2, 2 * times, 5 * times)
    assert fusion.merged == 0
    assert fused(manifest).startswith(f"{2 * times} attentions fused into one operator each, {5 * times} norms and ")


def test_what_hoisting_shares_counts_once(tmp_path):
    """Latents that begin each evaluation anew attend to themselves alike in all of them."""
    rin = (
        "backbone={kind: rin, data_width: 16, width: 16, latents: 6, blocks: 1, layers: 1, patch: 2, heads: 2, "
        "compute_heads: 2, latent_ratio: 4, data_ratio: 4, attend: true, registers: 2, sequence_layers: 1}"
    )
    fusion = compiled(tmp_path / "b", "digits_edm", rin, "sampler={kind: heun, steps: 3}").fusion
    assert fusion.attentions == fusion.operators == 14  # of 5 evaluations, 3 in each


def test_counts_of_other_engines(tmp_path):
    manifest = compiled(tmp_path / "b", *DIT, "target.engine=openvino")
    assert (manifest.fusion.attentions, manifest.fusion.operators) == (2, 0)
    assert fused(manifest).startswith("2 attentions written out for the engine to fuse, 5 norms")
    plans = [
        Plan("a.onnx", f"{c}.plan", "tensorrt", "11", c, "fp16", ((1, 1, 1),), n) for c, n in (("sm80", 3), ("sm89", 2))
    ]
    assert fused(replace(manifest, plans=tuple(plans))).startswith("2 attentions fused into one kernel each")


def test_merged_layers_are_counted(tmp_path):
    tensorrt = load_spec(*TOKENS[:1], None, [*TOKENS[1:], "target.engine=tensorrt-rtx"])
    module = optimised(lower(tensorrt), tensorrt).module
    manifest = compiled(tmp_path / "b", *TOKENS, change=lambda _: module)
    assert manifest.fusion.merged >= 4  # w1 and w3 of two blocks
    assert f", {manifest.fusion.merged} linear layers merged" in fused(manifest)


def test_an_attention_that_was_written_out_is_refused(tmp_path):
    with pytest.raises(DiagnosticError, match=r"E0509.*only 0 of 2 attentions became one operator"):
        compiled(tmp_path / "b", *DIT, change=lambda module: decompose(module, ("attention",)))
    assert not list(tmp_path.iterdir())


def test_who_may_write_them_out(tmp_path):
    assert compiled(tmp_path / "old", *DIT, "target.opset=22").fusion.operators == 0
    require_fused(Fusion(2, 0, 0, 0, 0), "openvino", 23)
    require_fused(Fusion(2, 3, 0, 0, 0), "onnxruntime", 23)
    with pytest.raises(DiagnosticError, match="E0509"):
        require_fused(Fusion(2, 1, 0, 0, 0), "onnxruntime", 23)


def test_hoist_report():
    spec = load_spec(DIT[0], None, list(DIT[1:]))
    ((entry, report),) = hoist_reports(lower(spec), spec).items()
    (before,), (after,) = report.before.loops, report.after.loops
    assert entry == "sample.5" and before.trip == after.trip == 5
    assert after.bytes < 0.75 * before.bytes, "adaLN's weights are read before the loop"
    assert report.after.total < report.before.total
    assert [loop.kind for loop in report.loops] == ["steps"]
    assert report.data()["before"]["total"] == report.before.total
    assert report.text().startswith("weights read: ")
    assert "the tables of all steps fit" in report.text()
