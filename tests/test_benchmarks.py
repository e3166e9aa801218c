"""The benchmarks' tables follow the specs: what they train and draw still loads after a change of names or options."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from latentc.ir.costs import flops
from latentc.lower import lower
from latentc.spec import load_spec


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A benchmark as a module that is not kept in `sys.modules`."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    known = set(sys.modules)
    try:
        return importlib.import_module(name)
    finally:
        for name in set(sys.modules) - known:  # `common` and other names that tests may also have
            if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).parent.name == "benchmarks":
                del sys.modules[name]


def test_the_tables_train_and_draw_from_valid_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    systems = benchmark("training_systems", monkeypatch).SYSTEMS
    done = set()
    for system in systems.values():
        for drawn in system.drawn.values():
            trained = drawn.spec or system.trained[drawn.trained]
            done.add((trained.spec, trained.variant, (*trained.overrides, *drawn.overrides)))
    for name, variant, overrides in done:
        load_spec(name, variant, list(overrides))
    assert len(done) > 80


def test_every_family_has_a_network_of_a_size_to_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward of 5 to 50 GFLOP takes a fraction of a second on one thread."""
    families = benchmark("families", monkeypatch).FAMILIES
    assert len(families) == 15
    for family in families.values():
        lowered = lower(load_spec(family.spec, family.variant, list(family.overrides)))
        method = lowered.networks["main"].methods[family.method]
        assert 5e9 < float(flops(lowered.module, method.function)) * family.batch < 5e10


def test_families_are_compared_by_the_fastest_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    families = benchmark("families", monkeypatch)
    ms = {"latentc, ONNX Runtime": 50.0, "latentc, OpenVINO": 40.0, "torch.compile": 60.0, "PyTorch eager": 90.0}
    row = {"gflop": 8.0, "rate": 4e11, "ms": ms, "error": {}, "failed": {}}
    assert families.ratio(row) == 1.5
    assert families.share(row, "latentc, OpenVINO") == pytest.approx(0.5)
    (line,) = (line for line in families.table({"DiT": {"fp32": row}}).splitlines() if line.startswith("| DiT"))
    assert line == "| DiT | fp32 | 8.0 | 50.0 | 40.0 | 60.0 | 90.0 | 1.50 × | 50% |"
