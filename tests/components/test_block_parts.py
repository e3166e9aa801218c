"""Every network over images with every part of a block: built, or refused in words."""

from __future__ import annotations

from typing import Any

import pytest

from latentc.components import OneOf
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder
from latentc.lower import build_networks
from latentc.spec import spec_from_text
from latentc.spec.schema import Spec
from latentc.spec.write import yaml_from_data

FOLDERS = {"mixer": "mixers", "feed_forward": "feed_forwards", "norm": "norms", "condition": "conditions"}
OTHERS = {
    "bert",
    "language_model",
    "masked_transformer",
    "token_transformer",
    "scale_transformer",
    "query_transformer",
    "query_autoencoder",
    "token_dit",  # a head
}
NETWORKS = {name: network for name, network in OneOf("networks").choices().items() if name not in OTHERS}


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    return [_plain(value) for value in data] if isinstance(data, tuple | list) else data


def _parts(network: dict[str, Any]) -> dict[str, Any]:
    """The block, or the network itself if it has a mixer and a norm of its own."""
    return network.get("block", network)


def _named(name: str) -> list[str]:
    return [part for part in FOLDERS if isinstance(_parts(NETWORKS[name].EXAMPLE).get(part), dict)]


def _spec(name: str, parts: dict[str, Any]) -> Spec:
    """A spec whose network is the example of its kind, with some other parts."""
    network = _plain(NETWORKS[name].EXAMPLE)
    _parts(network).update(_plain(parts))
    data = {"kind": "npz", "path": "train.npz", "classes": 10, "shape": [3, 8, 8]}
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
    except DiagnosticError:
        return
    build_networks(ModuleBuilder(), spec)


@pytest.mark.parametrize("name", ["cascade_transformer", "masked_denoiser", "patch_transformer", "staged_unet"])
def test_a_network_that_tells_a_vector_refuses_blocks_that_take_the_time(name: str) -> None:
    with pytest.raises(DiagnosticError, match=r"told a vector.*, and `time_norm` takes the time"):
        _spec(name, {"condition": {"kind": "time_norm"}})
