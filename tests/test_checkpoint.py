"""Weights files of any shape: the state dict, name map and variant that fit a network; networks joined and split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_data import SIZES, load
from tiny_systems import SYSTEMS

from latentc import api
from latentc.checkpoint import buffer, fitted, network_params, network_types, network_weights
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec, spec_from_text
from latentc.weights import Array, Expr, materialise, open_weights, write_safetensors

TINY = """
latentc: 1
name: tiny
extends: digits_dit
backbone: {width: 8, depth: 1, patch: 4, block: {mixer: {heads: 2}}}
variants:
  wide: {backbone: {width: 16}}
  deep: {backbone: {depth: 2}}
weights:
  theirs:
    main: [{from: "net.*", to: "*"}]
  stacked:
    main: [{from: "all.*", to: "*"}]
"""


def tensors(types: Any, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, (shape, _) in types.items()}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """A spec `tiny.yaml` in an empty folder, and weights of it."""
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TINY)
    return tensors(network_types(lower(load_spec("tiny.yaml")), "main"))


def failure(call: Any) -> tuple[str, str]:
    with pytest.raises(DiagnosticError) as caught:
        call()
    first = caught.value.diagnostics[0]
    return first.code, f"{first.message}\n{first.notes}\n{first.help}"


def converted(source: str, **options: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    taken: list[str] = []
    api.convert_weights("tiny.yaml", source, "out.safetensors", taken=taken, **options)
    return {name: materialise(expr) for name, expr in open_weights("out.safetensors").items()}, taken


def renamed(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (lambda own: renamed(own, ""), []),
        (lambda own: {"state_dict": renamed(own, "module.")}, ["state dict `state_dict`, names under `module.`"]),
        (lambda own: {"state_dict": renamed(own, "model.") | {"loss.w": torch.ones(3)}}, ["names under `model.`"]),
        (lambda own: renamed(own, "model.net."), ["names under `model.net.`"]),
        (lambda own: {"ema": renamed(own, ""), "opt": {"m": torch.ones(3)}}, ["state dict `ema`"]),
        (lambda own: {"model": renamed(own, ""), "head": {"w": torch.ones(3)}}, ["state dict `model`"]),
        (lambda own: {"a": {"x": torch.ones(2)}, "b": {"c": renamed(own, "_orig_mod.")}}, ["state dict `b.c`"]),
    ],
)
def test_the_state_dict_that_fits_is_taken_and_named(tiny: dict[str, np.ndarray], saved: Any, said: list[str]) -> None:
    torch.save(saved(tiny), "last.ckpt")
    made, taken = converted("last.ckpt")
    assert all(np.array_equal(made[name], array) for name, array in tiny.items())
    assert set(made) == set(tiny)
    assert len(taken) == len(said)
    assert all(text in line for text, line in zip(said, taken, strict=True))


def test_of_two_that_fit_one_must_be_chosen(tiny: dict[str, np.ndarray]) -> None:
    half = {name: array / 2 for name, array in tiny.items()}
    torch.save({"average": renamed(half, ""), "other": renamed(tiny, ""), "third": {"w": torch.ones(1)}}, "last.pt")
    code, text = failure(lambda: converted("last.pt"))
    assert code == "E0409"
    assert "average, other" in text
    assert "--key average" in text
    assert np.array_equal(converted("last.pt", key="other")[0]["x_embedder.weight"], tiny["x_embedder.weight"])
    torch.save(renamed(half, "ema.") | renamed(tiny, "net."), "flat.pt")
    code, text = failure(lambda: converted("flat.pt"))
    assert code == "E0409"
    assert np.array_equal(converted("flat.pt", key="ema")[0]["x_embedder.weight"], half["x_embedder.weight"])


def test_nested_names_of_jax(tiny: dict[str, np.ndarray]) -> None:
    np.savez("flax.npz", **{f"params/{name.replace('.', '/')}": array for name, array in tiny.items()})
    made, (taken,) = converted("flax.npz")
    assert "names under `params.`" in taken
    assert all(np.array_equal(made[name], array) for name, array in tiny.items())


def test_a_folder_of_diffusers(tiny: dict[str, np.ndarray]) -> None:
    folder = Path("pipeline/vae")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    exprs: dict[str, Expr] = {name: Array(array) for name, array in tiny.items()}
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", exprs)
    write_safetensors(folder / "diffusion_pytorch_model.fp16.safetensors", exprs)
    torch.save(renamed(tiny, ""), folder / "diffusion_pytorch_model.bin")
    assert set(converted("pipeline/vae")[0]) == set(tiny)
    code, text = failure(lambda: converted("pipeline"))
    assert code == "E0403"
    assert "vae" in text
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    names = list(exprs)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, held in parts.items():
        write_safetensors(folder / file, {f"module.{name}": exprs[name] for name in held})
    index = {"weight_map": {f"module.{name}": file for file, held in parts.items() for name in held}}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    assert set(converted("pipeline/vae")[0]) == set(tiny)


def test_weights_that_do_not_fit_suggest_the_map_and_the_variant(tiny: dict[str, np.ndarray]) -> None:
    torch.save(renamed(tiny, "net."), "map.pt")
    assert converted("map.pt", names="theirs")[1] == []
    other = {"loss.w": torch.ones(3)}
    torch.save(renamed(tiny, "all.x.") | other, "none.pt")
    assert "the file fits" not in failure(lambda: converted("none.pt", names="theirs"))[1]
    torch.save({"model": {"all.more": torch.ones(2), **renamed(tiny, "net.")}}, "more.pt")
    wide = tensors(network_types(lower(load_spec("tiny.yaml", "wide")), "main"))
    torch.save(renamed(wide, ""), "wide.pt")
    code, text = failure(lambda: converted("wide.pt"))
    assert code == "E0410"
    assert "the file fits with --variant wide" in text
    assert "deep" not in text
    torch.save({f"all.{n}": t for n, t in renamed(wide, "").items()}, "stacked.pt")
    code, text = failure(lambda: converted("stacked.pt", names="theirs"))
    assert code == "E0410"
    assert "the file fits with --variant wide" in text
    code, text = failure(lambda: converted("map.pt", variant="wide"))
    assert "without --variant" in text


def test_official_weights_without_the_name_map_suggest_it(tmp_path: Path) -> None:
    weights = {name: Array(array) for name, array in load("dit").weights.items()}
    write_safetensors(tmp_path / "official.safetensors", weights)
    to = tmp_path / "out.safetensors"

    def convert(names: str | None, overrides: list[str]) -> None:
        api.convert_weights("dit", tmp_path / "official.safetensors", to, names, overrides=overrides)

    code, text = failure(lambda: convert(None, SIZES["dit"]))
    assert (code, "the file fits with --names official" in text) == ("E0410", True)
    convert("official", SIZES["dit"])
    code, text = failure(lambda: convert("official", []))
    assert (code, "the file fits" in text) == ("E0410", False)


def test_one_network_alone_is_converted(tmp_path: Path) -> None:
    numbers = load("biggan.D")
    write_safetensors(tmp_path / "D.safetensors", {name: Array(a) for name, a in numbers.weights.items()})
    options: Any = {"overrides": SIZES["biggan_train"], "network": "discriminator"}
    given, ours, back = (tmp_path / f"{name}.safetensors" for name in ("D", "ours", "back"))
    api.convert_weights("biggan_train", given, ours, "official", **options)
    api.convert_weights("biggan_train", ours, back, None, "official", **options)
    found = open_weights(back)
    assert set(found) == set(numbers.weights)
    for name, expr in found.items():  # sv0 is only printed by the authors' training
        assert name.endswith(".sv0") or np.array_equal(materialise(expr), numbers.weights[name])
    code, text = failure(lambda: api.convert_weights("biggan_train", given, ours, network="critic"))
    assert (code, "main, discriminator" in text) == ("E0702", True)


TWO = """
latentc: 1
name: two
extends: digits_biggan
networks: {main: {width: 8}, discriminator: {width: 8}}
weights:
  joint:
    discriminator: [{from: "aux.*", to: "*"}, {ignore: "*"}]
    main: [{ignore: "aux.*"}, {from: "*", to: "*"}]
  apart:
    discriminator: [{from: "*", to: "*"}]
    main: [{from: "*", to: "*"}]
"""


def test_networks_are_joined_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("two.yaml").write_text(TWO)
    lowered = lower(load_spec("two.yaml"))
    for place, name in enumerate(("main", "discriminator")):
        arrays = tensors(network_types(lowered, name), place)
        write_safetensors(f"{name}.st", {n: Array(a) for n, a in arrays.items()})
    apart = ["discriminator=discriminator.st", "main=main.st"]
    assert set(api.convert_weights("two.yaml", apart, "both.st")) == {Path("both.st")}
    assert {name.partition(".")[0] for name in open_weights("both.st")} == {"main", "discriminator"}
    written = api.convert_weights("two.yaml", "both.st", ["main=m.st", "discriminator=s.st"])
    assert list(written) == [Path("m.st"), Path("s.st")]
    assert Path("s.st").read_bytes()[-64:] == Path("discriminator.st").read_bytes()[-64:]
    assert set(open_weights("m.st")) == set(open_weights("main.st"))
    api.convert_weights("two.yaml", "both.st", "joint.st", None, "joint")
    assert {n for n in open_weights("joint.st") if n.startswith("aux.")} == {f"aux.{n}" for n in open_weights("s.st")}
    api.convert_weights("two.yaml", "joint.st", ["discriminator=s2.st", "main=m2.st"], "joint")
    assert Path("s2.st").read_bytes() == Path("s.st").read_bytes()
    assert Path("m2.st").read_bytes() == Path("m.st").read_bytes()
    api.convert_weights("two.yaml", "both.st", "prefixed.st", None, "apart")
    assert set(open_weights("prefixed.st")) == set(open_weights("both.st"))
    api.convert_weights("two.yaml", "joint.st", "alone.st", "joint", network="discriminator")
    assert set(open_weights("alone.st")) == set(open_weights("discriminator.st"))
    assert failure(lambda: api.convert_weights("two.yaml", "both.st", ["main=m.st"]))[0] == "E0415"


def test_a_spec_without_a_file_gets_no_suggestion() -> None:
    spec = spec_from_text(TINY)
    lowered = lower(spec)
    code, text = failure(lambda: network_weights(spec, lowered, "none.pt"))
    assert code == "E0401"
    assert "fits" not in text


HALVES = """
latentc: 1
name: halves
extends: sd_vae
data: {kind: digits}
backbone: {width: 8, multipliers: [1, 2], blocks: 1, groups: 4}
weights:
  encoder:
    main: [{extra: ["decoder.*", "post_quant_conv.*"]}, {from: "*", to: "*"}]
"""


@pytest.mark.parametrize("backend", ["oracle", "torch", "onnx", "openvino"])
def test_half_of_an_autoencoder_runs_its_methods_and_names_what_others_lack(backend: Any, tmp_path: Path) -> None:
    spec, file = tmp_path / "halves.yaml", tmp_path / "encoder.safetensors"
    spec.write_text(HALVES)
    lowered = lower(load_spec(spec))
    own = tensors(network_types(lowered, "main"))
    write_safetensors(file, {n: Array(a) for n, a in own.items() if n.startswith(("encoder.", "quant_conv."))})
    image = {"x": np.zeros((1, 1, 8, 8), np.float32)}
    out = api.forward(spec, file, image, backend, method="encode", names="encoder")
    assert np.isfinite(out).all() and out.any()
    for method, given in (("decode", {"z": np.zeros((1, 4, 4, 4), np.float32)}), ("forward", image)):
        code, text = failure(lambda m=method, g=given: api.forward(spec, file, g, backend, method=m, names="encoder"))
        assert code == "E0410" and "the weights lack post_quant_conv.weight" in text
    if backend in ("oracle", "torch"):
        draws = {**image, "noise": np.zeros((1, 4, 4, 4), np.float32)}
        code, text = failure(lambda: api.loss(spec, file, draws, backend, names="encoder"))
        assert code == "E0410" and "the weights lack main.post_quant_conv.weight" in text


def test_computed_buffers_of_a_file_must_have_the_computed_values(tiny: dict[str, np.ndarray]) -> None:
    """Without a name map too: the network computes with its own."""
    lowered = lower(load_spec("tiny.yaml"))
    made = materialise(buffer(network_params(lowered, lowered.networks["main"])["pos_embed"]))
    for dtype in (np.float64, np.float32, np.float16):
        torch.save(renamed({**tiny, "pos_embed": made.astype(dtype)}, ""), "same.pt")
        assert converted("same.pt")[0].keys() == tiny.keys()
    rounded = torch.from_numpy(made).bfloat16().float().numpy()
    torch.save(renamed({**tiny, "pos_embed": rounded}, ""), "rounded.pt")
    assert converted("rounded.pt")[0].keys() == tiny.keys()
    torch.save(renamed({**tiny, "pos_embed": 1.01 * made}, ""), "other.pt")
    code, text = failure(lambda: converted("other.pt"))
    assert code == "E0420" and "pos_embed: it is 1.01 at [" in text and "should be 1" in text


def test_batch_counts_of_any_name_are_left_out(tiny: dict[str, np.ndarray]) -> None:
    counts = {f"{name}.num_batches_tracked": np.array(3) for name in ("norm", "{i", "{a}*{b}*")}
    torch.save(renamed({**tiny, **counts}, ""), "counted.pt")
    assert converted("counted.pt")[0].keys() == tiny.keys()


def test_unused_tensors_that_are_not_kept_are_noted(tmp_path: Path) -> None:
    spec, file = tmp_path / "spec.yaml", tmp_path / "file.safetensors"
    counter = "{ignore: count, fill: {value: 0, shape: [], dtype: i64}, unused: true}"
    spec.write_text(TINY.replace('[{from: "net.*", to: "*"}]', f'[{counter}, {{from: "net.*", to: "*"}}]'))
    own = tensors(network_types(lower(load_spec(spec)), "main"))
    given = {**{f"net.{n}": Array(a) for n, a in own.items()}, "count": Array(np.array(7))}
    write_safetensors(file, given)
    noted = ["main: not kept, since nothing uses it: count (it is 7, should be 0)"]
    taken: list[str] = []
    api.convert_weights(spec, file, tmp_path / "out.safetensors", "theirs", taken=taken)
    assert taken == noted
    warned: list[str] = []
    api.compile(spec, file, tmp_path / "out.latentc", names="theirs", warn=warned.append, run=False)
    assert [line for line in warned if "not kept" in line] == noted


@pytest.mark.parametrize("system", ["edm-ve", "dico"])
def test_weights_that_an_earlier_version_saved(system: str) -> None:
    tiny = SYSTEMS[system]
    levels = ("backbone.multipliers=[1, 1, 1]",) if system.startswith("edm-") else ()
    spec = load_spec(tiny.spec, tiny.variant, [*tiny.sizes, *levels])
    lowered = lower(spec)
    own = {name: Array(array) for name, array in tensors(network_types(lowered, "main")).items()}
    first = int(any(name.startswith("enc.") for name in own))  # of the levels with a step down, in U-Nets

    def former(name: str) -> str:
        found = re.match(r"(enc|dec|encoder|decoder|down|up|aux|out_up|merge|[ty]_embedder)\.(\d+)\.(.*)", name)
        if not found:
            return name
        base, number, rest = found.groups()
        rest = rest.removeprefix("conv.") if base == "aux" else rest
        return f"{base}_{int(number) + first * (base in ('down', 'aux'))}.{rest}"

    saved = {former(name): tensor for name, tensor in own.items()}
    assert saved.keys() != own.keys()
    notes: list[str] = []
    read = fitted(spec, lowered, "main", saved, None, notes)
    assert all(read[name] is tensor for name, tensor in own.items())
    assert len(notes) == 1 and "`latentc weights`" in notes[0]
    assert not fitted(spec, lowered, "main", own, None, notes).keys() - read.keys() and len(notes) == 1
