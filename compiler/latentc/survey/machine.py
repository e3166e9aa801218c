"""The speed of this machine, as far as it decides the size of a first model."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass

import numpy as np

SHARE = 0.3  # of the speed of matrix products, which training on a CPU attains
OF_GPU = 2e13  # operations per second that training is assumed to attain on a GPU


@dataclass(frozen=True)
class Machine:
    """`name` in words; `speed`: operations per second that training attains, measured on a CPU, assumed on a GPU."""

    name: str
    speed: float
    gpu: bool


def this_machine() -> Machine:
    """The first GPU of NVIDIA, or the processor, whose speed is measured in a fraction of a second."""
    if (gpu := _gpu()) is not None:
        return Machine(gpu, OF_GPU, True)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    a = np.ones((512, 512), np.float32)
    a @ a
    best, end = float("inf"), time.perf_counter() + 0.1
    while time.perf_counter() < end:
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return Machine(f"{cores} CPU core{'s' * (cores > 1)}", SHARE * 2 * 512**3 / best, False)


def _gpu() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        command = [tool, "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    names = done.stdout.strip().splitlines()
    return names[0].strip() if done.returncode == 0 and names else None
