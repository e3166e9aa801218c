"""Official checkpoints are recognised by the names and shapes of their tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import buffer, computed, name_map, network_params, network_types, symbols
from latentc.diagnostics import DiagnosticError
from latentc.files import shipped
from latentc.interchange.checkpoints import _constants, candidates, fit_variant, name_maps, opened_variant
from latentc.spec import load_spec, own_variant_names
from latentc.spec.resolve import resolve_file
from latentc.weights import Array, export_weights, write_safetensors
from latentc.weights.kinds import may_follow, name_kinds
from latentc.weights.state_dicts import Reading

VARIANTS = {name: variants for family in api.specs().values() for name, variants in family.items()}
MAPPED = [name for name in VARIANTS if resolve_file(name).document.data.get("weights")]
PARTS = {
    ("rae_autoencoder", "dinov2"),
    ("vfmtok_tokenizer", "dino"),
    ("vfmtok_tokenizer", "dinov2"),
}  # files of parts, no checkpoints of systems
ZERO = np.zeros((), np.float32)


def official(system: str, variant: str | None, network: str, names: str) -> Reading:
    """Tensors with the names and shapes of a published checkpoint, which take no memory."""
    opened = opened_variant(system, variant)
    assert opened is not None
    spec, lowered = opened
    own = {name: tuple(map(int, shape)) for name, (shape, _) in network_types(lowered, network).items()}
    tensors, constants = (
        {name: Array(np.broadcast_to(ZERO, shape)) for name, shape in shapes.items()}
        for shapes in (own, _constants(spec, lowered, network, names))
    )
    rules, sizes = name_map(spec, network, names), symbols(lowered, lowered.networks[network])
    theirs = export_weights(tensors, rules, sizes, constants)
    return Reading("", "", {name: Array(np.broadcast_to(ZERO, one.shape)) for name, one in theirs.items()}, True)


@pytest.mark.parametrize("system", MAPPED)
def test_variants_are_recognised_by_every_map(system: str, exhaustive: bool) -> None:
    own = own_variant_names(shipped.shipped_specs()[system])
    inherited = [variant for variant in VARIANTS[system] if variant not in own]  # DiT's sizes, tested with DiT
    parts = {name: network.kind for name, network in load_spec(system).networks.items()}
    for variant in (*(own if exhaustive else own[-1:]), *inherited[:1]) or (None,):
        spec = load_spec(system, variant)
        maps = spec.weights
        for names, networks in maps.items():
            # What variants add or put in a place, such as text encoders, are networks of other specs.
            same = [n for n in networks if n in parts and spec.networks[n].kind == parts[n]]
            for network in same if (system, names) not in PARTS else ():
                reading = official(system, variant, network, names)
                kinds = name_kinds(reading.tensors)
                assert any(may_follow(rules, kinds) for rules in name_maps(system)), (variant, names, network)
                found = fit_variant(system, variant, [reading])
                assert found is not None, (variant, names, network)
                told = found.networks[network][0]  # another map may name this network alike
                assert names in told or maps[told][network] == networks[network], (variant, names, network)


def options(system: str, variant: str | None, names: str = "official", network: str = "main") -> list[str]:
    return [found.options for found in candidates([official(system, variant, network, names)])]


def test_systems_are_told_apart() -> None:
    """Position embeddings tell image sizes apart; DiT and SiT, and EDM and PFGM++, have the same tensors; students have
    no checkpoints."""
    assert options("dit", "B/4") == ["--spec dit --variant B/4", "--spec sit --variant B/4"]
    assert options("sd_vae", "f16", "original") == ["--spec sd_vae --variant f16"]
    assert options("adm_classifier", "64") == ["--spec adm_classifier --variant 64"]
    alike = [f"--spec {variant}" for variant in ("edm --variant ffhq64", "edm --variant afhqv2-64")]
    assert options("edm", "ffhq64") == [*alike, "--spec pfgmpp --variant ffhq64-D128"]


def test_copies_are_one_tensor_of_a_system() -> None:
    """A DiT of diffusers, by a file of its weights alone."""
    reading = official("dit", "S/8", "main", "diffusers")
    assert [found.options for found in candidates([reading])] == ["--spec dit --variant S/8"]
    name = "transformer_blocks.3.norm1.emb.timestep_embedder.linear_2.bias"
    tensors = {**reading.tensors, name: Array(np.ones(reading.tensors[name].shape, np.float32))}
    changed = Reading("", "", tensors, True)
    assert [found.options for found in candidates([changed])] == ["--spec diffusers_dit --variant S/8"]


def saved(folder: Path, system: str, variant: str | None, names: str = "official", **more: np.ndarray) -> Path:
    """A checkpoint file of zeros and computed buffers."""
    tensors = dict(official(system, variant, "main", names).tensors)
    lowered = opened_variant(system, variant)[1]  # type: ignore[index]
    params = network_params(lowered, lowered.networks["main"])
    constants = {n: buffer(param) for n, param in params.items() if n in tensors and computed(param)}
    write_safetensors(folder / "model.safetensors", {**tensors, **constants, **{n: Array(a) for n, a in more.items()}})
    return folder / "model.safetensors"


def refusal(call: Any) -> str:
    with pytest.raises(DiagnosticError) as error:
        call()
    return str(error.value)


def test_a_checkpoint_becomes_a_spec(tmp_path: Path) -> None:
    """Its variant is written out, and its weights are the default of every command."""
    file = saved(tmp_path, "dit", "S/8")
    text = refusal(lambda: api.import_checkpoint(file, tmp_path / "out"))
    assert "E0417" in text and "--spec dit --variant S/8" in text and "--spec sit --variant S/8" in text
    assert not (tmp_path / "out").exists()
    found = api.import_checkpoint(file, tmp_path / "out", "dit")
    assert found.system == "a checkpoint of dit, variant S/8"
    assert "-w first_stage=FILE" in found.commands[1]
    spec = load_spec(found.spec)
    assert (spec.networks["main"].width, spec.networks["main"].patch) == (384, 8)  # type: ignore[attr-defined]
    assert spec.checkpoints["main"].weights == "../model.safetensors"
    api.convert_weights(found.spec, None, tmp_path / "own.safetensors")
    assert "E0502" in refusal(lambda: api.import_checkpoint(file, tmp_path / "out", "dit"))
    api.import_checkpoint(file, tmp_path / "out", "dit", force=True)


def test_what_is_not_recognised(tmp_path: Path) -> None:
    file = saved(tmp_path, "dit", "S/8", other=np.zeros((384, 384), np.float32))
    text = refusal(lambda: api.import_checkpoint(file, tmp_path / "out"))
    assert "E0417" in text and "names and shapes of any shipped system" in text
    assert "did you mean `dit`" in refusal(lambda: api.import_checkpoint(file, tmp_path / "out", "ditt"))
    assert "E0401" in refusal(lambda: api.import_checkpoint(tmp_path / "none.pt", tmp_path / "out"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]
