"""docs/vocabulary.md says what the components say; links and commands of the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import systems_page

from latentc import components
from latentc.components import OneOf
from latentc.passes import cleanup, decompose, expand_guidance, inline, to_inference

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = {
    "data": "Data",
    "networks": "Networks",
    "blocks/mixers": "Mixers",
    "blocks/feed_forwards": "Feed-forwards",
    "blocks/norms": "Norms",
    "blocks/conditions": "How the condition enters a block",
    "blocks/positions": "Positions",
    "blocks/score_kernels": "Kernels of the scores of attention",
    "blocks/bottlenecks": "Bottlenecks of autoencoders",
    "conditions": "Conditions",
    "processes": "Processes",
    "couplings": "Couplings: where a flow starts",
    "objectives": "Objectives",
    "objectives/terms": "Terms of the adversarial objective",
    "objectives/denoising_terms": "Further terms of a denoiser's loss",
    "samplers": "Samplers",
    "samplers/spacings": "Spacings",
    "guidance": "Guidance",
    "guidance/scores": "Scores that guide",
    "optimizers": "Optimisers",
}


def _choices(info) -> str:
    """The folder a field takes its components from, or the words it may be."""
    folder = next((m.folder for m in info.metadata if isinstance(m, OneOf)), None)
    words = [c for c in get_args(info.annotation) if isinstance(c, str)]
    return f" (one of {folder})" if folder else f" ({', '.join(words)})" if words else ""


def _component(kind: str, cls) -> list[str]:
    lines = [f"### `{kind}`", "", " ".join((cls.__doc__ or "").split()), ""]
    fields = {info.alias or name: info for name, info in cls.model_fields.items() if name != "kind"}
    if fields:
        lines += ["| field | default | meaning |", "|---|---|---|"]
    for name, info in fields.items():
        value = None if info.is_required() else info.get_default(call_default_factory=True)
        value = f"{{kind: {value.kind}}}" if isinstance(value, components.Component) else value
        default = "required" if info.is_required() else f"`{value}`"
        meaning = (info.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {meaning}{_choices(info)} |")
    return [*lines, ""]


def vocabulary() -> str:
    lines = ["# Vocabulary", "", "Every component a spec can name, by the section it stands in.", ""]
    for folder, title in FOLDERS.items():
        lines += [f"## {title}", ""]
        for kind, cls in components.load(folder).items():
            lines += _component(kind, cls)
    return "\n".join(lines)


def test_the_vocabulary_page_has_every_folder():
    root = Path(components.__file__).parent
    folders = [str(path.parent.relative_to(root)) for path in root.rglob("*/__init__.py")]
    assert {folder for folder in folders if components.load(folder)} == set(FOLDERS)


def test_the_vocabulary_page_is_made_from_the_components(golden):
    golden("../../docs/vocabulary.md", vocabulary())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_ir_page_names_every_pass():
    page = (ROOT / "docs/ir.md").read_text(encoding="utf-8")
    for module in (cleanup, decompose, expand_guidance, inline, to_inference):
        assert f"`{module.__name__.rsplit('.', 1)[-1]}`" in page


def test_the_page_of_systems_is_made_from_the_specs_and_tests(golden):
    golden("../../docs/systems.md", systems_page.page())


def test_every_published_system_is_on_its_page():
    told = systems_page.notes()["systems"]
    assert sorted(told) == sorted(systems_page.published())


def test_every_recorded_number_belongs_to_a_system():
    told = systems_page.notes()
    rows = [*told["systems"].values(), *told["techniques"].values()]
    claimed = {name for row in rows for name in systems_page.numbers_of(row)}
    assert claimed == {path.stem for path in systems_page.NUMBERS.glob("*.npz")}
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    references = [row["reference"] for row in rows if row.get("reference")]
    assert all((ROOT / reference).is_file() for reference in references)
    assert [name for name in claimed if not re.search(rf"\b{re.escape(name.partition('.')[0])}\b", tests)] == []
