"""Spec → IR: asks the components to build their functions, and collects what they made."""

from __future__ import annotations

from collections.abc import Sequence

from latentc.components.contract import Lowered, Network
from latentc.components.parts import Backbone, Objective, Sampler
from latentc.ir.builder import ModuleBuilder
from latentc.ir.verify import verify
from latentc.spec.schema import Spec


def lower(spec: Spec, steps: Sequence[int] = ()) -> Lowered:
    """The module of a checked spec: its networks, its loss, and a sampling program for each count of `steps`.

    Without `steps` there is one program, of the sampler's own number of steps.
    """
    mb = ModuleBuilder()
    networks = build_networks(mb, spec)
    updates = spec.objective.build(mb, networks, spec) if isinstance(spec.objective, Objective) else ()
    programs = []
    if isinstance(spec.sampler, Sampler):
        samplers = [spec.sampler.with_steps(n) for n in steps] or [spec.sampler]
        programs = [sampler.build(mb, networks, spec) for sampler in samplers]
    return Lowered(verify(mb.finish(), "train"), networks, updates, tuple(programs))


def build_networks(mb: ModuleBuilder, spec: Spec) -> dict[str, Network]:
    """Adds every network of the spec to the module."""
    channels = spec.data.shape[0] if spec.data.shape else 0
    objective = spec.objective
    out_channels = objective.out_channels(channels) if isinstance(objective, Objective) else channels
    networks = {}
    for name, backbone in spec.networks.items():
        assert isinstance(backbone, Backbone)
        networks[name] = backbone.build(mb, name, spec, out_channels)
    return networks
