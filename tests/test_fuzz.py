"""A fixed time of fuzzing; `make fuzz N=20000` runs new seeds. A finding becomes a test beside what it broke."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "fuzz"))

from run import fuzz

SECONDS = {"specs": 15, "files": 10, "twins": 10}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux's means")
@pytest.mark.parametrize("fuzzer", SECONDS)
def test_nothing_but_diagnostics(fuzzer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tests = str(Path(__file__).parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, f"{tests}/fuzz", os.environ.get("PYTHONPATH", "")]))
    outcomes, findings = fuzz(fuzzer, range(1_000_000), SECONDS[fuzzer], workers=1)
    assert not findings, "\n".join(findings)
    assert outcomes.total() > 0
