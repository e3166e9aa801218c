"""Conditions that programs draw from a prior: RCG at a tiny size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import python
from random_weights import random_weights
from safetensors.numpy import load_file
from tiny_systems import SYSTEMS

import latentc_runtime
from latentc import api
from latentc.checkpoint import network_params
from latentc.components.condition import prior_systems as systems
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.spec.schema import Spec

CLASSES = 3
RCG = SYSTEMS["rcg"]
TRAIN = (
    *("train.batch_size=64", "train.steps=400", "train.workers=0", "train.ema=0.95", "train.precision=fp32"),
    *("train.optimizer={kind: adam, lr: 3e-3}", "train.optimizers={rdm: {kind: adam, lr: 3e-3}}"),
    *("networks.rdm.width=32", "objective.variance=fixed_small", "sampler.steps=25", "objective.predicts=x0"),
    "conditioning.representation.prior.sampler.steps=10",
)


def spec_of(*more: str) -> Spec:
    return load_spec(RCG.spec, RCG.variant, [*RCG.sizes, *more])


def given(spec: Spec) -> Spec:
    """The second stage alone: a request gives the representation."""
    plain = spec.conditioning["representation"].model_copy(update={"prior": None})
    networks = {"main": spec.networks["main"]}
    return spec.model_copy(
        update={"networks": networks, "conditioning": {**spec.conditioning, "representation": plain}}
    )


def test_the_program_draws_the_condition_then_the_sample() -> None:
    """The two-stage program is the prior's own program, then the spec's without a prior, given what that drew."""
    spec = spec_of()
    whole = lower(spec)
    (network, (name, system)), *_ = systems(spec).items()
    first, second = lower(system), lower(given(spec))
    assert (network, name) == ("rdm", "representation")
    rng, weights = np.random.default_rng(0), weights_of(whole)
    program = whole.programs[0]
    inputs = whole.module.entry(program.entry).inputs
    values = {v.name: np.ones(2, np.int64) for v in inputs if v.name == "y"}
    for value in inputs:
        if value.name not in values:
            values[value.name] = rng.standard_normal([2 if str(d) == "B" else int(d) for d in value.type.shape])
    (out,) = Interpreter(whole.module, weights).run(program.entry, *(values[v.name] for v in inputs))
    own = {f"main.{key.removeprefix('rdm.')}": a for key, a in weights.items() if key.startswith("rdm.")}
    prior = first.programs[0]
    operands = [
        values["y"] if v.name == "y" else values[f"representation_{v.name}"]
        for v in first.module.entry(prior.entry).inputs
    ]
    (drawn,) = Interpreter(first.module, own).run(prior.entry, *operands)
    entry = second.programs[0].entry
    told = {**values, "representation": drawn}
    (wanted,) = Interpreter(second.module, weights).run(
        entry, *(told[v.name] for v in second.module.entry(entry).inputs)
    )
    assert np.allclose(out, wanted, rtol=1e-6, atol=1e-6)
    assert program.evaluations == 3 + 3
    assert {c.name for c in whole.conditions} == {"class"}, "a request is not asked for what is drawn"
    assert "representation" in {c.name for c in second.conditions}


def weights_of(lowered: Lowered) -> dict[str, np.ndarray]:
    """Random weights of every network by their full names."""
    params = {
        f"{n}.{path}": p for n, net in lowered.networks.items() for path, p in network_params(lowered, net).items()
    }
    return random_weights(params, np.random.default_rng(1), 0.1)


def test_each_network_has_a_loss_of_its_own() -> None:
    main, prior = lower(spec_of()).updates
    assert (main.networks, main.batch) == (("main",), ("x", "representation"))
    assert (prior.networks, prior.batch) == (("rdm",), ("representation", "y"))
    assert main.metrics[0] == "main/loss" and prior.metrics == ("representation/loss",)
    (only,) = lower(spec_of("networks.rdm.frozen=true")).updates
    assert only == replace(main, name="", metrics=("loss", "mse", "vb"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("conditioning.representation.prior.network=nobody", "no network `nobody`"),
        ("conditioning.representation.prior.network=main", "`main` takes the condition"),
        ("conditioning.representation.prior.sampler={kind: autoregressive}", "needs a network for `next_token`"),
        ("conditioning.representation.prior.sampler.eta=2", "eta"),
        ("networks.rdm={kind: uvit, width: 8, half: 1, patch: 2, block: {}}", "block"),
    ],
)
def test_what_does_not_fit_is_a_diagnostic(change: str, words: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        spec_of(change)
    assert words in str(error.value), str(error.value)


@pytest.mark.slow
def test_trained_networks_make_samples_of_a_class(tmp_path: Path) -> None:
    """Both losses fall, and most samples are of the class asked for, which only the prior is told."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 600)
    patterns, codes = rng.choice([-1.0, 1.0], (CLASSES, 1, 8, 8)), rng.standard_normal((CLASSES, 6))
    arrays = {"x": patterns[y] + 0.1 * rng.standard_normal((600, 1, 8, 8)), "y": y}
    arrays["representation"] = codes[y] + 0.1 * rng.standard_normal((600, 6))
    np.savez(tmp_path / "train.npz", **{k: v if k == "y" else v.astype(np.float32) for k, v in arrays.items()})
    sizes = [*RCG.sizes, *TRAIN, f"data.path={tmp_path / 'train.npz'}"]
    api.emit(RCG.spec, tmp_path / "project", RCG.variant, sizes)
    done = python(tmp_path / "project", "train.py", "--log-every", "20")
    assert done.returncode == 0, done.stderr[-2000:]
    weights = tmp_path / "project/runs/train"
    files = [f"{name}={file}" for name in ("main", "rdm") for file in [weights_file(weights, name)]]
    api.compile(RCG.spec, files, tmp_path / "bundle", variant=RCG.variant, overrides=sizes, run=False)
    labels = np.arange(30) % CLASSES
    made = latentc_runtime.load(tmp_path / "bundle", "cpu").sample(labels, seeds=1)
    distance = np.square(made[:, None] - patterns[None]).mean(axis=(2, 3, 4))
    assert np.mean(distance.argmin(axis=1) == labels) > 0.9
    assert load_file(weights_file(weights, "rdm"))


def weights_file(folder: Path, network: str) -> Path:
    found = sorted(folder.glob("*weights*.safetensors"))
    return next((file for file in found if network in file.stem), folder / "weights.safetensors")
