"""The recordings in tests/data/parity are those that tests compare with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from parity_data import FOLDER, ROUNDING
from test_official import CASES

TESTS = Path(__file__).parents[1]


def loaded(path: Path) -> Iterator[str]:
    """Patterns of the names that a file of tests loads: those it writes in a call of `load`, whole or with a part left
    open, and if it also loads names by a variable, each name that it writes anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "load"]
    for name in (call.args[0] for call in calls):
        if isinstance(name, ast.Constant):
            yield re.escape(str(name.value))
        elif isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
            yield re.escape(str(name.values[0].value)) + "[^.]+"
        else:
            yield from (
                re.escape(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )


def test_every_recording_is_loaded() -> None:
    files = {path.stem for path in FOLDER.glob("*.npz")}
    tests = [path for path in TESTS.rglob("test_*.py") if "from parity_data import" in path.read_text(encoding="utf-8")]
    patterns = {pattern for path in tests if path.stem != "test_official" for pattern in loaded(path)}
    written = {name for name in files if any(re.fullmatch(pattern, name) for pattern in patterns)}
    assert {case.numbers for case in CASES} | written == files


def test_rounding_is_that_of_recordings() -> None:
    assert ROUNDING.keys() <= {path.stem for path in FOLDER.glob("*.npz")}
