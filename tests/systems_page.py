"""docs/systems.md, made from the shipped specs, the authors' numbers that the tests hold, and docs/systems.yaml."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from test_parameter_counts import COUNTS
from tiny_systems import SYSTEMS
from verified import MOST, failures

import latentc.resources as resources
from latentc.spec import load_spec

ROOT = Path(__file__).parents[1]
NUMBERS = ROOT / "tests" / "data" / "parity"
EXAMPLES = "digits"  # the family of specs that only train small networks on small data

BREAK = "<br>"  # a new line within a cell

HEAD = """\
# Systems

Every published system that ships as a spec: its sizes, the recorded results of the authors' code that latentc
reproduces with the authors' weights, and measurements. The float64 oracle, the emitted PyTorch, ONNX Runtime and
OpenVINO agree with these results, forward passes and losses within 1e-5 of the largest value, samplers with recorded
noise within 1e-4; a case with a larger tolerance says why (`tests/parity`). The oracle differs by at most 4 times the
rounding error of the authors' own float32 code. Weights are mapped both ways by name (`tests/parity`,
`tests/test_parity.py`). The authors' results are counted by the first part of their files' names in
`tests/data/parity`; systems without such results name the test with our own reference, whether or not their authors
published code. The source of each parameter count is in `tests/test_parameter_counts.py`: the authors' class where
available. Each measurement names the command that repeats it; a comparison that one seed shows, or that is smaller
than the spread of seeds, is within noise. This page is generated from the specs, the tests and
[systems.yaml](systems.yaml).
"""


def notes() -> dict[str, Any]:
    """docs/systems.yaml."""
    return yaml.safe_load((ROOT / "docs" / "systems.yaml").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def published() -> dict[str, Path]:
    """The specs of published systems by name."""
    return {name: path for name, path in resources.shipped_specs().items() if path.parent.name != EXAMPLES}


def numbers_of(note: Mapping[str, Any]) -> list[str]:
    """The recorded results that a system claims, by name."""
    return sorted(
        {path.stem for name in note.get("numbers", ()) for path in NUMBERS.glob("*.npz") if _covers(name, path.stem)}
    )


def _covers(name: str, stem: str) -> bool:
    return stem == name or stem.startswith(f"{name}.")


def _sizes(name: str) -> str:
    """How many weights the least and the largest variant have, over all networks whose weights are counted."""
    totals: dict[str | None, int] = {}
    for (variant, _), count in COUNTS.get(name, ("", {}))[1].items():
        totals[variant] = totals.get(variant, 0) + count
    if not totals:
        return ""
    ordered = sorted(totals.items(), key=lambda item: item[1])
    ends = ordered[:1] if len(ordered) == 1 else [ordered[0], ordered[-1]]
    return " to ".join(f"{variant or 'default'}: {_million(count)}" for variant, count in ends)


def _million(count: int) -> str:
    return (
        f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.3g} M" if count >= 1e6 else f"{count / 1e3:.3g} k"
    )


def _source(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _agreement(note: Mapping[str, Any]) -> str:
    """How many recorded results of each of the authors' projects, or the test with a reference of our own."""
    if counts := Counter(name.split(".")[0] for name in numbers_of(note)):
        return BREAK.join(f"`{name}`: {count}" for name, count in counts.items())
    return f"reference: `{note['reference']}`" if note.get("reference") else ""


def verified() -> list[str]:
    """What docs/verified.json says: the systems that pass, and what keeps the others from it."""
    entries: dict[str, Any] = json.loads((ROOT / "docs" / "verified.json").read_text(encoding="utf-8"))["systems"]
    runs = sorted({(entry["date"], entry["commit"]) for entry in entries.values()})
    good = {entry["spec"] for entry in entries.values()} - {e["spec"] for e in entries.values() if failures(e)}
    when = ", ".join(f"{date} at commit `{commit}`" for date, commit in runs)
    rest = len(SYSTEMS.keys() - entries.keys())
    left = f" ({rest} were not run)" if rest else ""
    lines = [
        f"`make verified` (last run {when}) verifies {len(entries)} tiny systems{left}; its results are in "
        "[verified.json](verified.json). `latentc verify --training` compares losses, gradients and every method of "
        "every network, methods on both CPU engines. Every program is compared on both in forms `loop`, `host` and, up "
        f"to {MOST} network evaluations, `unroll`. Everything passes for {', '.join(f'`{n}`' for n in sorted(good))}.",
    ]
    bad = {name: failures(entry) for name, entry in entries.items() if failures(entry)}
    if bad:
        lines += ["", "Not everything passes for:", ""]
        lines += [f"- `{name}`: {'; '.join(texts)}" for name, texts in bad.items()]
    return lines


def page() -> str:
    """The text of docs/systems.md."""
    told = notes()
    lines = [HEAD, *verified(), ""]
    families: dict[str, list[str]] = {}
    for name, path in published().items():
        families.setdefault(path.parent.name, []).append(name)
    for family, names in families.items():
        lines += [f"## {family.replace('_', ' ').capitalize()}", ""]
        lines += ["| spec | paper | sizes | authors' results | measured | missing |", "|---|---|---|---|---|---|"]
        for name in names:
            note, spec = told["systems"][name], load_spec(name)
            figures = BREAK.join(note.get("figures", ()))
            cells = (f"`{name}`: {note['title']}", _source(spec.source or ""), _sizes(name), _agreement(note), figures)
            lines.append(f"| {' | '.join((*cells, note.get('missing', '')))} |")
        lines.append("")
    if told["techniques"]:
        lines += [
            "## Techniques",
            "",
            "| technique | paper | in a spec | measured | missing |",
            "|---|---|---|---|---|",
        ]
        for title, note in told["techniques"].items():
            figures = BREAK.join(note.get("figures", ()))
            cells = (title, _source(note["paper"]), f"`{note['option']}`", figures, note.get("missing", ""))
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)
