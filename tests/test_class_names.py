"""Class names from a spec, its data or the file beside the weights, to the bundle and the project."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_systems import SYSTEMS

from latentc.api.known_names import with_known_names
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import project_files
from latentc.lower import lower
from latentc.spec import Spec, load_spec, resolved_yaml, spec_from_text
from latentc_runtime.class_names import classes_from_text
from latentc_runtime.sources import RequestError

NAMES = ["zero, nil", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
LIST = "[" + ", ".join(f'"{name}"' for name in NAMES) + "]"


def names_of(spec: Spec) -> tuple[str, ...]:
    return lower(spec).conditions[0].names


def write_spec(path: Path, data: str, base: str = "digits_dit") -> Path:
    path.write_text(f"latentc: 1\nextends: {base}\nname: named\ndata: {{{data}}}\n")
    return path


def test_names_in_the_spec_or_in_a_file_beside_it(tmp_path: Path) -> None:
    stated = load_spec(write_spec(tmp_path / "a.yaml", f"class_names: {LIST}"))
    (tmp_path / "names.txt").write_text("\ufeff" + "".join(f"{name} \r\n" for name in NAMES) + "\n")
    read = load_spec(write_spec(tmp_path / "b.yaml", "class_names: names.txt"))
    assert names_of(stated) == names_of(read) == tuple(NAMES)
    again = spec_from_text(resolved_yaml(read))  # which no longer needs the file
    assert names_of(again) == tuple(NAMES)
    field = load_spec("digits_dit", overrides=[f"data.fields={{y: {{classes: 10, class_names: {LIST}}}}}"])
    assert names_of(field) == tuple(NAMES) and field.data.class_names == tuple(NAMES)


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        ("[a, b]", "E0305", "2 class names, but 10 classes"),
        ("none.txt", "E0401", "was not found"),
        (".", "E0402", "is not a file"),
        ("[a, b, c, d, e, f, g, h, i, 1]", "E0203", "not text"),
        (LIST.replace("one", "x" * 257), "E0305", "name of class 1"),
        (LIST.replace("one", "o\\u202Ene"), "E0111", "invisible character"),
        (LIST.replace("one", ""), "E0305", "name of class 1"),
    ],
)
def test_names_that_cannot_be(names: str, code: str, said: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("digits_dit", overrides=[f"data.class_names={names}"])
    assert any(d.code == code and said in d.message and d.span for d in caught.value.diagnostics), caught.value


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [(b"a\n\nb", "E0209", "line 2"), (b"a\xff", "E0101", "UTF-8|utf-8"), ("a\u202eb".encode(), "E0111", "line 1")],
)
def test_files_that_cannot_be(content: bytes, code: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(DiagnosticError, match=said) as caught:
        load_spec(write_spec(tmp_path / "a.yaml", "class_names: names.txt"))
    assert caught.value.diagnostics[0].code == code


def test_other_data_does_not_inherit_names(tmp_path: Path) -> None:
    data = f"kind: npz, shape: [1, 8, 8], classes: 10, class_names: {LIST}"
    base = write_spec(tmp_path / "base.yaml", data)
    for change, kept in (("horizontal_flip: true", True), ("path: other.npz", False), ("classes: 3", False)):
        found = load_spec(write_spec(tmp_path / "own.yaml", change, "base.yaml")).data.class_names
        assert (found is not None) == kept
    assert load_spec(base, overrides=["data.classes=3"]).data.class_names is None
    assert load_spec(base, overrides=["data.classes=1", "data.class_names=[a]"]).data.class_names == ("a",)
    assert load_spec(base, overrides=["data.class_names=[a]", "data.classes=1"]).data.class_names == ("a",)


def test_known_names_come_from_beside_the_weights_or_the_data(tmp_path: Path) -> None:
    folder, warnings = tmp_path / "images", list[str]()
    data = f"kind: image_folder, path: '{folder}', shape: [1, 8, 8], classes: 2"
    spec = load_spec(write_spec(tmp_path / "a.yaml", data))
    weights = tmp_path / "run" / "checkpoints" / "step-00000001"
    weights.mkdir(parents=True)
    assert with_known_names(spec, [weights]) == spec
    for name in ("dog", "cat"):
        (folder / name).mkdir(parents=True)
    found = with_known_names(spec, [weights], warnings.append)
    assert names_of(found) == ("cat", "dog") and resolved_yaml(found) != resolved_yaml(spec)
    beside = tmp_path / "run" / "class_names.txt"
    beside.write_text("Katze\nHund\n")
    assert names_of(with_known_names(spec, [weights], warnings.append)) == ("Katze", "Hund") and not warnings
    beside.write_text("Katze\n")
    assert names_of(with_known_names(spec, [weights], warnings.append)) == ("cat", "dog")
    assert "names 1 classes, but the model has 2" in warnings[0]


def test_names_of_data_that_cannot_be_read_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = f"kind: parquet, path: '{tmp_path}', shape: [1, 8, 8], classes: 2"
    spec = load_spec(write_spec(tmp_path / "a.yaml", data))
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert with_known_names(spec, []) == spec
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    assert with_known_names(spec, []) == spec


def test_projects_hold_names_in_a_file_of_their_own() -> None:
    spec = load_spec("digits_dit", overrides=[f"data.class_names={LIST}"])
    files = project_files(lower(spec), spec)
    assert files["latentc_support/class_names.txt"] == "".join(f"{name}\n" for name in NAMES)
    assert not any(
        "nil" in text
        for name, text in files.items()
        if isinstance(text, str) and name != "latentc_support/class_names.txt"
    )
    plain = load_spec("digits_dit")
    assert "latentc_support/class_names.txt" not in project_files(lower(plain), plain)


@pytest.mark.parametrize(
    ("spec", "variant"),
    [("dit", None), ("sit", None), ("edm", "imagenet64"), ("adc_gan", "imagenet-128"), ("mar", None)],
)
def test_shipped_systems_know_the_classes_of_imagenet(spec: str, variant: str | None) -> None:
    loaded = load_spec(spec, variant)
    names = loaded.data.class_names
    assert isinstance(names, tuple) and len(names) == 1000
    assert classes_from_text("golden retriever,TABBY CAT,Tinca tinca", 1000, names) == [207, 281, 0]
    with pytest.raises(RequestError, match=r"134 .* or 517"):
        classes_from_text("crane", 1000, names)
    assert spec_from_text(resolved_yaml(loaded)).data == loaded.data
    assert load_spec(spec, variant, ["data.classes=10"]).data.class_names is None


def test_show_tells_the_names() -> None:
    from latentc import api

    assert api.class_names("digits_dit", overrides=[f"data.class_names={LIST}"]) == {"class": tuple(NAMES)}
    assert api.class_names("digits_dit") == {"class": ()}


def test_tokens_of_classes_may_be_text() -> None:
    system = SYSTEMS["class_prefix_bart"]
    bytes_ = ["data.fields={tokens: {shape: [6], classes: 256, medium: text, end: 11}}", "data.classes=3"]
    bytes_ += ["conditioning.source={kind: masked_text, mask: 1, end: 11}"]
    spec = load_spec(system.spec, None, [*system.sizes, *bytes_, 'networks.main.class_tokens=[ab, [3, 5], "cdé"]'])
    assert spec.networks["main"].class_tokens == ((97, 98), (3, 5), (99, 100, 195, 169))  # type: ignore[attr-defined]
    begun = [bytes_[0].replace("end: 11", "start: 9, end: 11"), *bytes_[1:]]
    names = 'networks.main.class_tokens=[ab, [3, 5], "cdé"]'
    assert load_spec(system.spec, None, [*system.sizes, *begun, names]).networks == spec.networks
    sizes = [*bytes_, "networks.main.embedding={class_tokens: [a, b, c]}"]
    embedding = load_spec("class_prefix_bert", None, [*SYSTEMS["class_prefix_bert"].sizes, *sizes[:2], sizes[3]])
    assert embedding.networks["main"].embedding.class_tokens == ((97,), (98,), (99,))  # type: ignore[attr-defined]


def test_text_for_classes_needs_its_tokenizer() -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_spec("class_prefix_bart", None, ["networks.main.class_tokens=[no, yes]"])
    (found,) = caught.value.diagnostics
    assert found.code == "E0209" and found.message.startswith("'no' has no tokens: data/bart/tokenizer.json")
    assert found.span is not None and found.span.file == "--set #1"


@pytest.mark.parametrize(
    ("embedding", "words"),
    [
        ("class_segments: true, segments: 1", "`class` has 2 values, but there are 1 segments"),
        ("class_segments: true, segments: 2, labels: 2", "the class is given as a segment"),
    ],
)
def test_segments_that_cannot_say_the_class(embedding: str, words: str) -> None:
    sizes = [*SYSTEMS["class_prefix_bert"].sizes, f"networks.main.embedding={{mask: 1, start: 0, {embedding}}}"]
    with pytest.raises(DiagnosticError, match=words):
        load_spec("class_prefix_bert", None, sizes)
