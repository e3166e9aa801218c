"""docs/vocabulary.md and the pages below it, made from the components."""

from __future__ import annotations

from typing import Any, get_args

import yaml
from pydantic import BaseModel

from latentc import components
from latentc.components import OneOf

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
    "programs": "Programs around a sampler",
    "optimizers": "Optimisers",
}
"""{folder: title of its page}, in the order of the index."""

INDEX = """\
# Vocabulary

Every component that a spec can name: one page per section, with all fields, their defaults and meanings. A kind in
italics belongs to one published system and is defined in that system's folder.
"""


def pages() -> dict[str, str]:
    """{file in docs: text} of the index and of each section's page."""
    found = {"vocabulary.md": _index()}
    for folder, title in FOLDERS.items():
        lines = [f"# {title}", "", "Section of the [vocabulary](../vocabulary.md). Generated from the components.", ""]
        found[page_of(folder)] = "\n".join(lines + _section(components.load(folder)))
    return found


def page_of(folder: str) -> str:
    """The file in docs of a folder's page."""
    return f"vocabulary/{folder.replace('/', '_')}.md"


def system_of(cls: type) -> str | None:
    """The system that defines a component, or None if the core does."""
    parts = cls.__module__.split(".")
    return parts[2] if parts[:2] == ["latentc", "systems"] else None


def _index() -> str:
    lines = [INDEX, "| section | kinds |", "|---|---|"]
    for folder, title in FOLDERS.items():
        page, classes = page_of(folder), components.load(folder)
        ordered = sorted(classes, key=lambda kind: (system_of(classes[kind]) is not None, kind))
        names = [f"[{kind}]({page}#{kind})" for kind in ordered]
        names = [f"*{name}*" if system_of(classes[kind]) else name for kind, name in zip(ordered, names, strict=True)]
        lines.append(f"| [{title}]({page}) | {', '.join(names)} |")
    return "\n".join([*lines, ""])


def _section(classes: dict[str, Any]) -> list[str]:
    """The components of a folder; fields that many of them share are given once."""
    kinds = {kind: _rows(cls) for kind, cls in classes.items()}
    shared, lines = _shared(kinds), []
    for names, rows in shared.items():
        others = [kind for kind in kinds if kind not in names]
        words = "All kinds" + (f" but {_listed(others)}" if others else "") if len(others) < 6 else _listed(names)
        lines += [f"{words} have:", "", *_table(rows)]
    for kind, cls in classes.items():
        elsewhere = {row for names, rows in shared.items() if kind in names for row in rows}
        lines += [f"## `{kind}`", "", " ".join((cls.__doc__ or "").split()), ""]
        if system := system_of(cls):
            lines += [f"Defined by the system `{system}`.", ""]
        lines += _table([row for row in kinds[kind] if row not in elsewhere])
    return lines


def _rows(cls: Any) -> list[str]:
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


def _choices(info: Any) -> str:
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


def _listed(kinds: Any) -> str:
    *most, last = (f"`{kind}`" for kind in kinds)
    return f"{', '.join(most)} and {last}" if most else last
