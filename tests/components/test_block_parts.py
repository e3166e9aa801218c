"""Every network over images with every part of a block: built, or refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from latentc.components import OneOf
from latentc.components.blocks.feed_forwards.gelu_mlp import GeluMlp
from latentc.components.blocks.feed_forwards.swiglu import Swiglu
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.lower import build_networks, lower
from latentc.spec import load_spec, spec_from_text
from latentc.spec.schema import Spec
from latentc.spec.write import yaml_from_data

FOLDERS = {"mixer": "mixers", "feed_forward": "feed_forwards", "norm": "norms", "condition": "conditions"}
OTHERS = {
    "bert",
    "channel_transformer",
    "factorized_transformer",
    "modulated_transformer",
    "language_model",
    "masked_transformer",
    "text_to_text",
    "token_classifier",
    "token_transformer",
    "scale_transformer",
    "query_transformer",
    "retrieval_transformer",
    "permuted_transformer",
    "instructed_transformer",
    "region_transformer",
    "query_autoencoder",
    "masked_llama",
    "sequence_dit",
    "token_dit",  # a head
}
KINDS = OneOf("networks").choices()
# A network that extends another one has its blocks.
NETWORKS = {name: cls for name, cls in KINDS.items() if name not in OTHERS and cls.__base__ not in KINDS.values()}


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, tuple | list) else data


def _parts(network: dict[str, Any]) -> dict[str, Any]:
    """The block, or the network itself if it has a mixer and a norm of its own."""
    return network.get("block", network)


def _named(name: str) -> list[str]:
    return [part for part in FOLDERS if isinstance(_parts(NETWORKS[name].EXAMPLE).get(part), dict)]


def _spec(name: str, parts: dict[str, Any], **options: Any) -> Spec:
    """A spec whose network is the example of its kind, with some other parts and options."""
    network = {**_plain(NETWORKS[name].EXAMPLE), **options}
    _parts(network).update(_plain(parts))
    data: dict[str, Any] = {"kind": "npz", "path": "train.npz", "classes": 10, "shape": [3, 8, 8]}
    data["fields"] = {"caption": {"shape": [5], "classes": 12}}
    conditioning = {"class": {"kind": "label"}, "time": {"kind": "timestep", "frequencies": 16}}
    spec = {"latentc": 1, "name": "t", "data": data, "backbone": network, "conditioning": conditioning}
    return spec_from_text(yaml_from_data(spec), "t.yaml")


CASES = [
    (name, part, kind)
    for name in NETWORKS
    for part in _named(name)
    for kind in OneOf(f"blocks/{FOLDERS[part]}").choices()
]


@pytest.mark.parametrize("name", sorted({name for name, _, _ in CASES}))
def test_a_network_is_built_of_its_example(name: str) -> None:
    build_networks(ModuleBuilder(), _spec(name, {}))


@pytest.mark.parametrize(("name", "part", "kind"), CASES)
def test_a_network_is_built_of_a_part_or_refuses_it(name: str, part: str, kind: str) -> None:
    try:
        spec = _spec(name, {part: OneOf(f"blocks/{FOLDERS[part]}").choices()[kind].EXAMPLE})
        build_networks(ModuleBuilder(), spec)
    except DiagnosticError:
        return


@pytest.mark.parametrize("name", ["cascade_transformer", "masked_denoiser", "patch_transformer", "staged_unet"])
def test_a_network_that_tells_a_vector_refuses_blocks_that_take_the_time(name: str) -> None:
    with pytest.raises(DiagnosticError, match=r"conditioned on a vector.*, but `time_norm` takes the time"):
        _spec(name, {"condition": {"kind": "time_norm"}})


@pytest.mark.parametrize("name", ["masked_autoencoder", "hierarchical_autoencoder"])
def test_a_network_that_hides_tokens_refuses_a_mixer_that_sees_them(name: str) -> None:
    spec = _spec(name, {"mixer": {"kind": "selective_scan", "state": 4}})
    with pytest.raises(DiagnosticError, match="masks tokens or keeps a cache, but `selective_scan` processes whole"):
        build_networks(ModuleBuilder(), spec)


WEIGHED = sorted(n for n in NETWORKS if {"weights", "block"} <= {*NETWORKS[n].model_fields} and "mixer" in _named(n))


# Of convolutions here; beside a vision model that is not trained.
@pytest.mark.parametrize("name", [n for n in WEIGHED if not n.endswith("_unet") and n != "region_autoencoder"])
def test_blocks_start_as_the_network_says(name: str) -> None:
    mb = ModuleBuilder()
    build_networks(mb, _spec(name, {}, weights="normal"))
    params = [param for fn in mb.functions.values() for param in fn.params if param.name == "qkv.weight"]
    assert params and {param.init.kind for param in params} == {"normal"}


@pytest.mark.parametrize("positions", ["kind: rope_1d", "kind: rope_2d", "kind: rope_prefix, pairs: 2"])
def test_a_masked_transformer_refuses_rotary_positions(positions: str) -> None:
    with pytest.raises(DiagnosticError, match=r"rope_.* has no positions for the registers"):
        load_spec("digits_maskgit", overrides=[f"backbone.positions={{{positions}}}"])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("mixer={kind: generated_attention, heads: 2}", "these blocks do not pass it to the mixer"),
        ("feed_forward={kind: attribute_experts}", "these blocks do not pass it on"),
    ],
)
def test_a_head_of_tokens_refuses_weights_of_one_condition_per_sample(part: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        lower(load_spec("digits_himar", overrides=[f"networks.head.block.{part}"]))


@pytest.mark.parametrize(("kind", "width", "hidden"), [(GeluMlp, 88, 109), (Swiglu, 104, 426)])
def test_a_ratio_with_all_its_digits_gives_the_hidden_width(kind: Any, width: int, hidden: int) -> None:
    part = kind(**{**kind.EXAMPLE, "ratio": hidden / width})
    assert part.static(width)["hidden"] == hidden


@pytest.mark.parametrize("system", ["uvit", "dis"])
def test_one_sequence_of_patches_is_of_a_square(system: str) -> None:
    with pytest.raises(DiagnosticError, match=r"takes square arrays .* \[4, 32, 16\]"):
        load_spec(system, overrides=["data.shape=[4, 32, 16]"])


def test_blocks_that_look_at_captions_need_a_mixer_that_can() -> None:
    mixer = "{kind: attention, heads: 2, kv_heads: 1}"
    with pytest.raises(DiagnosticError, match="`attention` with these options cannot attend to other tokens"):
        lower(load_spec("dimr", "XL/2R-256-text", [f"backbone.coarse.mixer={mixer}"]))


def test_sines_and_cosines_of_rows_and_columns_need_a_width_divisible_by_four() -> None:
    spec = load_spec("digits_dit", overrides=["backbone.width=90", "backbone.block.mixer.heads=5"])
    with pytest.raises(DiagnosticError, match="a width divisible by 4, not 90"):
        lower(spec)
