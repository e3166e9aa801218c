"""A candidate as a spec that extends the one it was found for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from latentc import resources
from latentc.components.samplers.base import ArraySampler
from latentc.spec import load_spec
from latentc.spec.schema import Spec
from latentc.spec.write import yaml_from_data
from latentc.tune.candidates import Candidate


def candidate_yaml(candidate: Candidate, base: str, own: ArraySampler) -> str:
    """A spec that extends `base`, whose sampler is `own`, by a candidate's sampler and `optimize`."""
    data: dict[str, Any] = {"latentc": 1, "extends": base, "sampler": _changes(candidate.sampler, own)}
    if candidate.optimize:
        data["optimize"] = dict(candidate.optimize)
    return yaml_from_data(data)


def _changes(sampler: ArraySampler, own: ArraySampler) -> dict[str, Any]:
    """The section for `sampler`: another kind replaces the base's section, the same kind is merged into it."""
    wanted = sampler.model_dump(mode="json", by_alias=True)
    if sampler.kind == own.kind:
        before = own.model_dump(mode="json", by_alias=True)
    else:
        fields = type(sampler).model_fields
        before = {name: info.get_default(call_default_factory=True) for name, info in fields.items()}
    changed = {key: value for key, value in wanted.items() if key == "kind" or value != before.get(key)}
    if wanted.get("timesteps") is not None and sampler.kind != own.kind:
        changed.pop("steps", None)  # the timesteps are their own number
    if changed.get("timesteps"):
        changed["timesteps"] = [int(t) if t == int(t) else t for t in changed["timesteps"]]
    return changed


def base_name(source: str | Path, folder: Path) -> str | None:
    """The value of `extends` for the spec `source` in a spec in `folder`; None if it is not a file."""
    if str(source) in resources.shipped_specs() and not Path(source).exists():
        return str(source)
    return Path(os.path.relpath(source, folder)).as_posix() if Path(source).is_file() else None


def check_written(path: Path, candidate: Candidate) -> Spec:
    """The spec in the file, whose sampler must be the candidate's; else AssertionError."""
    spec = load_spec(path)
    if spec.sampler != candidate.sampler:
        raise AssertionError(f"{path} says {spec.sampler}, not {candidate.sampler}")
    return spec


__all__ = ["base_name", "candidate_yaml", "check_written"]
