"""Conditions that sampling programs draw: a generative model of a condition, in front of the networks it conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from latentc.components import Closed, Component, OneOf
from latentc.components.parts import Problem

if TYPE_CHECKING:
    from latentc.components.condition import Condition
    from latentc.spec.schema import Spec


class Prior(Closed):
    """A system of its own that models the data field of a condition.

    Training reads the condition from the data, and trains the prior's network on the same samples. Sampling programs
    draw the condition by the prior's sampler first, so that a request does not give it.
    """

    network: str = Field(description="one of `networks`, which models the condition")
    objective: Annotated[Component, OneOf("objectives")] = Field(description="objective of that network")
    sampler: Annotated[Component, OneOf("samplers")] = Field(description="sampler of the condition")

    def system(self, name: str, spec: Spec) -> Spec:
        """The prior of condition `name` as a spec: its network is `main`, and the condition's field is modelled.

        Its network may be told the other conditions that need no prior, and those that are drawn before this one.
        """
        conditions = list(spec.conditions)
        later = conditions[conditions.index(name) :]
        told: dict[str, Component] = {}
        for other, part in spec.conditioning.items():
            prior = getattr(part, "prior", None)
            if other != name and (prior is None or other not in later):
                told[other] = part if prior is None else part.model_copy(update={"prior": None})
        encoders = {n for c in told.values() for n in getattr(c, "networks", ())}
        networks = {n: network for n, network in spec.networks.items() if n in encoders}
        if self.network in spec.networks:
            networks["main"] = spec.networks[self.network]
        return spec.model_copy(
            update={
                "data": _modelling(spec, field_of(name, spec.conditions[name])),
                "networks": networks,
                "conditioning": told,
                "objective": self.objective,
                "sampler": self.sampler,
                "programs": (),
                "optimize": spec.optimize.model_copy(update={"cache": None, "stitch": None}),
            }
        )

    def problems(self, name: str, spec: Spec) -> Iterator[Problem]:
        """A network that does not exist or cannot do what the objective and the sampler need."""
        network = spec.networks.get(self.network)
        if network is None or self.network == "main":
            what = (
                f"no network `{self.network}`"
                if network is None
                else "`main` takes the condition, so it cannot generate it"
            )
            yield Problem(
                ("prior", "network"), what, "add a network that generates the condition to `networks`, and name it"
            )
            return
        system = self.system(name, spec)
        provided = network.provides(system)  # type: ignore[attr-defined]
        for section, part in (("objective", self.objective), ("sampler", self.sampler)):
            for need in part.needs(system):  # type: ignore[attr-defined]
                if need.network != "main":
                    message = f"`{part.kind}` also needs a network `{need.network}`, but a prior has only one network"
                    yield Problem(("prior",), message, "choose another objective or sampler")
                elif need.capability not in provided:
                    message = (
                        f"`{part.kind}` needs a network for `{need.capability}`, which "
                        f"`{network.kind}` does not provide"
                    )
                    yield Problem(("prior", "network"), message, "name another network")
                elif lacking := [output for output in need.outputs if output not in network.outputs(system)]:  # type: ignore[attr-defined]
                    message = (
                        f"{need.who or f'`{part.kind}`'} reads the output `{lacking[0]}` of network `{self.network}`"  # type: ignore[attr-defined]
                    )
                    yield Problem(("prior", section, *need.place), f"{message}, which has none", "leave it out")


def field_of(name: str, condition: Condition) -> str:
    """The data field that condition `name` comes from."""
    return condition.field or ("y" if name == "class" else name)


def systems(spec: Spec) -> dict[str, tuple[str, Spec]]:
    """{network of a prior: (the condition that it models, its system)}, in the order in which they are drawn."""
    found: dict[str, tuple[str, Spec]] = {}
    for name, condition in spec.conditions.items():
        prior = getattr(condition, "prior", None)
        if prior is not None:
            found[prior.network] = (name, prior.system(name, spec))
    return found


def _modelling(spec: Spec, field: str) -> Any:
    """The data with `field` as what is modelled: `x`, or `tokens` if it holds several integers."""
    data = spec.data
    modelled = data.fields.get(field)
    fields = {n: f for n, f in data.fields_.items() if n not in ("x", "tokens", field)}
    changes: dict[str, Any] = {"fields_": fields, "shape": None, "tokens": None, "first_stage": None}
    if modelled is not None:
        discrete = modelled.classes is not None
        changes["fields_"] = {"tokens" if discrete else "x": modelled, **fields}
        changes["shape"] = None if discrete else modelled.shape
    copy = data.model_copy(update=changes)
    copy.model_post_init(None)
    return copy


__all__ = ["Prior", "field_of", "systems"]
