"""Samplers whose network is evaluated under a list of guidance terms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from latentc.components import OneOf
from latentc.components.condition import DrawnInput
from latentc.components.contract import Need, Network
from latentc.components.guidance.guidance import GuidanceTerm, Guide
from latentc.components.kit import Conditions
from latentc.components.parts import Problem
from latentc.components.processes.process import Process
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder

if TYPE_CHECKING:
    from latentc.spec.schema import Spec

GuidanceTerms = Annotated[
    GuidanceTerm | tuple[GuidanceTerm, ...] | None, OneOf("guidance", default="classifier_free", many=True)
]


class GuidedSampler(Sampler):
    """A sampler with a field `guidance`: a term, a list of them or null."""

    if TYPE_CHECKING:
        guidance: GuidanceTerms

    def needs(self, spec: Spec) -> tuple[Need, ...]:
        found = [Need("main", "denoise")]
        for path, term in self.terms():
            asks = f"guidance by `{term.kind}`"
            found += [replace(need, place=(*path, *need.place), who=asks) for need in term.needs()]
        return tuple(found)

    def terms(self) -> list[tuple[tuple[str | int, ...], GuidanceTerm]]:
        """The terms of guidance with their paths in the sampler."""
        if isinstance(self.guidance, GuidanceTerm):
            return [(("guidance",), self.guidance)]
        return [(("guidance", i), term) for i, term in enumerate(self.guidance or ())]

    def guides(self, mb: ModuleBuilder, networks: Mapping[str, Network], process: Process) -> list[Guide]:
        """The terms of guidance as a program has them; may add functions to the module."""
        terms = [term for _, term in self.terms()]
        inputs = _numbered([term.INPUT for term in terms])
        every = zip(inputs, self.settings(), terms, strict=True)
        return [
            Guide(key, name, term.scale, weights, how, part)
            for key, name, term in every
            for part, weights, how in term.directions(mb, networks, process)
        ]

    def settings(self) -> list[str]:
        """The names of the terms' scales in requests."""
        terms = [term for _, term in self.terms()]
        usual = _numbered([term.SETTING for term in terms])
        return [term.name or name for term, name in zip(terms, usual, strict=True)]

    def conditions(self, spec: Spec, networks: Mapping[str, Network]) -> Conditions:
        """The conditions of a request: those that networks take, and those that only guidance reads."""
        own = Conditions(spec, networks)
        also = [name for _, term in self.terms() for name in term.reads()]
        return Conditions(spec, networks, (*(name for name, _ in own.items()), *also)) if also else own

    def guided_view(self, mb: ModuleBuilder, main: Network, view: Network) -> Network:
        """`view` of the network `main`, with the methods that the terms call."""
        for _, term in self.terms():
            view = term.prepared(mb, view)
        return replace(view, methods={**view.methods, "forward": main.methods["forward"]})

    def setting_problems(self, spec: Spec) -> Iterator[Problem]:
        """Two scales, or a scale and a condition, that requests would set by one name."""
        settings, taken = self.settings(), _settings_of_conditions(spec)
        for (path, _), name in zip(self.terms(), settings, strict=True):
            if settings.count(name) > 1:
                yield Problem(
                    (*path, "name"), f"two terms of guidance are named `{name}`", "give each term its own `name`"
                )
            elif name in taken:
                message = f"condition `{taken[name]}` is already set by requests as `{name}`"
                yield Problem((*path, "name"), message, "give this guidance another `name`")


def _settings_of_conditions(spec: Spec) -> dict[str, str]:
    """{setting of requests: condition that it is the value of}."""
    inputs = ((name, given) for name, condition in spec.conditions.items() for given in condition.inputs(name, spec))
    return {given.setting.name: name for name, given in inputs if isinstance(given, DrawnInput)}


def _numbered(names: Sequence[str]) -> list[str]:
    """The names, with _2, _3, … at the second, third, … of a name."""
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if count == 1 else f"{name}_{count}" for name, count in zip(names, counts, strict=True)]


__all__ = ["GuidanceTerms", "GuidedSampler"]
