"""The memory of this machine, with which runs are compared before they begin."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from latentc_runtime.errors import BundleError
from latentc_runtime.manifest import ProgramEntry
from latentc_runtime.program import variables_read
from latentc_runtime.sources import NUMPY, RandomSource

_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def total_memory() -> float:
    """Bytes that this machine or container has; infinite if the system does not report it."""
    try:
        found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return math.inf
    try:
        return min(found, float(_LIMIT.read_text(encoding="ascii")))
    except (OSError, ValueError):  # "max"
        return found


def check_memory(entry: ProgramEntry, count: int, batch: int) -> None:
    """BundleError E0607 if the noise and the outputs of `count` samples, `batch` at once, are more than the memory.

    The system would end the process instead. What the engine itself takes is not known.
    """
    whole = variables_read(entry.program)  # other rows of noise are drawn a few at a time
    noise = sum(
        math.prod(i.sample_shape) * np.dtype(NUMPY[i.dtype]).itemsize * ((i.rows or 1) if i.name in whole else 1)
        for i in entry.inputs
        if isinstance(i.source, RandomSource)
    )
    made = sum(math.prod(o.output.shape) * np.dtype(NUMPY[o.output.dtype]).itemsize for o in entry.outputs)
    if (needed := noise * batch + made * count) > (held := total_memory()):
        many = f"{count} samples need" if count > 1 else "a sample needs"
        message = f"{many} {needed / 2**30:.1f} GiB of memory, but this machine has {held / 2**30:.1f} GiB"
        raise BundleError("E0607", message, "ask for fewer samples, or use a machine with more memory")


def not_enough(batch: int) -> BundleError:
    """The error of a run for which the system had no memory."""
    return BundleError("E0607", f"not enough memory for a batch of {batch}", "give a smaller `batch`")
