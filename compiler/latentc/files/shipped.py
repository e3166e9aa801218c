"""Locates the specs and templates that ship with latentc: in the repository, else in the package data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


@cache
def folder(name: str) -> Path:
    """The folder `specs` or `templates`. Raises FileNotFoundError if the installation lacks it."""
    # An editable install has no _data: the folders are in the repository, next to compiler/.
    for candidate in (_PACKAGE.parent.parent / name, _PACKAGE / "_data" / name):
        if candidate.is_dir() and (candidate.parent == _PACKAGE / "_data" or _is_repository(candidate.parent)):
            return candidate
    raise FileNotFoundError(f"latentc's folder {name!r} is missing from this installation")


def _is_repository(path: Path) -> bool:
    # site-packages/.. could contain an unrelated `specs` folder.
    return (path / "compiler" / "latentc").is_dir()


@cache
def shipped_specs() -> Mapping[str, Path]:
    """{name: path} of every spec that ships with latentc (specs/FAMILY/NAME.yaml), sorted by family and name."""
    return {path.stem: path for path in sorted(folder("specs").rglob("*.yaml"))}


@cache
def codes() -> tuple[str, ...]:
    """The codes of all diagnostics, sorted: each has a page."""
    return tuple(sorted(page.stem for page in (folder("templates") / "explain").glob("*.md")))


def explain_page(code: str) -> str | None:
    """The Markdown page of a diagnostic's code, or None for an unknown code."""
    path = folder("templates") / "explain" / f"{code}.md"
    return path.read_text(encoding="utf-8") if code.isalnum() and path.is_file() else None
