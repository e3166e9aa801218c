"""The text of diagnostics, and that every code has its page."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from spec_fakes import fakes as fakes

from latentc.diagnostics import Diagnostic, DiagnosticError, Label, Span, add_source, nearest, render
from latentc.files import shipped
from latentc.spec import load_spec

CASES = sorted((Path(__file__).parent / "golden" / "diagnostics").glob("*.md"))
_BLOCK = re.compile(r"^```(\w+) ?(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_golden(
    request: pytest.FixtureRequest,
    case: Path,
    golden: Callable[[Path | str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each file holds a bad spec (and what it extends), the options, and the exact text.

    `vocabulary_*` speak of the real components, the others of those in spec_fakes.
    """
    if not case.stem.startswith("vocabulary_"):
        request.getfixturevalue("fakes")
    text = case.read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    options: list[tuple[str, str]] = []
    for kind, name, body in _BLOCK.findall(text):
        if kind == "yaml":
            Path(name).write_text(body, encoding="utf-8")
        elif kind == "options":
            options = [(option, value) for option, _, value in (line.partition(" ") for line in body.splitlines())]
    variant = next((value for option, value in options if option == "--variant"), None)
    overrides = [value for option, value in options if option == "--set"]
    with pytest.raises(DiagnosticError) as caught:
        load_spec("spec.yaml", variant, overrides)
    shown = render(caught.value.diagnostics)
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} <= set(shipped.codes())
    before = text[: text.index("```text\n")]
    golden(case, f"{before}```text\n{shown}```\n")
    assert not Path("pwned").exists()


def test_every_code_has_a_page_and_every_page_a_code() -> None:
    root = Path(__file__).parents[1]
    sources = [
        path.read_text(encoding="utf-8") for part in ("compiler", "runtime") for path in (root / part).rglob("*.py")
    ]
    assert {code for source in sources for code in re.findall(r'"(E\d{4})"', source)} == set(shipped.codes())
    for code in shipped.codes():
        page = shipped.explain_page(code)
        assert page is not None
        assert re.match(rf"# {code}: [^\n]+\n\n", page)
        for heading in ("## Example", "## How to fix it"):
            assert f"\n{heading}\n" in page, code


def test_explain_page_of_nothing() -> None:
    assert shipped.explain_page("E9999") is None
    assert shipped.explain_page("../E0101") is None


def test_golden_cases_are_many_and_cover_the_codes_of_specs() -> None:
    shown = "".join(case.read_text(encoding="utf-8") for case in CASES)
    # E0101 needs bytes that are no text, E0206 and later are raised by other stages.
    wanted = {code for code in shipped.codes() if code.startswith(("E01", "E02", "E03"))} - {"E0101"}
    assert {code for code in wanted if f"error[{code}]" not in shown} == set()


def test_nearest() -> None:
    assert nearest("widht", ["depth", "width"]) == "width"
    assert nearest("WIDTH", ["depth", "Width"]) == "Width"
    assert nearest("zzz", ["depth", "width"]) is None
    assert nearest("", []) is None


def test_render_without_a_place() -> None:
    diagnostic = Diagnostic("E0401", "no file", notes=("one\ntwo",), help="look again")
    assert render([diagnostic]) == ("error[E0401]: no file\n  = note: one\n          two\n  = help: look again\n")


def test_render_of_a_place_whose_file_is_gone() -> None:
    span = Span("no/such/file.yaml", 3, 2, 3, 4)
    text = render([Diagnostic("E0201", "unknown", span, (Label(span, "here"),))])
    assert text == "error[E0201]: unknown\n --> no/such/file.yaml:3:2\n  |\n  | here\n  |\n"


def test_render_clips_spans_that_do_not_fit_the_text() -> None:
    add_source("<short>", "a: 1\n")
    for span in (Span("<short>", 1, 40, 1, 90), Span("<short>", 1, 4, 7, 1), Span("<short>", 9, 1, 9, 2)):
        assert render([Diagnostic("E0201", "x", span)]).startswith("error[E0201]: x\n --> <short>:")


def test_colour_only_where_asked() -> None:
    add_source("<colour>", "a: 1\n")
    diagnostic = Diagnostic("E0201", "x", Span("<colour>", 1, 1, 1, 2), help="y")
    plain, coloured = render([diagnostic]), render([diagnostic], color=True)
    assert "\x1b" not in plain
    assert re.sub("\x1b\\[[0-9;]*m", "", coloured) == plain != coloured


def test_error_is_its_text() -> None:
    assert str(DiagnosticError(Diagnostic("E0401", "no file"))) == "error[E0401]: no file\n"


@pytest.mark.parametrize(
    ("system", "change", "message"),
    [
        ("digits_dit", "sampler.guidance={kind: score, score: {kind: event}}", "the event has no bound"),
        ("digits_ar_grpo", "objective.rewards=[{kind: file, file: judge.txt}]", "is neither a .pt2 nor an .onnx file"),
        (
            "digits_dit",
            "networks.main={kind: linear_attention_unet, width: 16, multipliers: [1], blocks: 1, attention: [], "
            "mixer: {kind: attention, heads: 4, kv_heads: 3}}",
            "3 key heads do not divide 4 query heads",
        ),
    ],
)
def test_a_part_of_a_component_reports_its_problems_once(system: str, change: str, message: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec(system, overrides=[change])
    assert [message in found.message for found in error.value.diagnostics].count(True) == 1, error.value
