"""The benchmarks' tables follow the specs: what they train and draw still loads after a change of names or options."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from latentc.spec import load_spec


def test_the_tables_train_and_draw_from_valid_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    known = set(sys.modules)
    try:
        systems = importlib.import_module("training_systems").SYSTEMS
    finally:
        for name in set(sys.modules) - known:  # `common` and other names that tests may also have
            if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).parent.name == "benchmarks":
                del sys.modules[name]
    done = set()
    for system in systems.values():
        for drawn in system.drawn.values():
            trained = drawn.spec or system.trained[drawn.trained]
            done.add((trained.spec, trained.variant, (*trained.overrides, *drawn.overrides)))
    for name, variant, overrides in done:
        load_spec(name, variant, list(overrides))
    assert len(done) > 80
