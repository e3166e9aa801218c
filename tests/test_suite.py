"""The test suite can be collected as a whole."""

from __future__ import annotations

from collections import Counter
from pathlib import Path


def test_test_files_have_unique_names() -> None:
    """pytest imports them as top-level modules: the second of one name is an error."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
