"""A short run of `make chaos`: one kill of training, one of compiling."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos import Chaos

pytestmark = pytest.mark.slow


def test_faults_leave_nothing_half_written(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=0)
    for fault in ("SIGKILL while training", "SIGKILL while compiling"):
        chaos.cause(fault)
    assert not chaos.broken, "\n".join(chaos.broken)
    assert sum(chaos.counts.values()) == 2 and "| SIGKILL while training | 1 |" in chaos.table()
