"""Captions cleaned before they become tokens: against what the authors' function made of some."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from latentc.datasets.captions import texts_as_tokens
from latentc.diagnostics import DiagnosticError
from latentc.emit.project import cleaned_as, project_files
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime import cleaning
from latentc_runtime.cleaning import cleaned, text_of_markup
from latentc_runtime.conditions import RequestError, checked_given
from latentc_runtime.sources import Condition

# [text, what PixArt's T5Embedder.text_preprocessing makes of it], with ftfy 6.3 and Beautiful Soup 4.15
RECORDED = json.loads((Path(__file__).parents[1] / "data" / "cleaned_captions.json").read_text())
TEXT = Condition("text", "tokens", (9,), vocabulary=257, medium="text", end=256, cleaning="captions")


def test_captions_are_cleaned_as_by_the_authors() -> None:
    pytest.importorskip("ftfy")
    assert len(RECORDED) > 250
    # Newer releases of Python end a tag or a section that is not closed, or read it otherwise (cpython issue 135661).
    open_markup = re.compile(r"<!\[|<a(?![^<]*>)")
    recorded = [row for row in RECORDED if text_of_markup("<a") == "<a" or not open_markup.search(row[0])]
    assert [text for text, wanted in recorded if cleaned(text, "captions") != wanted] == []


@pytest.mark.parametrize("part", ["BEFORE_MARKUP", "AFTER_MARKUP", "AFTER_MENDING"])
def test_recorded_captions_need_every_rule(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ftfy")
    rules = getattr(cleaning, part)
    for i, (pattern, _) in enumerate(rules):
        monkeypatch.setattr(cleaning, part, [*rules[:i], *rules[i + 1 :]])
        assert any(cleaned(text, "captions") != wanted for text, wanted in RECORDED), pattern


def test_markup_that_the_parser_refuses_is_text() -> None:
    assert text_of_markup("a <![if] b") == "a <![if] b" or sys.version_info >= (3, 13)  # which reads it as a comment
    assert text_of_markup("a<script>b</script>c&#8364;&eacute;&none;") == "ac€é&none"


def test_requests_and_data_are_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ftfy")
    given = checked_given([TEXT], [], given={"text": "A  <b>Cat</b> cat.jpg"})
    assert given.conditions["text"][0].tolist() == [*b"a cat", 256, 256, 256, 256]
    field = {"shape": [9], "classes": 257, "medium": "text", "end": 256, "cleaning": "lower"}
    assert texts_as_tokens("text", [" A Cat "], field, False)["text"][0].tolist() == [*b"a cat", 256, 256, 256, 256]
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(RequestError, match="needs the package ftfy"):
        checked_given([TEXT], [], given={"text": "a cat"})


def test_projects_clean_captions() -> None:
    spec = load_spec("llamagen_t2i", "XL-256-t5", ["backbone.depth=1", "networks.text.depth=1"])
    files = {name: str(text) for name, text in project_files(lower(spec), spec).items()}
    assert "ftfy" in files["requirements.txt"] and "from .cleaning import" in files["latentc_support/texts.py"]
    assert files["latentc_support/cleaning.py"].startswith('"""Captions cleaned')
    lower_case = load_spec("llamagen_t2i", "XL-256-t5", ["data.fields.caption.cleaning=lower"])
    assert (cleaned_as(spec), cleaned_as(lower_case)) == ({"captions"}, {"lower"})
    with pytest.raises(DiagnosticError, match="`cleaning` applies to text"):
        load_spec("digits_dit", None, ["data.fields={z: {shape: [4], cleaning: lower}}"])
