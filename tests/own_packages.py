"""Component packages that a test adds, and their end with it."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from latentc import components
from latentc.components import mistakes, packages


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Packages that a test adds are gone afterwards."""
    monkeypatch.setattr(packages, "_given", [])
    monkeypatch.setattr(mistakes, "USERS", {})
    again()
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in mistakes.USERS:
            del sys.modules[name]
    monkeypatch.undo()
    again()


def again() -> None:
    packages.forget()
    components.load.cache_clear()
    components.find.cache_clear()
