"""The samplers that a search for fewer steps tries, and the one whose solution it takes as exact.

A sampler joins the search by `variants`, and becomes the reference by `REFERENCE`; nothing else names it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentc.components import load
from latentc.components.processes.process import Parameterization, time_is_level
from latentc.components.samplers.base import ArraySampler

GRADING = 1.5
"""Power by which the reference's steps shorten: the last one, of first order, would otherwise dominate the error."""


def alternatives(own: ArraySampler, target: Parameterization) -> Iterator[ArraySampler]:
    """Deterministic samplers for the same solution as `own`, with its guidance and clipping.

    Where `own` clips, kinds that cannot clip are left out.
    """
    shared = own.shared()
    for kind, cls in load("samplers").items():
        if issubclass(cls, ArraySampler) and shared.keys() <= cls.model_fields.keys():
            for fields in cls.variants(target.process):
                yield cls.model_validate({"kind": kind, **shared, **fields})


def reference(own: ArraySampler, target: Parameterization, steps: int) -> ArraySampler:
    """The sampler whose solution in `steps` steps stands for the exact one, with the guidance and clipping of `own`."""
    kinds = load("samplers").items()
    kind, cls = next((k, c) for k, c in kinds if issubclass(c, ArraySampler) and c.REFERENCE)
    sampler = cls.model_validate({"kind": kind, "steps": steps, **own.shared()})
    assert isinstance(sampler, ArraySampler)
    interval = sampler.interval(target)
    left = (1 - np.arange(steps) / steps) ** GRADING
    start, stop = interval.start, interval.stop
    if time_is_level(target.process):  # evenly in its logarithm
        return sampler.with_timesteps(stop * (start / stop) ** left)
    return sampler.with_timesteps(stop + (start - stop) * left)
