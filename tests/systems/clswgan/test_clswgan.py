"""f-CLSWGAN's losses, written out in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = ["data.classes=3", "data.fields.x.shape=[6]", "data.fields.attributes.shape=[4]"]
SIZES += ["networks.main.latent_dim=5", "networks.main.widths=[9]", "networks.discriminator.widths=[8]"]
SIZES += ["networks.classifier.pretrained=null", "networks.classifier.frozen=true"]


def weights() -> dict[str, torch.Tensor]:
    rng, lowered = np.random.default_rng(0), lower(load_spec("clswgan", None, SIZES))
    found = {}
    for name, network in lowered.networks.items():
        for path, param in network_params(lowered, network).items():
            shape = [int(d) for d in param.type.shape]
            found[f"{name}.{path}"] = torch.from_numpy(rng.standard_normal(shape).astype(np.float32) / 2)
    return found


def network(own: dict[str, torch.Tensor], name: str, last: str, *parts: torch.Tensor) -> torch.Tensor:
    h = torch.cat(parts, 1) @ own[f"{name}.hidden.0.weight"].T + own[f"{name}.hidden.0.bias"]
    return F.leaky_relu(h, 0.2) @ own[f"{name}.{last}.weight"].T + own[f"{name}.{last}.bias"]


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_the_losses_of_both_players(backend: str) -> None:
    own, rng = weights(), np.random.default_rng(1)
    x, z = rng.random((7, 6)).astype(np.float32), rng.standard_normal((7, 5)).astype(np.float32)
    attributes, mix = rng.random((7, 4)).astype(np.float32), rng.random(7).astype(np.float32)
    y = rng.integers(0, 3, 7)
    real, a = torch.from_numpy(x), torch.from_numpy(attributes)
    fake = F.relu(network(own, "main", "output", torch.from_numpy(z), a))
    score = network(own, "discriminator", "score", fake, a)
    between = (real + torch.from_numpy(mix)[:, None] * (fake - real)).requires_grad_()
    (gradient,) = torch.autograd.grad(network(own, "discriminator", "score", between, a).sum(), between)
    penalty = ((gradient.norm(dim=1) - 1) ** 2).mean()
    critic = score.mean() - network(own, "discriminator", "score", real, a).mean() + 10 * penalty
    logits = fake @ own["classifier.output.weight"].T + own["classifier.output.bias"]
    generator = -score.mean() + 0.01 * F.cross_entropy(logits, torch.from_numpy(y))
    batch = {"x": x, "attributes": attributes, "y": y, "z": z, "mix": mix}
    arrays = {name: tensor.numpy() for name, tensor in own.items()}
    for update, wanted in (("discriminator", critic), ("generator", generator)):
        read = {k: v for k, v in batch.items() if update == "discriminator" or k not in ("x", "mix")}
        found = api.loss("clswgan", arrays, read, backend, update=update, overrides=SIZES)  # type: ignore[arg-type]
        assert np.isclose(next(iter(found.values())), float(wanted), rtol=2e-6), update


def test_the_term_needs_a_classifier_and_classes() -> None:
    without = ["networks.classifier={kind: mlp_discriminator, widths: [4], conditions: [attributes]}"]
    with pytest.raises(DiagnosticError, match="predicts the class"):
        load_spec("clswgan", None, without)
    with pytest.raises(DiagnosticError, match="needs the class of each image"):
        load_spec("clswgan", None, ["conditioning={attributes: {kind: vector}}"])
