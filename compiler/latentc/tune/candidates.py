"""The candidates: samplers with few steps, and settings of `optimize` that skip part of the network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from latentc.components import load
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.base import ArraySampler
from latentc.components.samplers.ddim import Ddim
from latentc.components.samplers.multistep import Multistep
from latentc.components.samplers.ode import Integrator
from latentc.components.samplers.table import Table

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

Gridded = Ddim | Integrator | Multistep  # the samplers that are tried: each has a grid of timesteps

COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)
"""Numbers of network evaluations per sample that are tried, if they are fewer than the spec's own."""

SOLVERS: tuple[tuple[dict[str, Any], tuple[str, ...], str | None], ...] = (
    ({"kind": "ddim"}, ("trailing",), "level"),
    ({"kind": "euler"}, (), "time"),  # on levels it is DDIM
    ({"kind": "dpm_solver_pp", "order": 2}, ("karras", "log_snr"), None),
    ({"kind": "dpm_solver_pp", "order": 3}, (), None),
    ({"kind": "unipc", "order": 2}, ("karras", "log_snr"), None),
    ({"kind": "unipc", "order": 3}, (), None),
    ({"kind": "heun"}, ("karras",), None),
)
"""Deterministic samplers, which approximate the one exact solution from the same noise; spacings tried besides the
usual one, if they suit the process; and the variable that the process's equation is integrated over (None: any)."""

INTERVALS = ((0.0, 0.8), (0.0, 0.6), (0.1, 1.0), (0.2, 1.0), (0.2, 0.8), (0.4, 1.0))
"""Guidance intervals to try, from noise (0) to data (1)."""


S = TypeVar("S", bound=ArraySampler)


EVERY = (2, 3)
"""Periods of feature caches, in steps."""

UNTIL = (0.25, 0.5, 0.75)
"""Where a small network hands over to `main`, from noise (0) to data (1)."""

REUSED = 3  # candidates tried with cached blocks and with a small network
SHORTEST = 6  # fewest steps of such a candidate


@dataclass(frozen=True)
class Candidate:
    """A sampler and its changes of the spec's `optimize`; `found` says how it was found.

    found: spec (the spec's own), grid, timesteps (searched), interval (of guidance), cache or stitch.
    """

    sampler: ArraySampler
    found: str = "grid"
    optimize: Mapping[str, Any] = field(default_factory=dict)

    def name(self) -> str:
        """Solver, order, spacing and other changes, in a few words."""
        s = self.sampler
        order = getattr(s, "order", None)
        where = "searched" if s.timesteps else s.spacing.kind if s.spacing is not None else ""
        parts = [s.kind, str(order) if order else "", where]
        if (interval := s.guidance_interval) not in (None, (0.0, 1.0)):
            parts.append("guided {:g}-{:g}".format(*interval))
        if (cache := self.optimize.get("cache")) is not None:
            parts.append("blocks {}-{} every {}".format(*cache["blocks"], cache["every"]))
        if (stitch := self.optimize.get("stitch")) is not None:
            parts.append("{network} until {until:g}".format(**stitch))
        return " ".join(filter(None, parts))


def solvers(own: ArraySampler, target: Parameterization) -> Iterator[ArraySampler]:
    """The samplers to try, each with the guidance and the clipping of the spec's own."""
    kinds, clip = load("samplers"), getattr(own, "clip", None)
    for fields, spacings, over in SOLVERS:
        if over not in (None, target.process.ODE):
            continue
        cls = kinds[fields["kind"]]
        if clip is not None and "clip" not in cls.model_fields:
            continue  # its estimates would not be bounded
        given = {**fields, "guidance": own.guidance, **({"clip": clip} if clip is not None else {})}
        for spacing in (None, *(name for name in spacings if name in target.process.TRIED)):
            yield cast(ArraySampler, cls.model_validate({**given, "spacing": spacing}))


def grid(own: ArraySampler, target: Parameterization, counts: Sequence[int]) -> list[Candidate]:
    """Every solver at every number of evaluations that it can have."""
    found = []
    for count in counts:
        for sampler in solvers(own, target):
            resized = at_evaluations(sampler, target, count)
            if resized is not None:
                found.append(Candidate(resized))
    return found


def at_evaluations(sampler: ArraySampler, target: Parameterization, count: int) -> ArraySampler | None:
    """The sampler with the number of steps that makes `count` evaluations, or None if there is none."""
    for steps in (count, (count + 1) // 2):
        resized = sampler.with_steps(steps)
        table = table_of(resized, target)
        if table is not None and evaluations(table) == count:
            return resized
    return None


def table_of(sampler: ArraySampler, target: Parameterization) -> Table | None:
    """Its table, or None if there is none: more steps than the schedule has, or timesteps that coincide."""
    try:
        return sampler.table(target)
    except ValueError:
        return None


def evaluations(table: Table) -> int:
    """Network evaluations per sample; a guided one counts once."""
    return sum(part.rows * part.evaluations for part in table.parts())


def with_timesteps(sampler: S, timesteps: Iterable[float]) -> S:
    """The sampler at given timesteps; the fields that chose them before get their defaults."""
    fields = type(sampler).model_fields
    cleared = {name: fields[name].default for name in type(sampler).REPLACES.get("timesteps", ()) if name in fields}
    times = tuple(float(t) for t in timesteps)
    return sampler.model_copy(update={**cleared, "timesteps": times, "steps": len(times)})


def reusing(found: Sequence[Candidate], spec: Spec, small: Sequence[str], depth: int) -> list[Candidate]:
    """A few of the candidates `found`, of different lengths, with steps that run less than the whole network.

    Caches hold all of the `depth` blocks but the first and the last, or the middle half. `small`: networks that can
    take the first steps.
    """
    longer = [c for c in found if c.sampler.steps >= SHORTEST and c.found != "interval"]
    places = np.linspace(0, len(longer) - 1, min(REUSED, len(longer))).round().astype(int)
    tried: list[tuple[str, dict[str, Any]]] = []
    if spec.optimize.cache is None and depth >= 3:
        ranges = dict.fromkeys([(1, depth - 1), (depth // 4, depth - depth // 4)])
        tried += [("cache", {"blocks": list(blocks), "every": every}) for blocks in ranges for every in EVERY]
    tried += [("stitch", {"network": name, "until": until}) for name in small for until in UNTIL]
    return [Candidate(longer[i].sampler, name, {name: value}) for i in places for name, value in tried]
