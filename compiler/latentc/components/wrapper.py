"""Programs around a sampler: what changes or adds to the programs of any sampler that denoises step by step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from latentc.components.contract import Need, Network, Program
from latentc.components.parts import Part, Problem
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.components.samplers.base import ArraySampler
    from latentc.components.samplers.guided import Around
    from latentc.spec.schema import Spec


class Wrapper(Part):
    """An item of a spec's `programs`: it wraps the evaluations of the sampler's steps, adds programs, or does both."""

    @property
    def around(self) -> bool:
        """True if `wrapped` changes the evaluations of the sampler's steps."""
        return False

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        """Networks that it calls besides the sampler's, and what they must be able to do; places relative to it."""
        return ()

    def problems(self, spec: Spec) -> Iterator[Problem]:
        sampler = spec.sampler
        if not isinstance(sampler, Sampler) or not sampler.WRAPPABLE:
            what = "this spec has none" if sampler is None else f"`{sampler.kind}` does not"
            message = f"program `{self.kind}` needs a sampler that denoises whole arrays step by step, but {what}"
            yield Problem((), message, "leave it out, or use a sampler such as `ddim` or `euler`")
        elif not any(True for _ in sampler.problems(spec)):  # otherwise the sampler reports what is wrong
            yield from self.mismatches(spec, cast("ArraySampler", sampler))

    def mismatches(self, spec: Spec, sampler: ArraySampler) -> Iterator[Problem]:
        """Mismatches with the spec and its sampler, which has no problems of its own."""
        yield from ()

    def prepared(self, mb: ModuleBuilder, network: Network, spec: Spec) -> Network:
        """The sampled network with the methods that this program calls. ValueError: it cannot have them."""
        return network

    def wrapped(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> Around | None:
        """The change of the evaluations of the sampler's steps; None: they stay."""
        return None

    def programs(
        self, mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, sampler: ArraySampler
    ) -> tuple[Program, ...]:
        """Adds its own programs."""
        return ()


def wrappers(spec: Spec) -> tuple[Wrapper, ...]:
    """The programs around the spec's sampler."""
    return tuple(wrapper for wrapper in spec.programs if isinstance(wrapper, Wrapper))
