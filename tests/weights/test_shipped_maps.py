"""The name maps of the shipped specs, against the parameters of every variant."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from latentc import api
from latentc.checkpoint import name_map, network_types, symbols
from latentc.lower import lower_networks
from latentc.spec import Spec, load_spec
from latentc.weights import check_inverse
from latentc.weights.rules import parse_map

VARIANTS = {name: variants for family in api.specs().values() for name, variants in family.items()}

# Variants that rules are for which neither the first nor the last has.
FURTHER = {"dimr": ("XL/2R-256-text",), "edm": ("cifar10-ve",)}

# Options that a map is for beside those of the variants.
OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "adm": (("backbone.resampling=conv",),),
    "adm_classifier": (
        ("backbone.resampling=conv",),
        *((f"backbone.pool={pool}",) for pool in ("mean", "all_means", "all_means_normalized")),
    ),
    "adm_g": (
        ("networks.classifier.resampling=conv",),
        *((f"networks.classifier.pool={pool}",) for pool in ("mean", "all_means", "all_means_normalized")),
    ),
    "diffmoe": (
        ("backbone.interleaved={kind: mixture_of_experts, experts: 4, per_token: 2}",),
        ("backbone.interleaved={kind: mixture_of_experts, activation: gelu, experts: 4, per_token: 2}",),
        ("backbone.block.feed_forward={kind: swiglu}",),
    ),
    "gedi": (("networks.discriminator.class_bias=true",),),
    "dimr": (
        (
            "backbone.coarse.mixer={kind: attention, heads: 2, qkv_bias: false, axial_rotary: true}",
            "backbone.branches=[{width: 32, half: 1, patch: 2, block: coarse}, {width: 16, half: 0, block: coarse}]",
            "backbone.coarse.norm={kind: rms_norm, eps: 1e-16}",
            "conditioning.class=null",
            "sampler.guidance=null",
        ),
        (
            "backbone.branches=[{width: 32, half: 1, patch: 2, block: coarse}, {width: 16, half: 1}]",
            "backbone.coarse.mixer.heads=2",
            "backbone.coarse.norm={kind: first_token_rms_norm}",
            "backbone.fine.norm={kind: first_token_rms_norm, rows: true}",
        ),
        (
            "backbone.branches=[{width: 32, half: 1, patch: 2, block: coarse}, {width: 16, half: 1}]",
            "backbone.coarse.mixer.heads=2",
            "backbone.coarse.norm={kind: timed_layer_norm}",
            "backbone.fine.norm={kind: timed_layer_norm}",
        ),
    ),
    "givt_dense_vae": (("backbone.tokens_by=mixed",),),
    "iwin_classifier": (("backbone.positions={kind: learned}",),),
    "larp_tokenizer": (
        (
            "backbone.learned=[patches, queries, latents, outputs]",
            "backbone.typed=[patches, queries, latents, outputs]",
        ),
        ("backbone.frames=1", "backbone.learned=[]", "backbone.latent_norm=batch"),
    ),
    "maskgit_r": (("backbone.long_skips=false",),),
    "maskgit_jax": (("backbone.embedding={labels: 1000, places: 300}",),),
    "rdm": (("backbone.resampling=block",),),
    "rin": (("conditioning.time={kind: fourier}",),),
    "vitok_tokenizer": (
        (
            *("backbone.tokens=256", "backbone.lengths=[128, 256]"),
            *("backbone.unplaced=[latents]", "backbone.stored=[patches, queries, outputs]"),
        ),
        ("backbone.rotary=null", "backbone.block.mixer.mixed_rotary=10000"),
    ),
    "maskbit": (
        ("backbone.block.condition.norm_after=false",),
        (
            "backbone.embedding={kind: table, condition: last}",
            "backbone.readout={kind: tied_by_place, approximate: none}",
            "backbone.splits=1",
        ),
    ),
    "starflow": (
        ("backbone.block.mixer.qk_norm={kind: rms_norm}", "backbone.block.norm={kind: rms_norm}"),
        ("backbone.block.feed_forward={kind: swiglu, ratio: 4, bias: true, activation: gelu_tanh}",),
        ("backbone.block.condition.branch_norm={kind: rms_norm}",),
    ),
    "tarflow": (("backbone.scale=none",),),
    "score_sde": (("backbone.decoder=residual",),),
    "score_sde_guided": (("backbone.decoder=residual",),),
}


def maps_of(system: str, variants: Iterable[str]) -> Iterator[tuple[Any, Any, Any]]:
    """(rules, types, sizes) of every map, network, and variant or further option."""
    of_variants: list[tuple[str | None, tuple[str, ...]]] = [(variant, ()) for variant in (None, *variants)]
    done: list[Spec] = []  # a variant may be the spec itself
    if not load_spec(system).weights:
        return
    for variant, options in of_variants + [(None, options) for options in OPTIONS.get(system, ())]:
        spec = load_spec(system, variant, list(options))
        if spec in done:
            continue
        done.append(spec)
        lowered = lower_networks(spec)
        for names, networks in spec.weights.items():
            for network in networks:
                sizes = symbols(lowered, lowered.networks[network])
                yield name_map(spec, network, names), network_types(lowered, network), sizes


def test_maps_can_be_inverted_and_have_no_rule_for_nothing(some: Callable[[Sequence[str]], Sequence[str]]) -> None:
    """A rule for a name that no variant of any system has is misspelt: its tensors would go by a later, general rule.

    Of any system, because those of one network share its rules, which are not all for each of them.
    """
    seen: dict[str, str] = {}
    used: set[str] = set()
    for system in VARIANTS:
        for rules, types, sizes in maps_of(system, {*some(VARIANTS[system]), *FURTHER.get(system, ())}):
            check_inverse(rules, types, sizes)
            for rule in chain.from_iterable(parse_map(rules, sizes)):
                if rule.theirs and rule.ours:
                    written = str(rules[rule.number - 1])
                    seen[written] = system
                    if written not in used and any(t.match(name) is not None for t in rule.ours for name in types):
                        used.add(written)
    assert {rule: system for rule, system in seen.items() if rule not in used} == {}
