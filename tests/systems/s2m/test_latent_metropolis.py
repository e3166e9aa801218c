"""S2M beyond what was recorded: the chain written out, for other sets of labels too, the training, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from parity_data import error
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = (
    "networks.main.width=4",
    "networks.main.embedding=6",
    "networks.main.latent_dim=8",
    "networks.classifier.width=4",
    "networks.classifier.stages=[{multiplier: 2, expansion: 1}, {multiplier: 2, stride: 2, expansion: 2}]",
    "networks.classifier.last_multiplier=3",
    "sampler.steps=5",
    "sampler.label_temperature=0.5",
    "sampler.validity_temperature=2",
)
SETS = np.array([[0.5, 0.4, -1], [0.7, 0, 0], [0, -1, 2], [-0.5, 0, -0.3], [1, 1, 1], [0, 0, 0]])
"""Included above 0, excluded below; the last but two includes none, the last says nothing."""


def of_seed(low: Any, seed: int) -> dict[str, np.ndarray]:
    """Weights under which the decisions of a chain differ between its samples."""
    return {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in weights_of(low, 0.6, seed).items()}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def ratio(heads: list[np.ndarray], labels: np.ndarray, y: int | None, sampler: Any) -> float:
    """Of the density of data with these labels over that of samples, of one sample."""
    validity, of_data, *of_samples = (h[0] for h in heads)
    p = softmax(of_data / sampler.label_temperature)
    included = [g * p[k] for k, g in enumerate(labels) if g > 0]
    excluded = [-g * p[k] for k, g in enumerate(labels) if g < 0]
    density = min(included, default=np.abs(labels).max()) - max(excluded, default=0.0)
    d = 1 / (1 + np.exp(-validity / sampler.validity_temperature))
    odds = d / (1 - d)
    return max(density, 0.0) * odds / (1.0 if y is None else softmax(of_samples[0])[y])


@pytest.mark.parametrize("of_class", [True, False])
def test_the_chain_is_that_written_out(of_class: bool, tmp_path: Path) -> None:
    """Sample for sample, by the oracle and the emitted sampler, for every kind of set."""
    plain = () if of_class else ("networks.main.conditions=[]", "networks.main.latent_input=first")
    spec = load_spec("digits_s2m", None, [*SMALL, *plain])
    low, rng = lower(spec), np.random.default_rng(1)
    weights = of_seed(low, 3)
    z, proposals = rng.standard_normal((6, 8)), rng.standard_normal((5, 6, 8))
    uniforms = rng.random((5, 6))
    run, (program,) = Interpreter(low.module, weights, float_dtype="f64").run, low.programs
    (found,) = run(program.entry, z, proposals, uniforms, SETS)
    wanted, moves = [], 0
    for i, labels in enumerate(SETS):
        y = int(np.argmax(labels > 0)) if of_class else None

        def proposed(z: np.ndarray, labels: np.ndarray = labels, y: int | None = y) -> tuple[np.ndarray, float]:
            (x,) = run("main.forward", z[None], *([] if y is None else [np.array([y])]), prefix="main")
            return x, ratio(run("classifier.forward", x, prefix="classifier"), labels, y, spec.sampler)

        x, of_x = proposed(z[i])
        for step in range(5):
            other, of_other = proposed(proposals[step, i])
            if uniforms[step, i] < min(1.0, of_other / (of_x + 1e-5)):
                x, of_x, moves = other, of_other, moves + 1
        wanted.append(x[0])
    assert 5 < moves < 25
    assert error(found, np.stack(wanted)) < 1e-9
    with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
        nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
        for name, net in nets.items():
            own = {k: torch.tensor(weights[f"{name}.{k}"]) for k in net.state_dict() if f"{name}.{k}" in weights}
            net.load_state_dict(net.state_dict() | own)
        made = project.sampler.PROGRAMS["sample"][5]
        given = (torch.tensor(a) for a in (z, proposals, uniforms, SETS))
        out = made.sample(*(nets[n] for n in made.networks), *given)
    assert error(out, np.stack(wanted)) < 1e-9


def test_a_sample_that_lacks_a_label_is_left() -> None:
    """The ratio of a sample is 0 if it has an excluded label for sure, so that any other proposal is accepted."""
    spec = load_spec("digits_s2m", None, list(SMALL))
    low, rng = lower(spec), np.random.default_rng(2)
    weights = of_seed(low, 3)
    weights["classifier.of_data.weight"] *= 0
    weights["classifier.of_data.bias"] = np.array([0.0, 9.0, -9.0])
    z, proposals, uniforms = rng.standard_normal((2, 8)), rng.standard_normal((5, 2, 8)), np.full((5, 2), 1e-9)
    run, (program,) = Interpreter(low.module, weights, float_dtype="f64").run, low.programs
    (found,) = run(program.entry, z, proposals, uniforms, np.array([[1.0, -1, 0], [0, 1, -1]]))
    (first,) = run("main.forward", z[:1], np.array([0]), prefix="main")
    (last,) = run("main.forward", proposals[4, 1:], np.array([1]), prefix="main")
    assert np.allclose(found[0], first[0], rtol=0, atol=1e-12)  # every proposal has the ratio 0
    assert np.allclose(found[1], last[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("of_class", [True, False])
def test_three_heads_learn_from_data_and_samples(of_class: bool, tmp_path: Path) -> None:
    plain = () if of_class else ("networks.main.conditions=[]", "networks.main.latent_input=first")
    spec = load_spec("digits_s2m", None, [*SMALL, *plain, "objective.validity_weight=0.5"])
    low, rng = lower(spec), np.random.default_rng(4)
    (update,) = low.updates
    weights = of_seed(low, 5)
    x, y = rng.uniform(-1, 1, (4, 1, 8, 8)), np.array([0, 2, 1, 2])
    given = {"z": rng.standard_normal((4, 8)), "labels": np.array([1, 0, 2, 1])}
    operands = [given[draw.name] for draw in update.draws]
    assert update.networks == ("classifier",) and len(operands) == 1 + of_class
    found = Interpreter(low.module, weights, float_dtype="f64").run(update.loss, x, y, *operands)
    with emitted(low, spec, tmp_path / "project") as project, torch.no_grad():
        nets = {name: build().double().eval() for name, build in project.model.NETWORKS.items()}
        for name, net in nets.items():
            own = {k: torch.tensor(weights[f"{name}.{k}"]) for k in net.state_dict() if f"{name}.{k}" in weights}
            net.load_state_dict(net.state_dict() | own)
        made = nets["main"](*(torch.tensor(a) for a in operands))
        real, fake = nets["classifier"](torch.tensor(x)), nets["classifier"](made)
        logits = torch.cat([real[0], fake[0]])
        validity = 2 * F.binary_cross_entropy_with_logits(logits, torch.tensor([1.0] * 4 + [0.0] * 4).double())
        parts = [validity, F.cross_entropy(real[1], torch.tensor(y))]
        if of_class:
            parts.append(F.cross_entropy(fake[2], torch.tensor(given["labels"])))
        wanted = [0.5 * parts[0] + sum(parts[1:]), *parts]
    assert np.allclose(found, torch.stack(wanted).numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["networks.main.pretrained=null"], "network `main` is not frozen"),
        (["sampler.labels=class"], "which is no `label_set`"),
        (["conditioning.labels.default=[1, 1]"], "2 numbers, but the data has 3 labels"),
        (["networks.classifier=null"], "classifier"),
        (["data.shape=[64]"], "takes images|makes arrays"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_s2m", None, overrides)
