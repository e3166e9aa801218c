"""Variational autoencoders agree with a network and densities written out in PyTorch, in training and programs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bundles import tiny_bundle
from emitted import emitted
from random_weights import weights_of
from torch.distributions import Independent, Normal, kl_divergence

import latentc_runtime
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.weights import materialise, read_safetensors

SMALL = ("backbone.width=4", "backbone.hidden=10", "backbone.embedding=6", "backbone.latent_dim=3")
SMALL = (*SMALL, "sampler.likelihood_samples=5")
UNCONDITIONAL = ("data.classes=0", "data.kind=image_folder", "data.shape=[1, 8, 8]", "conditioning.class=null")
CASES = {"class": SMALL, "beta": (*SMALL, "objective.kl_weight=4")}


class Peer(NamedTuple):
    """p(x | z, y) and q(z | x, y) with these weights in float64."""

    w: dict[str, torch.Tensor]

    def layer(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self.w[f"main.{name}.weight"], self.w[f"main.{name}.bias"]

    def posterior(self, x: torch.Tensor, y: torch.Tensor) -> Normal:
        for i in range(2):
            x = F.silu(F.conv2d(x, *self.layer(f"encoder.convs.{i}"), stride=2, padding=1))
        h = torch.cat([x.flatten(1), self.w["main.class_embedder.weight"][y]], dim=1)
        h = F.linear(F.silu(F.linear(h, *self.layer("encoder.hidden"))), *self.layer("encoder.moments"))
        return Normal(h[:, :3], (h[:, 3:] / 2).exp())

    def likelihood(self, z: torch.Tensor, y: torch.Tensor) -> Independent:
        h = torch.cat([z, self.w["main.class_embedder.weight"][y]], dim=1)
        h = F.silu(F.linear(F.silu(F.linear(h, *self.layer("decoder.hidden"))), *self.layer("decoder.enter")))
        x = h.reshape(len(z), 8, 2, 2)
        for i in range(2):
            x = F.silu(F.conv_transpose2d(x, *self.layer(f"decoder.convs.{i}"), stride=2, padding=1))
        mean = torch.tanh(F.conv2d(x, *self.layer("decoder.leave"), padding=1))
        return Independent(Normal(mean, self.w["main.log_std"].exp().expand(mean.shape)), 3)


@cache
def lowered(case: str) -> tuple[Any, Lowered, dict[str, np.ndarray]]:
    spec = load_spec("digits_vae", None, list(CASES[case]))
    low = lower(spec)
    return spec, low, weights_of(low, 0.5)


@pytest.fixture(scope="module")
def given() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (4, 1, 8, 8)), rng.integers(0, 10, 4)
    return {"x": x, "y": y, "noise": rng.standard_normal((4, 3)), "noises": rng.standard_normal((5, 4, 3))}


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_the_bound(case: str, given: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Each sample's by the oracle; its mean and gradients by the emitted project."""
    spec, low, weights = lowered(case)
    peer = Peer({name: torch.tensor(value).requires_grad_() for name, value in weights.items()})
    data = {name: torch.tensor(given[name]) for name in ("x", "y", "noise")}
    q = peer.posterior(data["x"], data["y"])
    error = -peer.likelihood(q.mean + q.stddev * data["noise"], data["y"]).log_prob(data["x"])
    kl = kl_divergence(q, Normal(torch.zeros(3, dtype=torch.float64), 1.0)).sum(1)
    wanted = error + kl * (4.0 if case == "beta" else 1.0)
    found = Interpreter(low.module, weights).run("loss.terms", *(given[n] for n in ("x", "y", "noise")))
    for value, of in zip(found, (wanted, error, kl), strict=True):
        assert np.allclose(value, of.detach().numpy(), rtol=1e-10)
    names = list(weights)
    gradients = torch.autograd.grad(wanted.mean(), [peer.w[name] for name in names])
    with emitted(low, spec, tmp_path / "project") as project:
        net = project.model.build().double()
        net.load_state_dict({name.removeprefix("main."): torch.tensor(value) for name, value in weights.items()})
        (update,) = project.objective.UPDATES
        update.loss(net, **data)[0].backward()
        for name, gradient in zip(names, gradients, strict=True):
            own = net.get_parameter(name.removeprefix("main.")).grad
            assert torch.allclose(own, gradient, rtol=1e-8, atol=1e-11), name


def test_the_likelihood_is_estimated_by_importance_weights(given: dict[str, np.ndarray]) -> None:
    _, low, weights = lowered("class")
    peer = Peer({name: torch.tensor(value) for name, value in weights.items()})
    x, y, noises = (torch.tensor(given[name]) for name in ("x", "y", "noises"))
    q, prior = peer.posterior(x, y), Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    logs = []
    for noise in noises:
        z = q.mean + q.stddev * noise
        logs.append(peer.likelihood(z, y).log_prob(x) + prior.log_prob(z).sum(1) - q.log_prob(z).sum(1))
    wanted = torch.stack(logs).exp().mean(0).log()
    program = next(p for p in low.programs if p.name == "log_likelihood")
    (found,) = Interpreter(low.module, weights).run(program.entry, *(given[n] for n in ("x", "y", "noises")))
    assert np.allclose(found, wanted.numpy(), rtol=1e-10)
    bound = torch.stack(logs).mean(0).numpy()  # that of the loss
    assert (found > bound).all()


def test_an_engine_samples_encodes_and_changes_the_class(given: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Latents of data, decoded as another class: Kingma et al. 2014 (arXiv:1406.5298), figure 1."""
    bundle = tiny_bundle("digits_vae", tmp_path / "b", SMALL, std=0.3)
    weights = {
        f"main.{k}": torch.tensor(materialise(v)).double()
        for k, v in read_safetensors(tmp_path / "b.main.safetensors").items()
    }
    peer, pipe = Peer(weights), latentc_runtime.load(bundle, "cpu")
    x, y = given["x"].astype(np.float32), given["y"]
    q = peer.posterior(torch.tensor(x).double(), torch.tensor(y))
    asked = {"x": x, "class": y}
    mean = pipe.sample(program="encode", conditions=asked)
    assert np.allclose(mean, q.mean.numpy(), atol=1e-5)
    made = pipe.sample(program="reconstruct", conditions=asked)
    assert np.allclose(made, peer.likelihood(q.mean, torch.tensor(y)).mean.numpy(), atol=1e-5)
    other = (y + 1) % 10
    changed = pipe.sample(other, noise={"z": mean})
    assert np.allclose(changed, peer.likelihood(q.mean, torch.tensor(other)).mean.numpy(), atol=1e-5)
    assert np.abs(changed - made).max() > 1e-3


def test_without_conditions_there_is_no_embedding() -> None:
    spec = load_spec("digits_vae", None, [*SMALL, *UNCONDITIONAL])
    low = lower(spec)
    weights = weights_of(low, 0.5)
    assert not any("embedder" in name for name in weights)
    (x,) = Interpreter(low.module, weights).run("sample.1", np.zeros((2, 3)))
    assert x.shape == (2, 1, 8, 8)


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(DiagnosticError, match="4 levels need sides that are multiples of 16"):
        load_spec("digits_vae", overrides=["backbone.multipliers=[1, 1, 1, 1]"])
