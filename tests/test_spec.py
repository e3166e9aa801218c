"""Specs: resolving several texts into one, the schema, the way back to text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from spec_fakes import TINY, Scan, Transformer
from spec_fakes import fakes as fakes

from latentc.diagnostics import DiagnosticError, Span
from latentc.files import shipped
from latentc.spec import (
    Spec,
    data_from_spec,
    json_schema,
    load_spec,
    resolved_yaml,
    spec_from_text,
    variant_names,
)
from latentc.spec.schema import place_at

pytestmark = pytest.mark.usefixtures("fakes")


def codes(text: str, variant: str | None = None, *overrides: str) -> list[str]:
    with pytest.raises(DiagnosticError) as caught:
        spec_from_text(text, "t.yaml", variant, overrides)
    return [diagnostic.code for diagnostic in caught.value.diagnostics]


def test_backbone_is_the_main_network() -> None:
    spec = spec_from_text(TINY)
    assert isinstance(spec.backbone, Transformer)
    assert list(spec.networks) == ["main"]
    long = TINY.replace("backbone:\n  kind", "networks:\n main:\n  kind", 1)
    assert spec_from_text(long) == spec


def test_spans_of_a_loaded_spec() -> None:
    spec = spec_from_text(TINY, "tiny.yaml", None, ["train.seed=7"])
    assert spec.span("networks", "main", "width") == Span("tiny.yaml", 6, 10, 6, 12)
    assert spec.span("train", "seed") == Span("--set #1", 1, 12, 1, 13)
    assert spec.span("train", "keep") == spec.span("train")


def test_variant_merges_deeply() -> None:
    spec = spec_from_text(TINY, variant="wide")
    assert isinstance(spec.backbone, Transformer)
    assert (spec.backbone.width, spec.backbone.depth) == (96, 2)


def test_null_removes_a_condition_of_the_base() -> None:
    text = TINY.replace("variants:", "variants:\n  unconditional: {conditioning: {class: null}}", 1)
    assert "class" in spec_from_text(text).conditioning
    assert "class" not in spec_from_text(text, variant="unconditional").conditioning
    assert "class" not in spec_from_text(TINY, overrides=["conditioning.class=null"]).conditioning


def test_another_kind_replaces_the_whole_mapping() -> None:
    spec = spec_from_text(TINY, variant="scan")
    assert isinstance(spec.backbone, Transformer)
    assert spec.backbone.mixer == Scan(kind="scan", state=16)  # and no `heads` of the old kind


def test_set_values() -> None:
    spec = spec_from_text(
        TINY + "weights: {official: {main: [{from: a, to: b}]}}\n",
        variant="wide",
        overrides=[
            "backbone.width=24",
            "train.optimizer.lr=2e-3",
            "train.ema=null",
            "train.clip=",
            "networks.main.depth = 3",
            "sampler={kind: euler, interval: [0.1, 0.9]}",
            "sampler.interval.1=0.8",
            "conditioning.class.dropout=0",
        ],
    )
    assert data_from_spec(spec)["backbone"]["width"] == 24  # --set comes after the variant
    assert spec.train.optimizer.lr == 2e-3
    assert spec.train.ema is None and spec.train.clip is None
    assert data_from_spec(spec)["backbone"]["depth"] == 3
    assert data_from_spec(spec)["sampler"]["interval"] == [0.1, 0.8]


@pytest.mark.parametrize(
    ("override", "code"),
    [
        ("", "E0214"),
        ("=3", "E0214"),
        ("a..b=3", "E0214"),
        (".=3", "E0214"),
        ("a." * 4000 + "b=1", "E0214"),
        ("latentc=2", "E0213"),
        ("extends=dit", "E0213"),
        ("variants.wide.name=x", "E0213"),
        ("train.optimizer.betas.0=1", "E0213"),
        ("nmae=x", "E0201"),
        ("train.steps=[", "E0102"),
        ("train.steps=!!int 3", "E0104"),
        ("train.steps=\x00", "E0101"),
        ("networks=3", "E0203"),
        ("networks={}", "E0204"),
        ("networks={Main: {kind: convolution}}", "E0209"),
        ("data=null", "E0203"),
        ("train.seed=-1", "E0204"),
        ("train.seed=9223372036854775807", ""),
    ],
)
def test_set_refusals(override: str, code: str) -> None:
    if code:
        assert codes(TINY, None, override) == [code]
    else:
        spec_from_text(TINY, overrides=[override])


def test_extends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.yaml").write_text(TINY)
    (tmp_path / "deep" / "middle.yaml").write_text(
        "latentc: 1\nextends: ../base.yaml\nvariants: {wide: {train: {seed: 5}}}\n"
    )
    (tmp_path / "top.yaml").write_text("latentc: 1\nextends: deep/middle.yaml\nname: top\n")
    spec = load_spec("top.yaml", "wide")
    assert isinstance(spec.backbone, Transformer)
    assert (spec.name, spec.backbone.width, spec.train.seed) == ("top", 96, 5)
    assert variant_names("top.yaml") == ("wide",)  # a spec with variants of its own has those alone
    assert spec.span("networks", "main", "depth") == Span("base.yaml", 7, 10, 7, 11)


def test_shipped_specs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    monkeypatch.setattr(shipped, "shipped_specs", lambda: {"tiny": tmp_path / "tiny.yaml"})
    expected = load_spec(tmp_path / "tiny.yaml")
    assert load_spec("tiny") == load_spec("specs/tiny.yaml") == expected
    assert load_spec(f"{tmp_path.name}/tiny") == expected
    with pytest.raises(DiagnosticError, match="no spec"):
        load_spec("elsewhere/tiny")
    (tmp_path / "child.yaml").write_text("latentc: 1\nextends: tiny\n")
    assert load_spec(tmp_path / "child.yaml") == expected
    with pytest.raises(DiagnosticError, match="did you mean `tiny`"):
        load_spec("tinny")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TINY.encode())))
    assert load_spec("-") == spec_from_text(TINY)
    assert load_spec("-") == spec_from_text(TINY)  # a command may read its spec more than once
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff")))
    with pytest.raises(DiagnosticError, match="E0101"):
        load_spec("-")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "E0106"),
        ("# nothing\n", "E0106"),
        ("x", "E0106"),
        ("latentc: true\n", "E0208"),
        ("latentc: 1.0\n", "E0208"),
        ("latentc: '1'\n", "E0208"),
        (TINY + "extends: 3\n", "E0203"),
        (TINY + "extends: ''\n", "E0210"),
        (TINY + "extends: .\n", "E0210"),
        (TINY + "extends: 'a\\0b'\n", "E0210"),
        (TINY.replace("kind: digits", "kind: digits, classes: 9"), "E0207"),
        (TINY.replace("kind: digits", "kind: digits, shape: [3, 8, 8]"), "E0207"),
        (TINY.replace("kind: digits", "kind: digits, as: tokens, shape: [1, 8, 8]"), "E0301"),
        (TINY + "weights: {a: {main: [3]}}\n", "E0203"),
        (TINY + "weights: {a: {main: [{}]}}\n", "E0411"),
    ],
)
def test_refusals(text: str, code: str) -> None:
    assert codes(text) == [code]


@pytest.mark.parametrize(
    ("variants", "code"),
    [("3", "E0203"), ("{v: 3}", "E0203"), ("{v: {extends: a}}", "E0209"), ("{v: {variants: {}}}", "E0209")],
)
def test_malformed_variants(variants: str, code: str) -> None:
    text = TINY[: TINY.index("variants:")] + f"variants: {variants}\n"
    assert codes(text, "v") == [code]


def test_all_faults_at_once_in_the_order_of_the_file() -> None:
    text = TINY.replace("width: 48", "width: x").replace("dropout: 0.1", "dropout: 2").replace("ddim", "dim")
    assert codes(text) == ["E0203", "E0204", "E0205"]


@pytest.mark.parametrize("variant", [None, "wide", "scan"])
def test_resolved_text_loads_back_equal(variant: str | None) -> None:
    spec = spec_from_text(TINY, variant=variant, overrides=["train.optimizer.eps=1e-20", "train.ema=null"])
    text = resolved_yaml(spec)
    again = spec_from_text(text)
    assert again == spec
    assert resolved_yaml(again) == text
    assert "weight_decay: 0.0" in text


def test_resolved_text_of_several_networks_and_tokens() -> None:
    text = (
        "latentc: 1\nname: two\ndata: {kind: digits, as: tokens}\n"
        "networks:\n  small: {kind: convolution}\n  main: {kind: transformer, width: 2, depth: 1}\n"
        'weights: {official: {main: [{from: "a.{i}.*", to: "b.{i}.*", ops: [{transpose: [1, 0]}]}]}}\n'
    )
    spec = spec_from_text(text)
    assert spec_from_text(resolved_yaml(spec)) == spec
    assert spec != spec_from_text(text.replace("width: 2", "width: 4"))


def test_data_says_what_a_network_sees() -> None:
    def data(text: str) -> object:
        return spec_from_text(TINY.replace("{kind: digits}", text)).data

    digits = data("{kind: digits}")
    assert (digits.classes, digits.shape, digits.tokens) == (10, (1, 8, 8), None)
    tokens = data("{kind: digits, as: tokens}")
    assert (tokens.shape, tokens.tokens.vocabulary, tokens.tokens.length) == (None, 17, 64)


def test_json_schema() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["required"] == ["latentc"]
    assert set(schema["properties"]) >= {"backbone", "networks", "variants", "extends", "train"}
    network, extended = schema["properties"]["backbone"]["anyOf"]
    assert network["discriminator"]["propertyName"] == "kind" and extended["required"] == ["extends"]
    assert schema["additionalProperties"] is False
    transformer = schema["$defs"]["Transformer"]
    assert {"kind", "width", "depth"} <= set(transformer["required"])
    assert transformer["properties"]["width"]["description"] == "channels of a token"


def test_every_field_of_the_fixed_sections_is_described() -> None:
    def undescribed(schema: dict[str, object]) -> list[str]:
        return [
            f"{name}.{key}"
            for name, definition in schema["$defs"].items()
            for key, field in definition.get("properties", {}).items()
            if name in ("Train", "Target", "Optimize", "Adamw", "Digits", "ImageFolder", "Npz", "Tokens")
            and key != "kind"
            and "description" not in field
        ]

    assert undescribed(json_schema()) == []


def test_place_at_follows_the_kinds_of_the_data() -> None:
    data = spec_from_text(TINY)._document.data
    place = place_at(("networks", "main", "mixer"), data)
    assert place is not None and place.kinds() == ["attention", "scan"]
    assert list(place.keys({"kind": "scan"})) == ["kind", "state"]
    assert place_at(("networks", "main", "nothing"), data) is None
    assert place_at(("networks", "main", "nothing", "more"), data) is None


def test_a_spec_is_immutable() -> None:
    spec = spec_from_text(TINY)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


def test_checking_a_spec_imports_nothing_heavy() -> None:
    program = (
        "import sys, latentc.spec\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'scipy', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_spec_class_is_the_schema() -> None:
    assert issubclass(type(spec_from_text(TINY)), Spec)
