"""Bundles of the shipped systems are what their specs say, by the oracle, PyTorch and the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from bundles import tiny_bundle
from tiny_systems import SYSTEMS

from latentc.verify import run
from latentc.verify.run import verify

# One per kind of network that no other test verifies; an engine of its own where it differs, and where the tests of
# official numbers do not run it.
CHOSEN = (
    ("uvit", "onnxruntime"),
    ("edm-vp", "onnxruntime"),
    ("mar", "onnxruntime"),
    ("d_jepa_t2i", "openvino"),
    ("recap_maskgit", "onnxruntime"),
    ("maskbit", "onnxruntime"),
    ("taming_depth", "onnxruntime"),
    ("taming-windows", "onnxruntime"),
    ("llamagen_t2i", "openvino"),
    ("lpd", "onnxruntime"),
    ("nvg", "onnxruntime"),
    ("var", "onnxruntime"),
    ("himar-t2i", "openvino"),
    ("givt-adaptor", "openvino"),
    ("givt-beams", "onnxruntime"),
    ("givt_masked", "onnxruntime"),
    ("gedi", "onnxruntime"),
    ("neural_csa_per_sample", "onnxruntime"),
    ("class_prefix_bert", "openvino"),
    ("class_prefix_bart", "onnxruntime"),
    ("starflow", "onnxruntime"),
    ("vitok", "onnxruntime"),
    ("diffwave", "openvino"),
    ("diffmoe", "onnxruntime"),
    ("dis", "openvino"),  # whose scan is a graph in the graph
    ("lit", "onnxruntime"),
    ("can", "onnxruntime"),
    ("sd3", "onnxruntime"),
    ("sd3_labels", "openvino"),
    ("flux", "openvino"),
    ("flux_labels", "onnxruntime"),
    ("rdm", "onnxruntime"),
    ("rarm", "onnxruntime"),
    ("pixelcnn-autoencoder", "openvino"),
    ("rcg_ldm", "onnxruntime"),
    ("rcg_mage", "openvino"),
    ("dod", "onnxruntime"),
    ("nested", "openvino"),
    ("lit_t2i", "openvino"),
    ("pixelflow_t2i", "onnxruntime"),
    ("pixelflow-adaptive", "onnxruntime"),  # whose loops end early, and call different methods
    ("controlled", "onnxruntime"),
    ("adm_sdg-text", "onnxruntime"),  # guided by the features of a text
    *((name, "onnxruntime") for name in ("dico", "dimr_text", "diffit", "diffit_image", "ascan", "iwin")),
    ("interpolant_inpaint", "onnxruntime"),  # whose sampler chooses its steps
    ("eeg", "openvino"),
    ("cgan", "onnxruntime"),
    ("clswgan", "openvino"),
    ("dp3", "openvino"),  # which cannot compile Mish between other elementwise ops
)


# The form of the loop where it is not the one that the engine would choose.
FORMS = {
    "dico": "host",
    "dimr_text": "loop",
    "diffit": "host",
    "diffit_image": "loop",
    "ascan": "unroll",
    "iwin": "host",
    "eeg": "loop",
}
FORMS |= {"interpolant_inpaint": "host", "pixelcnn-autoencoder": "loop"}


@pytest.mark.parametrize(("name", "engine"), CHOSEN)
def test_system(name: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(engine)
    system = SYSTEMS[name]
    monkeypatch.setattr(run, "SIZES", (1, 3))  # test_verify.py compares all
    sizes = (*system.sizes, f"target.engine={engine}")
    how: Any = {"variant": system.variant, "form": FORMS.get(name, "auto"), "max_batch": 3}
    report = verify(tiny_bundle(system.spec, tmp_path / "bundle", sizes, **how))
    assert report.ok, report.text()
    found = {c.what.partition(":")[0] for c in report.comparisons}  # of several outputs each: "sampler: pivots"
    assert "sampler" in found and report.controls
    assert "forward" in found or any(
        word.startswith(("scale_", "group_", "decode", "draw", "inverse")) for word in found
    )  # which decodes or draws with caches


def test_a_weight_that_no_output_depends_on(tmp_path: Path) -> None:
    """An encoder gives the sampler its tokens; the convolutions that smooth its latents are not in the bundle."""
    tiny, codebook = SYSTEMS["taming_depth"], "{kind: granularity_codebook, channels: 4, size: 16, side: 4}"
    sizes = (*tiny.sizes, f"networks.encoder.bottleneck={codebook}")
    report = verify(tiny_bundle(tiny.spec, tmp_path / "bundle", sizes), budget=10)
    assert report.ok, report.text()
