"""The name maps of the shipped specs, against the parameters of every variant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import buffer, computed, name_map, network_params, network_types, symbols
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower_networks
from latentc.spec import Spec, load_spec
from latentc.spec.resolve import resolve_file
from latentc.weights import Array, Expr, check_inverse, export_weights, ignored_names, import_weights, materialise
from latentc.weights.rules import parse_map

VARIANTS = {name: variants for family in api.specs().values() for name, variants in family.items()}

# Variants that rules are for which neither the first nor the last has.
FURTHER = {
    "dimr": ("XL/2R-256-text",),
    "edm": ("cifar10-ve",),
    "dc3do": ("lion",),
    "dc3do_points": ("lion",),
    "pix2pixhd": ("1024",),
    "r3gan": ("ffhq256",),
    "sd3": ("3.5-medium", "3.5-large"),
}

# Options that a map is for beside those of the variants.
OPTIONS: dict[str, tuple[tuple[str, ...], ...]] = {
    "adc_gan": (("networks.discriminator.projection=true",),),
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
    "edm": (("backbone.encoder=skip", "backbone.decoder=skip"),),
    "gedi": (("networks.discriminator.class_bias=true",),),
    "dimr": (
        (
            "backbone.coarse.mixer={kind: axial_attention, heads: 2, qkv_bias: false}",
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
    "givt_dense_vae": (("backbone.resized_by=matrix",),),
    "iwin_classifier": (("backbone.positions={kind: learned}",),),
    "larp_tokenizer": (
        (
            "backbone.learned=[patches, queries, latents, outputs]",
            "backbone.typed=[patches, queries, latents, outputs]",
        ),
        ("backbone.frames=1", "backbone.learned=[]", "backbone.latent_norm=batch"),
    ),
    "maskgit_r": (("backbone.long_skips=false",),),
    "mean_flow_cifar10": (("backbone.encoder=skip", "backbone.decoder=skip"),),
    "rdm": (("backbone.resampling=block",),),
    "rin": (("conditioning.time={kind: fourier}",),),
    "vitok_tokenizer": (
        (
            *("backbone.tokens=256", "backbone.lengths=[128, 256]"),
            *("backbone.unplaced=[latents]", "backbone.stored=[patches, queries, outputs]"),
        ),
        ("backbone.rotary=null", "backbone.block.mixer={kind: mixed_rotary_attention, heads: 12, qkv_bias: false}"),
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

# Sizes in `fill` that follow from no size of the network, by what of the authors' code has them.
OF_AUTHORS = {
    "codebook_used": "[65536]",  # a count per code of the largest codebook
    "patch_embed.proj.weight": "['axis[1]', 3, 16, 16]",  # MAE's, which MAGE's class derives from
    "decoder_pred.weight": "[768, 'axis[0]']",
    "decoder_pred.bias": "[768]",
    "var": "[1024, 'channels*patch*patch']",  # STARFlow-V's `pt_seq_len` is 32
    "attn_mask": "['1024 + prefix', '1024 + prefix']",
    "freqs_cos": "['1024 + prefix', 'width//heads']",
    "Embed_0.embedding": "[256, 1]",  # of shortcut models, a weight per step of their loss, which they do not use
}
ALWAYS_1000 = "1000*(1//(data_classes+1))"  # for data without classes


@cache
def spec_of(system: str) -> Spec:
    """A shipped spec, for all tests."""
    return load_spec(system)


@cache
def lowered_of(system: str) -> Lowered:
    """Its networks."""
    return lower_networks(spec_of(system))


def maps_of(system: str, variants: Iterable[str], exhaustive: bool) -> Iterator[tuple[Any, Any, Any]]:
    """(rules, types, sizes) of every map, network, and variant or further option.

    Unless `exhaustive`, without variants whose networks and conditions differ in numbers alone from those before.
    """
    of_variants: list[tuple[str | None, tuple[str, ...]]] = [(variant, ()) for variant in (None, *variants)]
    done: set[str] = set()  # a variant may be the spec itself
    if not spec_of(system).weights:
        return
    for variant, options in of_variants + [(None, options) for options in OPTIONS.get(system, ())]:
        spec = load_spec(system, variant, list(options)) if variant or options else spec_of(system)
        own = repr((spec.networks, spec.conditions, spec.weights))
        if (structure := own if exhaustive else re.sub(r"\d+", "", own)) in done:
            continue
        done.add(structure)
        lowered = lower_networks(spec) if variant or options else lowered_of(system)
        for names, networks in spec.weights.items():
            for network in networks:
                sizes = symbols(lowered, lowered.networks[network])
                yield name_map(spec, network, names), network_types(lowered, network), sizes


def test_maps_can_be_inverted_and_have_no_rule_for_nothing(
    some: Callable[[Sequence[str]], Sequence[str]], exhaustive: bool
) -> None:
    """A rule for a name that no variant of any system has is misspelt: its tensors would go by a later, general rule.

    Of any system, because those of one network share its rules, which are not all for each of them.
    """
    seen: dict[str, str] = {}
    used: set[str] = set()
    for system in VARIANTS:
        variants = dict.fromkeys((*some(VARIANTS[system]), *FURTHER.get(system, ())))
        for rules, types, sizes in maps_of(system, variants, exhaustive):
            check_inverse(rules, types, sizes)
            for rule in chain.from_iterable(parse_map(rules, sizes)):
                if rule.theirs and rule.ours:
                    written = str(rules[rule.number - 1])
                    seen[written] = system
                    if written not in used and any(t.match(name) is not None for t in rule.ours for name in types):
                        used.add(written)
    assert {rule: system for rule, system in seen.items() if rule not in used} == {}


def other_values(tensor: Expr) -> Array:
    """The tensor with another first element."""
    values = np.array(materialise(tensor))
    first = (0,) * values.ndim
    values[first] = not values[first] if values.dtype.kind == "b" else np.nan_to_num(values[first], neginf=0.0) + 1
    return Array(values)


def test_an_ignored_tensor_with_another_value_is_refused_or_noted() -> None:
    """Of every kind of ignored tensor that a map writes: its value follows from the network, or nothing uses it."""
    for system in VARIANTS:
        spec = spec_of(system)
        for names, networks in spec.weights.items():
            for network in networks:
                lowered = lowered_of(system)
                params, types = network_params(lowered, lowered.networks[network]), network_types(lowered, network)
                rules, sizes = name_map(spec, network, names), symbols(lowered, lowered.networks[network])
                buffers: dict[str, Expr] = {name: buffer(p) for name, p in params.items() if computed(p)}
                own = {
                    n: Array(np.broadcast_to(np.zeros((), np.float32), [*map(int, s)])) for n, (s, _) in types.items()
                }
                written = export_weights(own, rules, sizes, buffers)
                ignored = ignored_names(rules, written, sizes)
                kept = {name: tensor for name, tensor in written.items() if name not in ignored}
                kinds = {re.sub(r"\d+", "", name): name for name in ignored}
                for name in kinds.values():
                    notes: list[str] = []
                    changed = {**kept, name: other_values(written[name])}
                    place = f"{system}, {names}, {network}: {name}"
                    try:
                        import_weights(changed, rules, types, sizes, buffers, notes)
                        assert len(notes) == 1 and name in notes[0] and "should be" in notes[0], place
                    except DiagnosticError as error:
                        assert error.diagnostics[0].code == "E0420" and name in error.diagnostics[0].notes[0], error


def test_shapes_of_written_tensors_follow_the_spec() -> None:
    """No number of classes, tokens or channels stands in a `fill`."""
    literal, found = set(), set()
    for system in VARIANTS:
        for networks in spec_of(system).weights.values():
            for rule in chain.from_iterable(networks.values()):
                for one in (rule, *chain.from_iterable(rule.get("either", ()))):
                    shape = str([*one.get("fill", {}).get("shape", ())])
                    sizes = re.sub(r"\[\d+\]|(?<=\w)\(.*?\)", "", shape[1:-1].replace(ALWAYS_1000, ""))
                    if any(int(number) > 4 for number in re.findall(r"\b\d+\b", sizes)):
                        name = one["ignore"] if isinstance(one["ignore"], str) else one["ignore"][0]
                        known = next((known for known in OF_AUTHORS if name.endswith(known)), None)
                        found.add(known)
                        if known is None or OF_AUTHORS[known] != shape:
                            literal.add((system, name, shape))
    assert literal == set()
    assert found == set(OF_AUTHORS)


# Options that the name maps of the first system with such a network do not cover: most are not of its authors' code.
UNCOVERED: dict[str, tuple[str, ...]] = {
    "adm": (
        *(f'encoder="{kind}"' for kind in ("skip", "skip_concat", "residual", "padded_residual")),
        *('decoder="skip"', 'decoder="residual"'),
    ),
    "adm_sdg": ("patch_bias=true",),
    "bd3lm": ("learned_positions=true",),
    "diffmoe": ("interleaved=null",),
    "discrete_fm": ("learned_positions=true",),
    "givt_dense": ("class_token=true",),
    "givt_dense_vae": (*(f'latent_norm="{kind}"' for kind in ("layer", "layer_whole", "batch", "batch_whole")),),
    "givt_vae": (
        "middle_attention=true",
        "quant_conv=true",
        "post_quant_conv=true",
        "biases=true",
        'downsampling="conv"',
    ),
    "improved_mean_flow": ("tells_time=true",),
    "pmf": ("tells_time=true",),
    "larp_tokenizer": ("encoder_norm=true",),
    "ldm": ('resampling="block"',),
    "mage_classifier": ('pooling="first"',),
    "mdlm": ("learned_positions=true",),
    "mean_flow_cifar10": ('decoder="residual"',),
    "rarm": ("final_norm=true",),
    "sedd": ("learned_positions=true",),
    "self_vae": ("conditions=null",),
    "vitok_tokenizer": tuple(f'latent_norm="{kind}"' for kind in ("layer", "layer_whole", "batch", "batch_whole")),
}


def options_of(network: Any) -> Iterator[tuple[str, str]]:
    """(field, value) of a network's own enumerations, switches and optional parts, with all values it does not have."""
    for name, info in type(network).model_fields.items():
        value, choices = getattr(network, name), [info.annotation, *get_args(info.annotation)]
        for choice in choices:
            others = {Literal: get_args(choice)}.get(get_origin(choice), (True, False) if choice is bool else ())
            yield from ((name, json.dumps(other)) for other in others if other not in (value, None))
        if type(None) in choices and value is not None:
            yield name, "null"


def test_every_option_of_a_network_is_covered_by_its_name_maps_or_refused(exhaustive: bool) -> None:
    """If an option changes which tensors a network has, they are written and read back, or a diagnostic names them.

    Each option of each kind of network by the first system that has it; `--exhaustive`: by every system.
    """
    done: set[tuple[str, str, str]] = set()
    uncovered: set[tuple[str, str]] = set()
    for system in VARIANTS:
        spec = spec_of(system)
        for network in dict.fromkeys(chain.from_iterable(spec.weights.values())):
            kind = spec.networks[network].kind
            options = [(kind, *option) for option in options_of(spec.networks[network])]
            options = options if exhaustive else [option for option in options if option not in done]
            done.update(options)
            place = "backbone" if "backbone" in resolve_file(system).document.data else f"networks.{network}"
            own = shapes(lowered_of(system), network) if options else {}
            for option in (f"{field}={value}" for _, field, value in options):
                try:
                    lowered = lower_networks(load_spec(system, None, [f"{place}.{option}"]))
                except DiagnosticError:
                    continue  # the option needs others
                if shapes(lowered, network) == own:
                    continue
                types, sizes = network_types(lowered, network), symbols(lowered, lowered.networks[network])
                for names in (names for names, networks in spec.weights.items() if network in networks):
                    try:
                        check_inverse(name_map(spec, network, names), types, sizes)
                    except DiagnosticError as error:
                        assert error.diagnostics[0].code in ("E0411", "E0421"), (system, names, network, option, error)
                        uncovered.add((system, option))
    declared = {(system, option) for system, options in UNCOVERED.items() for option in options}
    assert uncovered == declared or (exhaustive and uncovered > declared)


def shapes(lowered: Any, network: str) -> dict[str, list[int]]:
    return {name: [*map(int, shape)] for name, (shape, _) in network_types(lowered, network).items()}


def test_a_network_that_a_map_does_not_cover_is_refused_by_the_names_of_its_tensors() -> None:
    spec = load_spec("adm", None, ["backbone.encoder=skip"])
    lowered = lower_networks(spec)
    rules, sizes = name_map(spec, "main", "official"), symbols(lowered, lowered.networks["main"])
    with pytest.raises(DiagnosticError, match=r"aux\.0\.weight") as caught:
        check_inverse(rules, network_types(lowered, "main"), sizes)
    assert caught.value.diagnostics[0].code == "E0421"
