"""docs/vocabulary.md says what the components say; links and commands of the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
import systems_page
import verified
import yaml
from pydantic import BaseModel
from tiny_systems import SYSTEMS

from latentc import components
from latentc.components import OneOf, packages
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
    "blocks/score_kernels": "Attention score kernels",
    "blocks/bottlenecks": "Autoencoder bottlenecks",
    "conditions": "Conditions",
    "processes": "Processes",
    "couplings": "Couplings: the start of a flow",
    "objectives": "Objectives",
    "objectives/terms": "Terms of the adversarial objective",
    "objectives/augmentations": "Augmentations of the adversarial objective",
    "objectives/rewards": "Rewards",
    "objectives/denoising_terms": "Additional denoising loss terms",
    "samplers": "Samplers",
    "samplers/spacings": "Spacings",
    "guidance": "Guidance",
    "guidance/scores": "Guidance scores",
    "optimizers": "Optimisers",
}


def _choices(info) -> str:
    """The folder a field takes its components from, or the words it may be."""
    folder = next((m.folder for m in info.metadata if isinstance(m, OneOf)), None)
    words = [c for c in get_args(info.annotation) if isinstance(c, str)]
    return f" (one of {folder})" if folder else f" ({', '.join(words)})" if words else ""


def _written(value: Any) -> str:
    """A default as a spec has it; of a component only what is not a default of its own."""
    if not isinstance(value, BaseModel):
        return str(value)
    whole = not isinstance(value, components.Component)  # which has a table of its own
    own = value.model_dump(mode="json", by_alias=True, exclude_defaults=not whole)
    own = own if whole else {"kind": value.kind, **own}
    return yaml.safe_dump(own, default_flow_style=True, sort_keys=False, width=1000).strip()


def _rows(cls) -> list[str]:
    """The fields of a component, one row of a table each."""
    rows = []
    for name, info in cls.model_fields.items():
        if name == "kind":
            continue
        value = None if info.is_required() else info.get_default(call_default_factory=True)
        default = "required" if info.is_required() else f"`{_written(value)}`"
        meaning = (info.description or "").replace("|", "\\|")
        rows.append(f"| `{info.alias or name}` | {default} | {meaning}{_choices(info)} |")
    return rows


def _table(rows: list[str]) -> list[str]:
    return ["| field | default | meaning |", "|---|---|---|", *rows, ""] if rows else []


def _shared(kinds: dict[str, list[str]]) -> dict[tuple[str, ...], list[str]]:
    """{kinds: rows that all of them have}, of rows that many kinds have."""
    having: dict[str, list[str]] = {}
    for kind, rows in kinds.items():
        for row in rows:
            having.setdefault(row, []).append(kind)
    groups: dict[tuple[str, ...], list[str]] = {}
    for row, names in having.items():
        groups.setdefault(tuple(names), []).append(row)
    return {names: rows for names, rows in groups.items() if len(names) > 9 or (len(names) > 3 and len(rows) > 1)}


def _section(title: str, classes: dict) -> list[str]:
    """The components of a folder; fields that many of them share are given once."""
    kinds = {kind: _rows(cls) for kind, cls in classes.items()}
    shared, lines = _shared(kinds), [f"## {title}", ""]
    for names, rows in shared.items():
        others = [kind for kind in kinds if kind not in names]
        words = "All kinds" + (f" but {_listed(others)}" if others else "") if len(others) < 6 else _listed(names)
        lines += [f"{words} have:", "", *_table(rows)]
    for kind, cls in classes.items():
        elsewhere = {row for names, rows in shared.items() if kind in names for row in rows}
        lines += [f"### `{kind}`", "", " ".join((cls.__doc__ or "").split()), ""]
        lines += _table([row for row in kinds[kind] if row not in elsewhere])
    return lines


def _listed(kinds) -> str:
    *most, last = (f"`{kind}`" for kind in kinds)
    return f"{', '.join(most)} and {last}" if most else last


def vocabulary() -> str:
    lines = [
        "# Vocabulary",
        "",
        "Every component that a spec can name, by section. Fields shared by many kinds of a section",
    ]
    lines += ["are listed at its start.", ""]
    for folder, title in FOLDERS.items():
        lines += _section(title, components.load(folder))
    return "\n".join(lines)


def test_the_vocabulary_page_has_every_folder():
    root = Path(components.__file__).parent
    folders = {str(path.parent.relative_to(root)) for path in root.rglob("*/__init__.py")} | packages.folders()
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


def test_what_is_verified_are_the_tiny_systems():
    held = verified.document()["systems"]
    assert held and held.keys() <= SYSTEMS.keys()
    for name, entry in held.items():
        assert (entry["spec"], entry.get("variant")) == (SYSTEMS[name].spec, SYSTEMS[name].variant)
        assert not entry["commit"].endswith("+"), "of code that no commit has"


def test_every_measurement_names_a_command_that_exists():
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    told = systems_page.notes()
    for title, row in [*told["systems"].items(), *told["techniques"].items()]:
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
    told = systems_page.notes()
    rows = [*told["systems"].values(), *told["techniques"].values()]
    claimed = {name for row in rows for name in systems_page.numbers_of(row)}
    assert claimed == {path.stem for path in systems_page.NUMBERS.glob("*.npz")}
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    references = [row["reference"] for row in rows if row.get("reference")]
    assert all((ROOT / reference).is_file() for reference in references)
    assert [name for name in claimed if not re.search(rf"\b{re.escape(name.partition('.')[0])}\b", tests)] == []
