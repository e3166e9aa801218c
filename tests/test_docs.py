"""Generated pages are up to date; links and commands of all pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import api_page
import pytest
import systems_page
import verified
import vocabulary_pages
from tiny_systems import SYSTEMS

from latentc import components
from latentc.components import packages
from latentc.passes import cleanup, decompose, expand_guidance, inline, to_inference

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def test_the_vocabulary_has_a_page_for_every_folder():
    root = Path(components.__file__).parent
    folders = {str(path.parent.relative_to(root)) for path in root.rglob("*/__init__.py")} | packages.folders()
    assert {folder for folder in folders if components.load(folder)} == set(vocabulary_pages.FOLDERS)


@pytest.mark.parametrize("folder", [None, *vocabulary_pages.FOLDERS])
def test_the_vocabulary_is_made_from_the_components(folder, golden):
    page = "vocabulary.md" if folder is None else vocabulary_pages.page_of(folder)
    golden(f"../../docs/{page}", vocabulary_pages.pages()[page])


@pytest.mark.parametrize(("below", "pages"), [("vocabulary", vocabulary_pages.pages), ("systems", systems_page.pages)])
def test_every_page_of_a_generated_folder_is_generated(below, pages, request):
    """A page of what is gone goes with it."""
    stale = set((ROOT / "docs" / below).glob("*.md")) - {ROOT / "docs" / page for page in pages()}
    if request.config.getoption("--bless"):
        for path in stale:
            path.unlink()
    else:
        assert not stale


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_ir_page_names_every_pass():
    page = (ROOT / "docs/ir.md").read_text(encoding="utf-8")
    for module in (cleanup, decompose, expand_guidance, inline, to_inference):
        assert f"`{module.__name__.rsplit('.', 1)[-1]}`" in page


def test_the_pages_of_systems_are_made_from_the_specs_and_tests(golden):
    for page, text in systems_page.pages().items():
        golden(f"../../docs/{page}", text)


def test_every_system_has_one_line():
    """What the table says of a system is short."""
    given = systems_page.notes()
    for title, note in [*given["systems"].items(), *given["techniques"].items()]:
        figure = systems_page.headline(note)
        assert len(figure) <= systems_page.LONGEST, f"{title}: give it a `headline`: {figure}"


def test_every_published_system_is_on_its_page():
    rows = systems_page.notes()["systems"]
    assert sorted(rows) == sorted(systems_page.published())


def test_what_is_verified_are_the_tiny_systems():
    held = verified.document()["systems"]
    assert held and held.keys() <= SYSTEMS.keys()
    for name, entry in held.items():
        assert (entry["spec"], entry.get("variant")) == (SYSTEMS[name].spec, SYSTEMS[name].variant)
        assert not entry["commit"].endswith("+"), "of code that no commit has"


def test_every_measurement_names_a_command_that_exists():
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    notes = systems_page.notes()
    for title, row in [*notes["systems"].items(), *notes["techniques"].items()]:
        for figure in row.get("figures", ()):
            commands = re.findall(r"`((?:benchmarks/|tests/|make |latentc )[^`]*)`", figure)
            assert commands, f"{title}: no command repeats: {figure}"
            for command in commands:
                first, *rest = command.split()
                if first == "make":
                    assert rest[0] in targets, command
                elif first != "latentc":
                    assert (ROOT / first).is_file(), command
                if "--only" in rest:
                    assert re.search(rf'"{rest[rest.index("--only") + 1]}"', sources), command


def test_every_recorded_number_belongs_to_a_system():
    notes = systems_page.notes()
    rows = [*notes["systems"].values(), *notes["techniques"].values()]
    claimed = {name for row in rows for name in systems_page.numbers_of(row)}
    assert claimed == {path.stem for path in systems_page.NUMBERS.glob("*.npz")}
    words = {w for path in (ROOT / "tests").rglob("*.py") for w in re.findall(r"\w+", path.read_text(encoding="utf-8"))}
    references = [row["reference"] for row in rows if row.get("reference")]
    assert all((ROOT / reference).is_file() for reference in references)
    assert [name for name in claimed if name.partition(".")[0] not in words] == []


def test_every_row_names_what_it_is_compared_with():
    """A sentence alone is no evidence: recorded results of the authors' code, or tests with a reference of our own."""
    notes = systems_page.notes()
    rows = notes["systems"] | notes["techniques"]
    assert [title for title, row in rows.items() if not (row.get("reference") or systems_page.numbers_of(row))] == []
    assert {title for title, row in rows.items() if row.get("numbers") and not systems_page.numbers_of(row)} == set()


def test_papers_are_counted_by_what_cites_them():
    of = systems_page.papers()
    assert len(of) == len(systems_page.notes()["papers"]), "two papers have one title"
    titles = {title: [row.get("title") for row in rows] for title, rows in of.items()}
    assert titles["DiT"] and None in titles["CADS"] and "T-Stitch" in titles["T-Stitch"]
    assert "EDM2" not in titles["EDM"] and "MaskGIT's and MAGE's tokenizer" not in titles["DiT"]


def test_the_api_page_is_made_from_the_code(golden):
    golden("../../docs/api.md", api_page.page())
