"""A short run of `make chaos`: one kill of training, one of compiling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from chaos import Chaos
from forked import Started

pytestmark = pytest.mark.slow


class Forked(Chaos):
    """Its training starts in forks, which do not import PyTorch anew."""

    def start(self, command: list[str], **options: Any) -> Any:
        if command[1] == "train.py" and not options:
            return Started(self.project, *command[1:])
        return super().start(command, **options)


def test_faults_leave_nothing_half_written(tmp_path: Path) -> None:
    chaos = Forked(tmp_path, seed=0)
    for fault in ("SIGKILL while training", "SIGKILL while compiling"):
        chaos.cause(fault)
    assert not chaos.broken, "\n".join(chaos.broken)
    assert sum(chaos.counts.values()) == 2 and "| SIGKILL while training | 1 |" in chaos.table()
