"""docs/systems.md and the pages below it, made from the shipped specs, the tests and docs/systems.yaml."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from test_parameter_counts import COUNTS
from tiny_systems import SYSTEMS
from verified import MOST, failures

from latentc.files import shipped
from latentc.spec import load_spec

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "tests" / "data" / "parity"
EXAMPLES = "digits"  # the family of specs that only train small networks on small data

HEAD = """\
# Systems

Every published system that ships as a spec, one per line; its page has all measurements and gaps. *Agreement* counts
the recorded results of the authors' code that latentc reproduces with the authors' weights (`ours`: a reference of our
own instead). *Figure* is one measurement of many. Systems marked ¹ missed an effect of their paper: see
[below](#effects-that-did-not-show).
"""

FOOT = """\
## How these were measured

The float64 oracle, the emitted PyTorch, ONNX Runtime and OpenVINO agree with the authors' results, forward passes and
losses within 1e-5 of the largest value, samplers with recorded noise within 1e-4; a case with a larger tolerance says
why (`tests/parity`). The oracle differs by at most 4 times the rounding error of the authors' own float32 code. Weights
are mapped both ways by name (`tests/parity`, `tests/test_parity.py`). The source of each parameter count is in
`tests/test_parameter_counts.py`: the authors' class where available. Each measurement names the command that repeats
it; a comparison that one seed shows, or that is smaller than the spread of seeds, is within noise. `make map` counts
the papers with recorded results among those that latentc sets out to cover. These pages are generated from the specs,
the tests and [systems.yaml](systems.yaml).
"""

PAGE = "[Systems](../systems.md). Generated from the spec, the tests and `docs/systems.yaml`."
TECHNIQUES = "systems/techniques.md"
LONGEST = 110  # characters of a figure in the table


@cache
def notes() -> dict[str, Any]:
    """docs/systems.yaml."""
    return yaml.safe_load((ROOT / "docs" / "systems.yaml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def published() -> dict[str, Path]:
    """The specs of published systems by name."""
    return {name: path for name, path in shipped.shipped_specs().items() if path.parent.name != EXAMPLES}


@cache
def source_of(name: str) -> str:
    """The paper of a spec."""
    return load_spec(name).source or ""


def papers() -> dict[str, list[Mapping[str, Any]]]:
    """{paper that latentc sets out to cover: the rows of systems and techniques that cite it}."""
    given = notes()
    cited = [(source_of(name), note) for name, note in given["systems"].items()]
    cited += [(note["paper"], note) for note in given["techniques"].values()]
    return {title: [n for text, n in cited if _cites(text, paper)] for paper, title in given["papers"].items()}


def _cites(text: str, paper: str) -> bool:
    return re.search(rf"{re.escape(paper)}(?!\w)", text) is not None


def numbers_of(note: Mapping[str, Any]) -> list[str]:
    """The recorded results that a system claims, by name."""
    return sorted(
        {path.stem for name in note.get("numbers", ()) for path in NUMBERS.glob("*.npz") if _covers(name, path.stem)}
    )


def _covers(name: str, stem: str) -> bool:
    return stem == name or stem.startswith(f"{name}.")


def _totals(name: str) -> list[tuple[str, int]]:
    """(variant, weights of all networks whose weights are counted), from the smallest to the largest."""
    totals: dict[str | None, int] = {}
    for (variant, _), count in COUNTS.get(name, ("", {}))[1].items():
        totals[variant] = totals.get(variant, 0) + count
    return sorted(((variant or "default", count) for variant, count in totals.items()), key=lambda item: item[1])


def _sizes(name: str) -> str:
    """The numbers of weights of the smallest and the largest variant."""
    totals = _totals(name)
    return " to ".join(dict.fromkeys(_million(count) for _, count in totals[:1] + totals[-1:]))


def _million(count: int) -> str:
    return (
        f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
    )


def _source(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _agreement(note: Mapping[str, Any]) -> str:
    """How many recorded results of the authors' code, or that there is a reference of our own."""
    return str(len(numbers_of(note)) or ("ours" if note.get("reference") else ""))


def _results(note: Mapping[str, Any]) -> list[str]:
    """The recorded results of the authors' code by name, and the tests with references of our own."""
    names = numbers_of(note)
    found = (
        [f"{len(names)} recorded results of the authors' code: {', '.join(f'`{n}`' for n in names)}"] if names else []
    )
    return found + ([f"a reference of our own: `{note['reference']}`"] if note.get("reference") else [])


def headline(note: Mapping[str, Any]) -> str:
    """The figure that the table shows: `headline`, or what the first of `figures` says before its first semicolon."""
    if figures := note.get("figures"):
        return str(note.get("headline") or re.split(r"; | \(`", figures[0])[0])
    return ""


def verified() -> list[str]:
    """What docs/verified.json says: the systems that pass, and what keeps the others from it."""
    entries: dict[str, Any] = json.loads((ROOT / "docs" / "verified.json").read_text(encoding="utf-8"))["systems"]
    bad = {name: failures(entry) for name, entry in entries.items() if failures(entry)}
    dates = sorted({entry["date"] for entry in entries.values()})
    rest = len(SYSTEMS.keys() - entries.keys())
    left = f", all but {rest}" if rest else ""
    lines = [
        f"`make verified` verifies {len(entries)} tiny systems{left} (from {dates[0]} to {dates[-1]}; "
        "[verified.json](verified.json) has the commit and result of each). `latentc verify --training` compares "
        "losses, gradients and every method of every network, methods on both CPU engines. Every program is compared "
        f"on both in forms `loop`, `host` and, up to {MOST} network evaluations, `unroll`. Everything passes for "
        f"{len(entries) - len(bad)} of them.",
    ]
    if bad:
        lines += ["", "Not everything passes for:", ""]
        lines += [f"- `{name}`: {'; '.join(texts)}" for name, texts in bad.items()]
    return lines


def pages() -> dict[str, str]:
    """{file in docs: text} of the table and of every system's page."""
    given = notes()
    found = {"systems.md": _table(given), TECHNIQUES: _techniques(given["techniques"])}
    return found | {
        f"systems/{name}.md": _page(name, path, given["systems"][name]) for name, path in published().items()
    }


def _table(given: Mapping[str, Any]) -> str:
    lines, families = [HEAD], dict[str, list[str]]()
    for name, path in published().items():
        families.setdefault(path.parent.name, []).append(name)
    for family, names in families.items():
        lines += [
            f"## {family.replace('_', ' ').capitalize()}",
            "",
            "| system | what | sizes | agreement | figure |",
            "|---|---|---|---|---|",
        ]
        for name in names:
            note = given["systems"][name]
            mark = " ¹" if "missed" in note else ""
            cells = (
                f"[{name}](systems/{name}.md){mark}",
                note["title"],
                _sizes(name),
                _agreement(note),
                headline(note),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += ["## Techniques", "", f"Options of any suitable spec ([how to set them]({TECHNIQUES})):", ""]
    lines += ["| technique | agreement | figure |", "|---|---|---|"]
    for title, note in given["techniques"].items():
        link = f"[{title}]({TECHNIQUES}#{_anchor(title)}){_mark(note)}"
        lines.append(f"| {link} | {_agreement(note)} | {headline(note)} |")
    lines += ["", "## Effects that did not show", "", "| system | in our measurement |", "|---|---|"]
    systems = [(f"[{name}](systems/{name}.md)", note) for name, note in given["systems"].items()]
    systems += [(f"[{title}]({TECHNIQUES}#{_anchor(title)})", note) for title, note in given["techniques"].items()]
    lines += [f"| {link} | {note['missed']} |" for link, note in systems if "missed" in note]
    return "\n".join([*lines, "", "## Verification", "", *verified(), "", FOOT])


def _mark(note: Mapping[str, Any]) -> str:
    return " ¹" if "missed" in note else ""


def _anchor(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _page(name: str, path: Path, note: Mapping[str, Any]) -> str:
    file = path.relative_to(ROOT)
    lines = [f"# {note['title']}", "", f"{PAGE} Spec: [{file}](../../{file}).", ""]
    lines += [f"Paper: {_source(source_of(name))}", ""] if source_of(name) else []
    lines += _body(note, _totals(name))
    entries = json.loads((ROOT / "docs" / "verified.json").read_text(encoding="utf-8"))["systems"]
    if tiny := {key: entry for key, entry in entries.items() if entry["spec"] == name}:
        lines += ["## Verified at a tiny size", ""]
        lines += [f"- `{key}`: {'; '.join(failures(entry)) or 'passes'}" for key, entry in tiny.items()]
        lines.append("")
    return "\n".join(lines)


def _body(note: Mapping[str, Any], totals: list[tuple[str, int]], level: str = "##") -> list[str]:
    """The sections of a system or technique: sizes, agreement, measurements, gaps."""
    lines = []
    if totals:
        lines += [f"{level} Sizes", "", "| variant | weights |", "|---|---|"]
        lines += [*(f"| {variant} | {count:,} |" for variant, count in totals), ""]
    if results := _results(note):
        lines += [f"{level} Agreement", "", *(f"- {result}" for result in results), ""]
    if "missed" in note:
        lines += [f"{level} Effect that did not show", "", f"{note['missed'][0].upper()}{note['missed'][1:]}.", ""]
    if note.get("figures"):
        lines += [f"{level} Measurements", "", *(f"- {figure}" for figure in note["figures"]), ""]
    if note.get("missing"):
        lines += [f"{level} Missing", "", f"{note['missing']}.", ""]
    return lines


def _techniques(given: Mapping[str, Any]) -> str:
    lines = ["# Techniques", "", "[Systems](../systems.md). Generated from the tests and `docs/systems.yaml`.", ""]
    for title, note in given.items():
        lines += [f"## {title}", "", f"Paper: {_source(note['paper'])}", "", f"In a spec: `{note['option']}`", ""]
        lines += _body(note, [], "###")
    return "\n".join(lines)
