"""The load test of benchmarks/serve_load.py for a few seconds: no wrong sample, and memory that does not grow."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from served import two_step_counts

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from serve_load import cases_of, load, server


def test_many_users_get_the_samples_they_asked_for(tmp_path: Path) -> None:
    bundle = two_step_counts(tmp_path / "b")
    cases = cases_of(bundle, 40)
    with server(bundle, "--delay", 0.02, "--batch", 8) as (address, pid):
        found = asyncio.run(load(address, pid, cases, users=32, seconds=3))
    assert found.wrong == 0 and found.exact == len(found.seconds) > 32
    assert found.batch > 2 and found.refused == 0
    assert found.growth() < 1.2, found.memory
