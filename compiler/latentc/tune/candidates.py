"""The candidates: samplers with few steps, and settings of `optimize` that skip part of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latentc.components.processes.process import Parameterization
from latentc.components.samplers._masked import ListedSampler
from latentc.components.samplers.base import ArraySampler
from latentc.measure.calls import evenly
from latentc.spec import load_spec
from latentc.spec.schema import Spec
from latentc.spec.write import yaml_from_data
from latentc.tune.alternatives import alternatives

Tunable = ArraySampler | ListedSampler
"""Samplers that can be tuned."""

COUNTS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)
"""Network evaluations per sample to try, if they are fewer than the spec's own."""

EVERY = (2, 3)
"""Periods of feature caches, in steps."""

UNTIL = (0.25, 0.5, 0.75)
"""Where a small network hands over to `main`, from noise (0) to data (1)."""

REUSED = 3  # samplers that are also tried with cached blocks and with a small network
SHORTEST = 6  # smallest number of steps of such a sampler


@dataclass(frozen=True)
class Candidate:
    """A sampler and its changes of the spec's `optimize`; `found` says how it was found.

    found: spec (the spec's own), grid, timesteps (searched), interval (of guidance), schedules (searched numbers of a
    masked sampler), cache or stitch.
    """

    sampler: Tunable
    found: str = "grid"
    optimize: Mapping[str, Any] = field(default_factory=dict)

    @property
    def solver(self) -> ArraySampler:
        """The sampler of one that denoises in steps."""
        assert isinstance(self.sampler, ArraySampler)
        return self.sampler

    def name(self) -> str:
        """Solver, order, spacing and other changes, in a few words."""
        s = self.sampler
        if not isinstance(s, ArraySampler):
            return f"{s.kind} searched" if self.found == "schedules" else s.kind
        spacing = "searched" if s.timesteps else s.spacing.kind if s.spacing is not None else ""
        parts = [s.kind, str(getattr(s, "order", None) or ""), spacing]
        if (interval := s.guidance_interval) not in (None, (0.0, 1.0)):
            parts.append("guided {:g}-{:g}".format(*interval))
        if (cache := self.optimize.get("cache")) is not None:
            parts.append("blocks {}-{} every {}".format(*cache["blocks"], cache["every"]))
        if (stitch := self.optimize.get("stitch")) is not None:
            parts.append("{network} until {until:g}".format(**stitch))
        return " ".join(filter(None, parts))

    def columns(self) -> dict[str, Any]:
        """Its differences from other candidates, as plain data."""
        s = self.sampler
        if not isinstance(s, ArraySampler):
            other = dict.fromkeys(("order", "spacing", "timesteps", "guidance_interval"))
            return {"found": self.found, "kind": s.kind, "steps": s.steps, **other, "optimize": None}
        return {
            "found": self.found,
            "kind": s.kind,
            "order": getattr(s, "order", None),
            "spacing": None if s.timesteps or s.spacing is None else s.spacing.kind,
            "steps": s.steps,
            "timesteps": list(s.timesteps) if s.timesteps else None,
            "guidance_interval": list(s.guidance_interval) if s.guidance_interval else None,
            "optimize": dict(self.optimize) or None,
        }

    def write(self, path: Path, base: str, own: Tunable, heading: str = "") -> Spec:
        """Write the candidate as a spec that extends `base`, whose sampler is `own`; returns the spec as read back."""
        wanted = self.sampler.model_dump(mode="json", by_alias=True)
        if self.sampler.kind == own.kind:  # merged into the base's sampler; otherwise in place of it
            given = own.model_dump(mode="json", by_alias=True)
            changes = {key: value for key, value in wanted.items() if key == "kind" or value != given[key]}
        else:
            short = self.sampler.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            changes = {key: short[key] for key in wanted if key in short}
        if changes.get("timesteps"):
            changes["timesteps"] = [int(t) if t == int(t) else t for t in changes["timesteps"]]
        data = {"latentc": 1, "extends": base, "sampler": changes}
        data |= {"optimize": dict(self.optimize)} if self.optimize else {}
        path.write_text(heading + yaml_from_data(data), encoding="utf-8")
        spec = load_spec(path)
        assert spec.sampler == self.sampler, f"{path} says {spec.sampler}, not {self.sampler}"
        return spec


def grid(own: ArraySampler, target: Parameterization, counts: Sequence[int]) -> list[Candidate]:
    """Every alternative to the spec's own sampler, at every number of evaluations that it can have."""
    tried = [at_evaluations(sampler, target, count) for count in counts for sampler in alternatives(own, target)]
    return [Candidate(sampler) for sampler in tried if sampler is not None]


def at_evaluations(sampler: ArraySampler, target: Parameterization, count: int) -> ArraySampler | None:
    """The sampler with as many steps as take `count` evaluations, or None if no number does."""
    for steps in (count, (count + 1) // 2):
        resized = sampler.with_steps(steps)
        try:
            if resized.table(target).all_progress.size == count:
                return resized
        except ValueError:  # more steps than the schedule has, or coinciding timesteps
            continue
    return None


def reusing(found: Sequence[Candidate], spec: Spec, small: Sequence[str], depth: int) -> list[Candidate]:
    """A few of the candidates `found`, of different lengths, with steps that run less than the whole network.

    Caches hold all of the `depth` blocks but the first and the last, or the middle half. `small`: networks that can
    take the first steps.
    """
    longer = [c for c in found if c.sampler.steps >= SHORTEST and c.found != "interval"]
    tried: list[tuple[str, dict[str, Any]]] = []
    if spec.optimize.cache is None and depth >= 3:
        ranges = dict.fromkeys([(1, depth - 1), (depth // 4, depth - depth // 4)])
        tried += [("cache", {"blocks": list(blocks), "every": every}) for blocks in ranges for every in EVERY]
    tried += [("stitch", {"network": name, "until": until}) for name in small for until in UNTIL]
    return [
        Candidate(longer[i].sampler, name, {name: value}) for i in evenly(len(longer), REUSED) for name, value in tried
    ]
