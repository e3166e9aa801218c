"""Networks that extend the network of another spec."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec, resolved_yaml, spec_from_text

BASE = """
latentc: 1
name: base
data: {kind: npz, path: t.npz, fields: {tokens: {shape: [4], classes: 9}, tokens_mask: {shape: [4], dtype: bool}}}
backbone:
  kind: text_encoder
  reads: tokens
  width: 8
  depth: 3
  block:
    mixer: {kind: attention, heads: 2}
    feed_forward: {kind: relu_mlp}
    norm: {kind: rms_norm}
    condition: {kind: in_context}
weights: {official: {main: [{from: "*", to: "*"}]}, other: {main: [{from: "a.*", to: "*"}]}}
variants: {deep: {backbone: {depth: 5}}}
"""
SPEC = """
latentc: 1
name: spec
extends: digits_dit
data: {fields: {caption: {shape: [4], classes: 9}, caption_mask: {shape: [4], dtype: bool}}}
networks: {text: {extends: base.yaml, variant: deep, reads: caption, width: 4}}
conditioning: {caption: {kind: encoded_text, encoder: text}}
backbone: {block: {condition: {kind: adaln_single}}}
weights: {official: {main: [{from: "*", to: "*"}]}, other: {text: [{from: "b.*", to: "*"}]}}
"""


def spec(folder: Path, text: str = SPEC, *overrides: str) -> Path:
    (folder / "base.yaml").write_text(BASE)
    (folder / "bare.yaml").write_text("latentc: 1\nname: bare\n")
    (folder / "spec.yaml").write_text(text)
    return folder / "spec.yaml"


def test_a_network_and_its_name_maps_come_from_another_spec(tmp_path: Path) -> None:
    found = load_spec(spec(tmp_path), overrides=["networks.text.block.mixer.heads=1"])
    text = found.networks["text"]
    assert (text.width, text.depth, text.reads, text.block.mixer.heads) == (4, 5, "caption", 1)  # type: ignore[attr-defined]
    assert found.weights["official"]["text"] == ({"from": "*", "to": "*"},)
    assert found.weights["other"]["text"] == ({"from": "b.*", "to": "*"},)  # its own
    assert spec_from_text(resolved_yaml(found)) == found


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (("extends: base.yaml", "extends: none.yaml"), "E0210", "no spec `none.yaml` was found"),
        (("variant: deep", "variant: wide"), "E0212", "unknown variant `wide`"),
        (("extends: base.yaml", "extends: [base]"), "E0203", "the name or path of a spec"),
        (("extends: base.yaml", "extends: spec.yaml"), "E0211", "spec.yaml → "),
        (("extends: base.yaml, variant: deep", "extends: bare.yaml"), "E0210", "has no network `main`"),
        (("width: 4", "width: none"), "E0203", "networks.text.width"),
    ],
)
def test_a_network_that_cannot_be_extended(change: tuple[str, str], code: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec(spec(tmp_path, SPEC.replace(*change)))
    fault = caught.value.diagnostics[0]
    assert fault.code == code and message in fault.message
