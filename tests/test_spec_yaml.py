"""The YAML loader: values, places, limits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentc.diagnostics import DiagnosticError, Span
from latentc.spec.resolve import read_text
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import HIDDEN, MAX_DEPTH, load_yaml, plain_scalar

SHOWN = st.characters(exclude_categories=["Cs"]).filter(lambda character: not HIDDEN.search(character))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1.5E3", -1500.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("+3", 3),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("no", "no"),
        ("on", "on"),
        ("Yes", "Yes"),
        ("True", True),
        ("FALSE", False),
        ("~", None),
        ("", None),
        ("-.inf", -math.inf),
        ("=", "="),
    ],
)
def test_scalars_follow_the_core_schema(text: str, value: Any) -> None:
    found = load_yaml(f"a: {text}\n", "t.yaml").data["a"]
    assert (type(found), found) == (type(value), value)


def test_not_a_number() -> None:
    assert math.isnan(load_yaml("[.nan]", "t.yaml").data[0])


def test_quoted_scalars_are_text() -> None:
    text = "a: \"1\"\nb: 'true'\nc: |\n  12\nd: ''\n"
    assert load_yaml(text, "t.yaml").data == {"a": "1", "b": "true", "c": "12\n", "d": ""}


def test_keys_are_text() -> None:
    assert load_yaml("1: a\ntrue: b\nS/2: c\n", "t.yaml").data == {"1": "a", "true": "b", "S/2": "c"}


def test_places() -> None:
    document = load_yaml("a: 1\nb:\n  - x\n  - {c: yy}\n", "t.yaml")
    assert document.spans["a",] == Span("t.yaml", 1, 4, 1, 5)
    assert document.key_spans["b",] == Span("t.yaml", 2, 1, 2, 2)
    assert document.spans["b", 1, "c"] == Span("t.yaml", 4, 9, 4, 11)
    assert document.spans["b", 1] == Span("t.yaml", 4, 5, 4, 12)
    # A block is shown at its key, and what is not there at the nearest thing above.
    assert document.span(("b",)) == document.span(("b", "nothing")) == Span("t.yaml", 2, 1, 2, 2)


def test_byte_order_mark_and_windows_line_ends() -> None:
    document = load_yaml("\ufeffa: 1\r\nb: 2\r\n", "t.yaml")
    assert document.data == {"a": 1, "b": 2}
    assert document.spans["b",] == Span("t.yaml", 2, 4, 2, 5)


def test_alias_is_a_copy_with_its_own_key() -> None:
    document = load_yaml("a: &x {n: 1}\nb: *x\n", "t.yaml")
    assert document.data == {"a": {"n": 1}, "b": {"n": 1}}
    assert document.data["a"] is not document.data["b"]
    assert document.key_spans["b",].line == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: \x07", "E0101"),
        ("a: \x00", "E0101"),
        ('a: "\\ud800"', "E0101"),
        ("a: [1", "E0102"),
        ("a: 'x", "E0102"),
        ("a: *x", "E0102"),
        ('a: "\\UFFFFFFFF"', "E0102"),
        ("%YAML 1." + "9" * 5000 + "\n---\na", "E0102"),
        ("%YAML 3.0\n---\na", "E0102"),
        ("%TAG ! tag:x,2000:\n--- !y\na: 1", "E0104"),
        ("a: b\n  c: d", "E0102"),
        ("a: 1\na: 2", "E0103"),
        ("{a: 1, 'a': 2}", "E0103"),
        ("a: !!int 3", "E0104"),
        ("a: !x {b: 1}", "E0104"),
        ("!!str a: 1", "E0104"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "E0105"),
        ("- " * 3000 + "x", "E0105"),
        ("a: &x [*x]", "E0105"),
        ("a:\n\tb: 1", "E0107"),
        ("[a]: 1", "E0108"),
        ("? \n: 1", "E0108"),
        ("? {a: 1}\n: 2", "E0108"),
        ("a: &x b\n*x : 1", "E0108"),
        ("a: 9223372036854775808", "E0109"),
        ("a: " + "9" * 10_000, "E0109"),
        ("a: 1e400", "E0109"),
        ("<<: {a: 1}", "E0110"),
    ],
)
def test_refusals(text: str, code: str) -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_yaml(text, "t.yaml")
    assert code in [diagnostic.code for diagnostic in caught.value.diagnostics]
    assert all(diagnostic.span is not None for diagnostic in caught.value.diagnostics)


def test_depth_counts_through_aliases() -> None:
    levels = "".join(f"a{i}: &a{i} [[[[[[[[[[*a{i - 1}]]]]]]]]]]\n" for i in range(1, 6))
    with pytest.raises(DiagnosticError, match="nested more than"):
        load_yaml("a0: &a0 x\n" + levels, "t.yaml")


def test_several_faults_are_told_together() -> None:
    with pytest.raises(DiagnosticError) as caught:
        load_yaml("a: 1\na: 2\nb: !x 3\nc: 1e999\n", "t.yaml")
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["E0103", "E0104", "E0109"]


def test_reading_files(tmp_path: Path) -> None:
    def code(path: Path) -> str:
        with pytest.raises(DiagnosticError) as caught:
            read_text(path)
        return str(caught.value.diagnostics[0].code)

    assert code(tmp_path / "none.yaml") == "E0401"
    assert code(tmp_path) == "E0402"
    assert code(Path("/dev/zero")) == "E0402"
    assert code(Path("a\0b")) in ("E0401", "E0402")
    assert code(Path("a" * 5000)) in ("E0401", "E0402")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"latentc: 1\nname: caf\xe9\n")
    assert code(latin) == "E0101"
    with pytest.raises(DiagnosticError, match=r"latin\.yaml:2:10"):
        read_text(latin)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (2 << 20))
    assert code(large) == "E0105"


_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(SHOWN, max_size=12)
    | st.sampled_from(["1e-4", "no", "~", "- a", "a: b", "a #b", "0x1", "", " ", "---", "é", "..."])
)
_DATA = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(SHOWN, max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(_DATA)
@settings(max_examples=300, deadline=None)
def test_what_is_written_reads_back(data: Any) -> None:
    text = yaml_from_data(data)
    found = load_yaml(text, "t.yaml").data
    assert found == data
    assert yaml_from_data(found) == text


@given(st.text(SHOWN, max_size=20))
@settings(max_examples=300, deadline=None)
def test_plain_scalars_never_fail(text: str) -> None:
    try:
        plain_scalar(text)
    except OverflowError:
        assert len(text) > 3


@given(st.text(st.sampled_from("ab01: -[]{},&*!|>'\"%@`#?<\n\t~.\\e\u2028\x85é"), max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_gives_a_document_or_a_diagnostic(text: str) -> None:
    try:
        load_yaml(text, "t.yaml")
    except DiagnosticError as error:
        assert str(error)
