"""Trains emitted projects one after another in forks of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from forked import by_rank

# One process takes the rows and draws of two, part by part, so that it must come to the same weights as they do.
AS_TWO = """
import importlib.util
from types import SimpleNamespace
import torch
import train
generator = train.generator
train.generator = lambda seed, kind, step, rank, part: generator(seed, kind, step, part, rank)
train.sliced = lambda batch, part, parts: {name: rows[part::parts] for name, rows in batch.items()}
if importlib.util.find_spec("latentc_support.rollouts"):
    from latentc_support import rollouts
    drawn_by = rollouts.roll_out
    def roll_out(rewards, networks, batch, config, step, run):
        made = []
        for rank in range(2):
            as_rank = SimpleNamespace(rank=rank, device=run.device, parallel="none")
            made.append(drawn_by(rewards, networks, train.sliced(batch, rank, 2), config, step, as_rank))
        return {name: torch.stack([part[name] for part in made], 1).flatten(0, 1) for name in made[0]}
    rollouts.roll_out = roll_out
train.main()
"""
GRIDLESS = ("--sample_every", "null")
LIMIT = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))"  # what is seen of a full disk


def trained(jobs: Iterable[Mapping[str, Any]]) -> str:
    """What is to say about the runs that failed; a run is {"folder", "name", "processes", "flags"}.

    Its output goes to FOLDER/NAME.RANK.log. `limit` is the largest size of a file in bytes, if there is one.
    """
    failed = ""
    for job in jobs:
        command = ("train.py",) if job["processes"] > 1 else ("-c", AS_TWO)
        full = LIMIT.format(job["limit"]) if "limit" in job else ""
        done = by_rank(Path(job["folder"]), *command, *GRIDLESS, *job["flags"], ranks=job["processes"], before=full)
        said = [one.stdout + one.stderr for one in done]
        for rank, text in enumerate(said):
            Path(job["folder"], f"{job['name']}.{rank}.log").write_text(text)
        if any(one.returncode for one in done):
            failed += f"{job['folder']} {job['name']}: {' | '.join(text[-2000:] for text in said)}\n"
    return failed
