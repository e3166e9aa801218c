"""Runs the training of many emitted projects one after another, importing packages once: a fork per process of a run.

Standard input is JSON: a list of {"folder", "name", "processes", "flags"}. The output of a process goes to
FOLDER/NAME.RANK.log. `limit` is the largest size of a file in bytes, if there is one. A run of one process takes the
rows and draws of two processes, part by part, so that it must come to the same weights as they do. Prints the runs that
failed.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401
import torch
import torch._dynamo
import torch.distributed.checkpoint.state_dict
import torch.distributed.fsdp
import torch.utils.tensorboard


def child(job: dict[str, Any], rank: int, port: int) -> None:
    """One process of a run; never returns."""
    status = 1
    try:
        os.chdir(job["folder"])
        log = os.open(f"{job['name']}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if "limit" in job:  # what a program sees of a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (job["limit"], job["limit"]))
        if job["processes"] > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(job["processes"])}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        sys.argv = ["train.py", *job["flags"]]
        sys.path.insert(0, job["folder"])
        import train  # type: ignore[import-not-found]

        if job["processes"] == 1:
            generator = train.generator
            train.generator = lambda seed, kind, step, rank, part: generator(seed, kind, step, part, rank)
            train.sliced = lambda batch, part, parts: {name: rows[part::parts] for name, rows in batch.items()}
        train.main()
        status = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run(job: dict[str, Any]) -> bool:
    """Whether all processes of a run ended well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["processes"]):
        pid = os.fork()
        if not pid:
            child(job, rank, port)
        children.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in children]  # every child is waited for
    return not any(statuses)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.load(sys.stdin):
        if not run(job):
            log = Path(job["folder"], f"{job['name']}.0.log").read_text(errors="replace")
            print(f"{job['folder']} {job['name']}: {log[-2000:]}")
