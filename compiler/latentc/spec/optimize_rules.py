"""Rules of the section `optimize` that concern the sampler and the networks."""

from __future__ import annotations

from collections.abc import Iterator

from latentc.components.sampler import Sampler
from latentc.spec.problem import Problem, Rule
from latentc.spec.schema import Spec
from latentc.spec.yaml import PathKey


def _evaluates_steps(spec: Spec) -> bool:
    """True if the spec has no sampler, or one that goes from noise to data in steps."""
    sampler = spec.sampler
    return not isinstance(sampler, Sampler) or any(need.capability == "denoise" for need in sampler.needs(spec))


def stitched_network_is_another(spec: Spec) -> Iterator[Problem]:
    """The network of the first steps exists, and the sampler goes from noise to data in steps."""
    stitch = spec.optimize.stitch
    if stitch is None:
        return
    others = [name for name in spec.networks if name != "main"]
    if stitch.network not in others:
        what = "`main` runs the other steps" if stitch.network == "main" else f"no network `{stitch.network}`"
        mend = f"name one of {', '.join(others)}" if others else "add one to `networks`: `small: {kind: …}`"
        yield Problem("E0309", ("optimize", "stitch", "network"), what, help=mend)
    if "main" not in spec.networks:
        yield Problem("E0309", ("optimize", "stitch"), "there is no network `main` to take over from it")
    if isinstance(spec.sampler, Sampler) and not _evaluates_steps(spec):
        message = f"the sampler `{spec.sampler.kind}` does not step from noise to data"
        yield Problem("E0309", ("optimize", "stitch"), message, help="leave `stitch` out")


def cached_steps_are_there(spec: Spec) -> Iterator[Problem]:
    """The sampler goes from noise to data in steps and has the cached ones. Lowering checks the blocks."""
    cache = spec.optimize.cache
    if cache is None:
        return
    path: PathKey = ("optimize", "cache")
    sampler = spec.sampler
    if isinstance(sampler, Sampler) and not _evaluates_steps(spec):
        message = f"the sampler `{sampler.kind}` does not step from noise to data"
        yield Problem("E0311", path, message, help="leave `cache` out: token samplers already cache keys and values")
    for i, step in enumerate(cache.steps or ()):
        if not 0 <= step < (count := getattr(sampler, "steps", step + 1)):
            message = f"step {step} is out of range: the sampler has steps 0 to {count - 1}"
            yield Problem("E0311", (*path, "steps", i), message)


OPTIMIZE_RULES: tuple[Rule, ...] = (stitched_network_is_another, cached_steps_are_there)
