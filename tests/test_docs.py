"""docs/vocabulary.md says what the components say; links and commands of the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from latentc import components
from latentc.components import OneOf
from latentc.passes import cleanup, decompose, expand_guidance, grad, inline, to_inference
from latentc.spec.data import DATA

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = {
    "data": "Data",
    "backbones": "Backbones",
    "blocks/mixers": "Mixers",
    "blocks/feed_forwards": "Feed-forwards",
    "blocks/norms": "Norms",
    "blocks/conditions": "How the condition enters a block",
    "blocks/positions": "Positions",
    "conditioning": "Conditioning",
    "objectives": "Objectives",
    "samplers": "Samplers",
}


def _type(info) -> str:
    folder = next((m.folder for m in info.metadata if isinstance(m, OneOf)), None)
    if folder is not None:
        return f"one of {folder}"
    annotation = info.annotation
    choices = [c for c in get_args(annotation) if isinstance(c, str)]
    if choices:
        return ", ".join(choices)
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"typing\.|latentc\.[\w.]*\.|, FieldInfo\([^)]*\)|Annotated\[(\w+)[^\]]*\]", r"\1", text).replace("|", "or")


def _component(kind: str, cls) -> list[str]:
    lines = [f"### `{kind}`", "", " ".join((cls.__doc__ or "").split()), ""]
    fields = {info.alias or name: info for name, info in cls.model_fields.items() if name != "kind"}
    if fields:
        lines += ["| field | default | meaning |", "|---|---|---|"]
    for name, info in fields.items():
        default = "required" if info.is_required() else f"`{info.get_default(call_default_factory=True)}`"
        meaning = (info.description or "").replace("|", "\\|")
        choices = _type(info) if get_args(info.annotation) or any(isinstance(m, OneOf) for m in info.metadata) else ""
        plain = choices and "[" not in choices and "or" not in choices.split()
        lines.append(f"| `{name}` | {default} | {meaning}{f' ({choices})' if plain else ''} |")
    return [*lines, ""]


def vocabulary() -> str:
    lines = ["# Vocabulary", "", "Every component a spec can name, by the section it stands in.", ""]
    for folder, title in FOLDERS.items():
        lines += [f"## {title}", ""]
        for kind, cls in (DATA.choices() if folder == "data" else components.load(folder)).items():
            lines += _component(kind, cls)
    return "\n".join(lines)


def test_the_vocabulary_page_is_made_from_the_components(golden):
    golden("../../docs/vocabulary.md", vocabulary())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_ir_page_names_every_pass():
    page = (ROOT / "docs/ir.md").read_text(encoding="utf-8")
    for module in (cleanup, decompose, expand_guidance, grad, inline, to_inference):
        assert f"`{module.__name__.rsplit('.', 1)[-1]}`" in page
