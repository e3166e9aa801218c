"""The name maps of the shipped specs, against the parameters of every variant."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest

from latentc import api, resources
from latentc.checkpoint import name_map, network_types, symbols
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.yaml import load_yaml
from latentc.weights import check_inverse
from latentc.weights.rules import parse_map

VARIANTS = {name: variants for family in api.specs().values() for name, variants in family.items()}
MAPPED = [name for name in VARIANTS if load_spec(name).weights]


# Options that a map is for beside those of the variants.
OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "diffmoe": (
        ("backbone.interleaved={kind: mixture_of_experts, experts: 4, per_token: 2}",),
        ("backbone.interleaved={kind: mixture_of_experts, activation: gelu, experts: 4, per_token: 2}",),
        ("backbone.block.feed_forward={kind: swiglu}",),
    ),
    "iwin_classifier": (("backbone.positions={kind: learned}",),),
    "rdm": (("backbone.resampling=block",),),
    "maskbit": (("backbone.block.condition.norm_after=false",),),
    "score_sde": (("backbone.decoder=residual",),),
    "score_sde_guided": (("backbone.decoder=residual",),),
}
def first(system: str) -> str:
    """The system at the beginning of those that one extends."""
    path = resources.shipped_specs()[system]
    base = load_yaml(path.read_text(encoding="utf-8"), path.name).data.get("extends")
    return system if base is None else first(base)


# Systems that extend one another share rules, which need not be for all of them.
FAMILIES: dict[str, list[str]] = {}
for system in MAPPED:
    FAMILIES.setdefault(first(system), []).append(system)


def maps_of(system: str) -> Iterator[tuple[Any, Any, Any]]:
    """(rules, types, sizes) of every map, network, and variant or further option."""
    of_variants: list[tuple[str | None, tuple[str, ...]]] = [(variant, ()) for variant in (None, *VARIANTS[system])]
    for variant, options in of_variants + [(None, options) for options in OPTIONS.get(system, ())]:
        spec = load_spec(system, variant, list(options))
        lowered = lower(spec)
        for names, networks in spec.weights.items():
            for network in networks:
                sizes = symbols(lowered, lowered.networks[network])
                yield name_map(spec, network, names), network_types(lowered, network), sizes


@pytest.mark.parametrize("system", MAPPED)
def test_maps_can_be_inverted_in_every_variant(system: str) -> None:
    for rules, types, sizes in maps_of(system):
        check_inverse(rules, types, sizes)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_rule_is_for_a_tensor_of_some_variant(family: list[str]) -> None:
    """A rule for a name that no variant has is misspelt: its tensors would go by a later, more general rule."""
    seen: set[str] = set()
    used: set[str] = set()
    for rules, types, sizes in chain.from_iterable(map(maps_of, family)):
        for rule in (rule for alternative in parse_map(rules, sizes) for rule in alternative):
            if rule.theirs and rule.ours:
                written = str(rules[rule.number - 1])
                seen.add(written)
                used |= {written} if any(t.match(n) is not None for t in rule.ours for n in types) else set()
    assert not seen - used
