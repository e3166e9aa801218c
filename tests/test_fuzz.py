"""The first cases of every fuzzer; `make fuzz N=20000 M=1000` runs new seeds. A finding becomes a test."""

from __future__ import annotations

import copy
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "fuzz"))

from run import fuzz

# Cases, and how many outcomes they have at least.
CASES = {"specs": (120, 20), "files": (120, 6), "twins": (12, 1), "data": (60, 6)}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux's means")
@pytest.mark.parametrize("fuzzer", CASES)
def test_nothing_but_diagnostics(fuzzer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, f"{tests}/fuzz", os.environ.get("PYTHONPATH", "")]))
    count, different = CASES[fuzzer]
    outcomes, findings = fuzz(fuzzer, range(count), float("inf"), workers=1)
    assert not findings, "\n".join(findings)
    assert sum(map(len, outcomes.values())) == count and len(outcomes) >= different


@pytest.mark.slow
def test_crossed_specs_are_refused_or_emitted() -> None:
    """The first cases of the fuzzer that crosses systems and options."""
    import crossed

    outcomes = {crossed.run(seed) for seed in range(20)}
    assert "emitted" in outcomes and len(outcomes) > 2


@pytest.mark.slow
def test_a_spec_goes_end_to_end(tmp_path: Path) -> None:
    """One case for the fuzzer that takes seconds per case, so that it keeps working."""
    pytest.importorskip("torch")
    import crossed
    import end_to_end

    data = end_to_end.prepared({**copy.deepcopy(crossed.whole("uvit")), "name": "whole"})
    assert end_to_end.end_to_end(data, tmp_path / "case") == "trained and verified"
