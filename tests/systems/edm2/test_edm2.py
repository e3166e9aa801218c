"""EDM2's training: weights that forward passes normalise by force, and averages that are reconstructed afterwards."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from forked import python
from parity_data import error, load

from latentc.checkpoint import arrays, network_weights
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower, lower_networks
from latentc.spec import load_spec, spec_from_text
from latentc.weights import Array, write_safetensors

sys.path.insert(0, str(Path(__file__).parents[2] / "parity"))
from edm import denoised, inputs
from edm2 import SIZES

DIGITS = [
    *("data={kind: digits}", "networks.main.width=16", "networks.main.multipliers=[1, 2]", "networks.main.blocks=1"),
    *("networks.main.attention=[1]", "networks.main.block.head_channels=16", "networks.uncertainty.frequencies=8"),
    *("conditioning.time.frequencies=16", "objective.process.sigma_data=0.7", "sampler.steps=3", "train.batch_size=16"),
    *("train.steps=12", "train.schedule.warmup=2", "train.schedule.decay_from=4", "train.precision=fp32"),
    *("train.ema={sigma_rel: [0.05, 0.1], snapshot_every: 2, target: 0.08}", "train.workers=0"),
]


@pytest.mark.parametrize(("head_channels", "levels"), [(16, {0, 1}), (24, {0, 1}), (48, {1}), (128, set())])
def test_a_level_with_fewer_channels_than_a_head_does_not_attend(head_channels: int, levels: set[int]) -> None:
    """As in the authors' code, which divides the 32 and 64 channels by those of a head and rounds down."""
    sizes = [*SIZES, "networks.main.attention=[0, 1]", f"networks.main.block.head_channels={head_channels}"]
    low = lower_networks(load_spec("edm2", None, sizes))
    names = parameters(low.module, low.module.entries["main.forward"])
    assert {int(name.split(".")[1]) for name in names if ".attention." in name and "enc" in name} == levels


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_a_forward_pass_in_training(backend: str, tmp_path: Path) -> None:
    """Its result, and the weights that it leaves."""
    numbers = load("edm2.train")
    file = tmp_path / "main.safetensors"
    write_safetensors(file, {n: Array(a) for n, a in numbers.weights.items()})
    spec = load_spec("edm2", None, list(SIZES))
    low = lower(spec)
    weights = arrays(network_weights(spec, low, [f"main={file}"], "official", networks=["main"])["main"])
    given = inputs(numbers, spec)
    operands = [np.asarray(given[name], np.float32) for name in ("x", "t", "y")]
    after: dict[str, Any] = {}
    if backend == "oracle":
        oracle = Interpreter(low.module, weights, training=True)
        (out,) = oracle.run(low.networks["main"].main.function, *operands)
        after = oracle.written
    else:
        with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
            net = project.model.NETWORKS["main"]().train()
            net.load_state_dict({n: torch.from_numpy(np.array(a)) for n, a in weights.items()})
            out = net(*map(torch.from_numpy, operands)).numpy()
            after = {n: v.numpy() for n, v in net.state_dict().items()}
    assert error(denoised(out, numbers, spec), numbers.outputs["out"]) < 1e-5
    official = {**numbers.weights, **numbers.after}
    write_safetensors(file, {n: Array(a) for n, a in official.items()})
    wanted = arrays(network_weights(spec, low, [f"main={file}"], "official", networks=["main"])["main"])
    whole = [name for name in numbers.after if np.shape(numbers.after[name])]
    assert len(whole) > 5
    for name in ("in_conv.weight", "embedder.linear.weight", "embedder.y_embedder.weight", "out_conv.weight"):
        assert error(after[name], wanted[name]) < 1e-5, name
    rows = np.asarray(after["enc.1.0.conv0.weight"]).reshape(64, -1)
    assert np.allclose((rows**2).mean(1), 1, atol=1e-3)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = load_spec("edm2", None, DIGITS)
    with emitted(lower(spec), spec, tmp_path_factory.mktemp("edm2")) as made:
        yield made


def test_averages_of_other_widths_follow_from_those_that_were_stored(project: Any, tmp_path: Path) -> None:
    ema = importlib.import_module("latentc_support.ema")
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 4)
    settings = {"sigma_rel": [0.05, 0.1], "half": False, "target": 0.08}
    kept = ema.Profiles(settings, {"main": network})
    direct = ema.Profiles({**settings, "sigma_rel": [0.08]}, {"main": network})
    run = type("Run", (), {"parallel": "none", "main": True})()
    for step in range(1, 257):
        with torch.no_grad():
            network.weight += torch.randn(4, 3) / step**0.5
        kept.update({"main": network}, step)
        direct.update({"main": network}, step)
        if step % 16 == 0:
            kept.save(tmp_path, step, run)
    found = ema.reconstructed(tmp_path, 0.08)["weight"]
    wanted = direct.averages["main"].weight
    spread = (kept.averages["main"].weight - wanted).abs().max()
    assert (found - wanted).abs().max() < 0.02 * spread
    own = ema.reconstructed(tmp_path, 0.1)["weight"]
    assert torch.allclose(own, kept.others["main~2"].weight, atol=1e-5)


def test_the_profile_is_the_power_function_of_its_width(project: Any) -> None:
    ema = importlib.import_module("latentc_support.ema")
    for sigma_rel in (0.05, 0.1, 0.2):
        g = ema.exponent(sigma_rel)
        s = (np.arange(200_000) + 0.5) / 200_000
        share = s**g / (s**g).sum()
        mean = (share * s).sum()
        assert (share * (s - mean) ** 2).sum() ** 0.5 == pytest.approx(sigma_rel, rel=1e-4)


def test_training_ends_with_the_reconstruction_and_resumes_to_the_bit(tmp_path: Path) -> None:
    from latentc.emit import project_from_lowered

    spec = load_spec("edm2", None, DIGITS)
    project_from_lowered(lower(spec), spec, tmp_path)

    def run(*arguments: str) -> None:
        done = python(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr

    run("train.py", "--out", "whole")
    run("train.py", "--out", "parts", "--steps", "6", "--checkpoint_every", "6")
    run("train.py", "--out", "parts", "--resume", "true")
    whole, parts = ((tmp_path / run / "weights.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts
    assert len(list((tmp_path / "whole" / "snapshots").iterdir())) == 12
    run(
        "-m",
        "latentc_support.reconstruct",
        "--sigma-rel",
        "0.08",
        "--snapshots",
        "whole/snapshots",
        "--out",
        "again.safetensors",
    )
    assert (tmp_path / "again.safetensors").read_bytes() == whole
    state = json.loads((tmp_path / "whole" / "checkpoints" / "step-00000012" / "state.json").read_text())["state"]
    assert (state["averages"], state["others"]) == (["main"], ["main~2"])


def test_an_inverse_square_root_needs_its_start() -> None:
    from latentc.diagnostics import DiagnosticError

    text = "{latentc: 1, extends: edm2, name: x, train: {schedule: {decay_from: null}}}"
    with pytest.raises(DiagnosticError, match="`decay_from` belongs to `kind: inverse_sqrt`"):
        spec_from_text(text)
