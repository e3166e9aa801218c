"""Texts of a spec reach code, tables and file names: what would be hidden or break a line there is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from latentc import api
from latentc.diagnostics import DiagnosticError

HIDDEN = {
    "nul": r"a\x00b",
    "next line": r"a\x85b",
    "line separator": r"a\u2028b",
    "right to left": r"a\u202eb",
    "escape": r"a\x1b[31mb",
    "byte order mark": r"a\uFEFFb",
}


def spec(folder: Path, text: str) -> Path:
    file = folder / "spec.yaml"
    file.write_text(f"latentc: 1\nname: small\nextends: digits_dit\n{text}\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("text", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("place", ["source: {}", "data: {{kind: npz, path: {}}}", "variants: {{{}: {{}}}}"])
def test_hidden_characters_are_refused(tmp_path: Path, place: str, text: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        api.check(spec(tmp_path, place.format(f'"{text}"')))
    assert "E0111" in {diagnostic.code for diagnostic in refused.value.diagnostics}


@pytest.mark.parametrize("text", [r"a\nb", r"a\tb"])
def test_line_breaks_are_refused_in_texts_of_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(DiagnosticError, match="`source`: a line break or a tab"):
        api.check(spec(tmp_path, f'source: "{text}"'))


def test_an_alphabet_may_hold_a_line_break(tmp_path: Path) -> None:
    field = r'data: {fields: {text: {shape: [4], classes: 3, medium: text, alphabet: "a\n "}}}'
    assert api.check(spec(tmp_path, field)).data.fields["text"].alphabet == "a\n "


def test_markup_in_a_source_stays_text(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    api.emit(spec(tmp_path, 'source: "A <script>alert(1)</script> and [a](b) & `c`"'), tmp_path / "project")
    text = (tmp_path / "project" / "README.md").read_text(encoding="utf-8")
    assert r"A \<script\>alert(1)\</script\> and \[a\](b) \& \`c\`" in text
