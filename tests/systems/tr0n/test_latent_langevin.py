"""TR0N: the translator of a condition into a generator's latent, its training, and the Langevin steps after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from parity_data import error, load

from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.ir.inits import INITS
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = ["networks.main.width=8", "networks.observer.width=4", "networks.translator.mixtures=3", "sampler.steps=4"]
ENCODED = [
    "networks.observer={kind: patch_encoder, patch: 4, width: 10, depth: 1, positions: {kind: learned}, output: mean, "
    "pretrained: e.safetensors, block: {mixer: {kind: attention, heads: 2}, feed_forward: {kind: gelu_mlp}, "
    "norm: {kind: layer_norm, affine: true}, condition: {kind: in_context}}}",
    "conditioning={wanted: {kind: vector, field: wanted}}",
    "data={kind: npz, path: x.npz, fields: {x: {shape: [1, 8, 8]}, wanted: {shape: [10]}}}",
    "objective.noise=0.2",
]


def drawn(low: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of all networks, nowhere zero."""
    rng, found = np.random.default_rng(seed), {}
    for name, net in low.networks.items():
        for path, p in network_params(low, net).items():
            shape = tuple(int(d) for d in p.type.shape)
            value = INITS[p.init.kind](rng, shape, **p.init.args)
            found[f"{name}.{path}"] = value + 0.1 * np.abs(rng.standard_normal(shape))
    return found


def modules(project: Any, weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """The emitted networks in float64 and evaluation mode."""
    nets = {name: build().double().eval().requires_grad_(False) for name, build in project.model.NETWORKS.items()}
    for name, net in nets.items():
        net.load_state_dict(
            {
                k: torch.tensor(weights[f"{name}.{k}"]) if f"{name}.{k}" in weights else v
                for k, v in net.state_dict().items()
            }
        )
    return nets


def test_the_authors_translator(tmp_path: Path) -> None:
    """Logits, means, log-density of latents, and gradients of the loss."""
    numbers = load("tr0n.translator")
    spec = load_spec("digits_tr0n", None, ["networks.translator={kind: latent_translator, mixtures: 3}"])
    low = lower(spec)
    weights = {n: a for n, a in numbers.weights.items() if not n.startswith("y_layer")}
    run, c, z = Interpreter(low.module, weights).run, numbers.inputs["c"], numbers.inputs["z"]
    logits, means = run("translator.forward", c)
    assert error(logits, numbers.outputs["out.logits"]) < 1e-6 and error(means, numbers.outputs["out.means"]) < 1e-6
    assert error(run("translator.log_prob", z, c)[0], numbers.outputs["out.log_prob"]) < 1e-6
    with emitted(low, spec, tmp_path / "project") as project:
        net = project.model.NETWORKS["translator"]()
        net.load_state_dict({n: torch.tensor(a) for n, a in weights.items()})
        loss = -net.log_prob(torch.tensor(z), torch.tensor(c)).mean()
        assert error(float(loss.detach()), numbers.outputs["out.loss"]) < 1e-5
        loss.backward()
        for name, parameter in net.named_parameters():
            if (key := f"out.gradient.{name}") in numbers.outputs:
                assert error(parameter.grad.numpy(), numbers.outputs[key]) < 1e-5, name


def refined(
    nets: dict[str, Any], sampler: Any, wanted: torch.Tensor, noise: torch.Tensor, encodes: bool
) -> torch.Tensor:
    """The sample of one condition [1, E] with noise [N, 1, M, Z], by PyTorch's Adam and clipping."""
    with torch.no_grad():
        logits, means = nets["translator"](wanted)
    logits = logits[..., None].repeat(1, 1, means.shape[-1]).requires_grad_()
    means, speed = means.clone().requires_grad_(), torch.zeros_like(means)
    adam = torch.optim.Adam([logits], lr=sampler.weight_step)
    for z in noise:
        images = nets["main"]((F.softmax(logits, dim=1) * means).sum(1))
        if encodes:
            energy = -F.cosine_similarity(nets["observer"].encode(images), wanted).sum()
        else:
            energy = F.cross_entropy(nets["observer"](images), wanted, reduction="sum")
        logits.grad, means.grad = torch.autograd.grad(energy, (logits, means))
        for x in (means, logits):
            torch.nn.utils.clip_grad_norm_([x], sampler.max_norm)
        speed = sampler.momentum * speed + means.grad
        with torch.no_grad():
            means += -sampler.step_size * speed + sampler.noise * z
            means.clamp_(-sampler.bound, sampler.bound)
        adam.step()
    with torch.no_grad():
        return nets["main"]((F.softmax(logits, dim=1) * means).sum(1))


@pytest.mark.parametrize("encodes", [False, True])
def test_langevin_steps_are_those_of_pytorchs_optimisers(encodes: bool, tmp_path: Path) -> None:
    """Every sample on its own, by the oracle and the emitted sampler."""
    sizes = ["max_norm=0.02", "step_size=2", "noise=0.05", "weight_step=0.1"]
    rest = [s for s in SMALL if not (encodes and "observer" in s)]
    spec = load_spec("digits_tr0n", None, [*rest, *(f"sampler.{s}" for s in sizes), *(ENCODED if encodes else [])])
    low, rng = lower(spec), np.random.default_rng(1)
    weights = drawn(low)
    wanted = rng.standard_normal((3, 10)) if encodes else np.eye(10)[[3, 1, 4]]
    noise = rng.standard_normal((4, 3, 3, 32))
    (program,) = low.programs
    (oracle,) = Interpreter(low.module, weights).run(program.entry, noise, wanted)
    with emitted(low, spec, tmp_path / "project") as project:
        nets = modules(project, weights)
        made = project.sampler.PROGRAMS["sample"][4]
        given = torch.tensor(noise), torch.tensor(wanted)
        found = made.sample(*(nets[n] for n in made.networks), *given)
        each = [refined(nets, spec.sampler, given[1][i : i + 1], given[0][:, i : i + 1], encodes) for i in range(3)]
    assert error(found.detach(), torch.cat(each)) < 1e-9
    assert error(oracle, torch.cat(each)) < 1e-9


@pytest.mark.parametrize("encodes", [False, True])
def test_the_translator_learns_what_is_seen_in_samples(encodes: bool, tmp_path: Path) -> None:
    rest = [s for s in SMALL if not (encodes and "observer" in s)]
    spec = load_spec("digits_tr0n", None, [*rest, *(ENCODED if encodes else [])])
    low, rng = lower(spec), np.random.default_rng(2)
    weights, z, noise = drawn(low), rng.standard_normal((5, 32)), rng.standard_normal((5, 10))
    (update,) = low.updates
    assert update.networks == ("translator",) and update.batch == ()
    given = {"z": z, "noise": noise}
    (oracle,) = Interpreter(low.module, weights).run(update.loss, *(given[draw.name] for draw in update.draws))
    with emitted(low, spec, tmp_path / "project") as project:
        nets = modules(project, weights)
        images = nets["main"](torch.tensor(z))
        if encodes:
            seen = nets["observer"].encode(images) + 0.2 * torch.tensor(noise)
        else:
            seen = F.one_hot(nets["observer"](images).argmax(1), 10).double()
        wanted = -nets["translator"].log_prob(torch.tensor(z), seen).mean()
    assert float(oracle) == pytest.approx(float(wanted), rel=1e-9)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["networks.main.pretrained=null"], "network `main` is not frozen"),
        (
            ["networks.main.conditions=[class]", "networks.main.embedding=null", "networks.main.latent_input=first"],
            "one_hot|index",
        ),
        (["conditioning.class.encoding=index"], "takes one vector"),
        (["objective.noise=0.1"], "the condition is a class"),
        (["sampler.observer=eye"], "eye"),
        (["conditioning={wanted: {kind: vector, field: x}}"], "takes one vector|axes per sample"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_tr0n", None, overrides)
