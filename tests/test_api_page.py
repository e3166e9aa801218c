"""The names that docs/api.md promises exist, and the components that we show import no others."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import api_page
import pytest

ROOT = Path(__file__).parents[1]
TEMPLATES = sorted((ROOT / "templates/component").glob("*.py.j2"))


def test_promised_names_exist() -> None:
    for module, names in api_page.PROMISED.items():
        assert not [name for name in names if not hasattr(importlib.import_module(module), name)], module


def imported(text: str) -> set[tuple[str, str]]:
    """(module, name) of everything of latentc that a module imports; types of the spec are for type checkers."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)]
    pairs = {(node.module or "", alias.name) for node in found for alias in node.names}
    return {pair for pair in pairs if pair[0].startswith("latentc") and pair != ("latentc.spec.schema", "Spec")}


PROMISED = {(module, name) for module, names in api_page.PROMISED.items() for name in names} | {("latentc", "api")}


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.name)
def test_what_init_writes_imports_promised_names_only(file: Path) -> None:
    text = re.sub(r"\{\{ \w+ \}\}", "name", file.read_text(encoding="utf-8"))
    assert imported(text) <= PROMISED


def test_the_examples_import_promised_names_only() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 7
    for block in blocks:
        assert imported(block) <= PROMISED
