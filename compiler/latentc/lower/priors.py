"""The priors of conditions in a lowered spec: their losses, and the programs that draw the conditions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from latentc.components.backbone import Backbone
from latentc.components.condition import field_of, prior_systems
from latentc.components.contract import CopiedProgram, Network, Update
from latentc.components.kit.calls import own_setting
from latentc.components.objective import Objective
from latentc.components.sampler import Sampler
from latentc.ir.builder import ModuleBuilder
from latentc.lower.refusals import refusals

if TYPE_CHECKING:
    from latentc.spec.schema import Spec


def own_networks(networks: Mapping[str, Network], spec: Spec) -> dict[str, Network]:
    """The networks without those of priors."""
    others = prior_systems(spec)
    return {name: network for name, network in networks.items() if name not in others}


def add_prior_losses(
    mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec, updates: tuple[Update, ...]
) -> tuple[Update, ...]:
    """`updates` of the spec's own objective, and those of its priors: entries `loss.CONDITION`.

    If there are several, each is called by what it trains: `main`, or the condition.
    """
    found = list(updates)
    for network, (name, system) in prior_systems(spec).items():
        backbone = spec.networks[network]
        assert isinstance(backbone, Backbone) and isinstance(system.objective, Objective)
        if not backbone.trainable:
            continue
        kept = dict(mb.entries)
        with refusals(spec, "conditioning", name, "prior", "objective"):
            (update,) = system.objective.build(mb, _of_system(networks, network, system), system)
        added = {entry: fn for entry, fn in mb.entries.items() if kept.get(entry) != fn}
        modelled = "x" if "x" in system.data.fields else "tokens"
        field = field_of(name, spec.conditions[name])
        added[update.loss] = _with_input(mb, added[update.loss], modelled, field)
        mb.entries = kept | {f"{entry}.{name}": fn for entry, fn in added.items()}
        found.append(
            replace(
                update,
                loss=f"{update.loss}.{name}",
                networks=tuple(network if n == "main" else n for n in update.networks),
                batch=tuple(field if n == modelled else n for n in update.batch),
                name=name,
            )
        )
    if len(found) == len(updates):
        return updates
    return tuple(_named(update, update.name or "main") for update in found)


def _with_input(mb: ModuleBuilder, function: str, old: str, new: str) -> str:
    """The function with its input `old` called `new`, in its place."""
    fn = mb.functions.pop(function)
    b = mb.function("loss")
    made = {v: b.input(new if v.name == old else v.name, v.type) for v in fn.inputs}
    for node in fn.nodes:
        made |= dict(zip(node.outputs, b.copied(node, [made[v] for v in node.inputs]), strict=True))
    b.output(*(made[v] for v in fn.outputs))
    return b.finish(fn.doc)


def _named(update: Update, name: str) -> Update:
    metrics = update.metrics or ("loss",)
    return replace(update, name=name, metrics=tuple(m if "/" in m else f"{name}/{m}" for m in metrics))


def add_prior_programs(mb: ModuleBuilder, networks: Mapping[str, Network], spec: Spec) -> dict[str, Network]:
    """The networks, those of priors with the programs that draw the conditions; these are no entries."""
    found = dict(networks)
    for network, (name, system) in prior_systems(spec).items():
        assert isinstance(system.sampler, Sampler)
        kept = dict(mb.entries)
        with refusals(spec, "conditioning", name, "prior", "sampler"):
            program = system.sampler.build(mb, _of_system(networks, network, system), system)
        function = mb.functions.pop(mb.entries[program.entry])
        mb.entries = kept
        settings = tuple(own_setting(name, setting) for setting in program.settings)
        drawn = {name: CopiedProgram(function, program.sources, settings, program.evaluations)}
        found[network] = replace(found[network], drawn=drawn)
    return found


def _of_system(networks: Mapping[str, Network], network: str, system: Spec) -> dict[str, Network]:
    """The networks of a prior's system: its own as `main`, and encoders of its conditions."""
    return {name: networks[network if name == "main" else name] for name in system.networks}
