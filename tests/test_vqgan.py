"""VQGAN's training: the weight of the adversarial term and LPIPS against PyTorch's own gradients and layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emitted import emitted
from random_weights import random_weights
from torch import nn

from latentc.checkpoint import network_params
from latentc.components.contract import Draw
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SPEC = """
latentc: 1
name: tiny-vqgan
data: {kind: npz, path: train.npz, shape: [3, 16, 16]}
networks:
  main:
    kind: autoencoder
    width: 8
    multipliers: [1, 2]
    blocks: 1
    groups: 4
    bottleneck: {kind: codebook, size: 16, channels: 4}
  discriminator: {kind: patch_discriminator, width: 8, depth: 1}
  perceptual: {kind: lpips, width: 4, pretrained: lpips.safetensors}
objective: {kind: adversarial_autoencoding, perceptual: 0.7, penalty: 0.9, adversarial: 0.8}
sampler: {kind: autoencode}
train: {steps: 2, batch_size: 2, optimizer: {kind: adam}}
"""


def lpips(weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The distance by the layers of VGG-16, written out."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    pair, total = [(x - shift) / scale, (y - shift) / scale], torch.zeros(len(x))
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        if stage:
            pair = [F.max_pool2d(h, 2) for h in pair]
        for i in range(count):
            of = f"stages.{stage}.{i}"
            pair = [F.relu(F.conv2d(h, weights[f"{of}.weight"], weights[f"{of}.bias"], padding=1)) for h in pair]
        a, b = (h / (h.norm(dim=1, keepdim=True) + 1e-10) for h in pair)
        total = total + ((a - b) ** 2 * weights[f"weights.{stage}"]).sum(1).mean((1, 2))
    return total


def test_the_loss_is_that_of_pytorch(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    spec = load_spec(str(tmp_path / "spec.yaml"))
    lowered = lower(spec)
    rng = np.random.default_rng(0)
    own = {name: random_weights(network_params(lowered, net), rng, 0.3) for name, net in lowered.networks.items()}
    for stage in range(5):
        own["perceptual"][f"weights.{stage}"] = np.abs(own["perceptual"][f"weights.{stage}"])
    own["discriminator"]["norms.0.running_var"] = np.abs(own["discriminator"]["norms.0.running_var"]) + 0.5
    x = rng.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    oracle = Interpreter(lowered.module, {f"{net}.{n}": a for net, all_ in own.items() for n, a in all_.items()})
    found = oracle.run("loss.autoencoder", x)
    (of_discriminator,) = oracle.run("loss.discriminator", x)

    with emitted(lowered, spec, tmp_path / "project") as project:
        nets: dict[str, Any] = {}
        for name, weights in own.items():
            net: nn.Module = project.model.NETWORKS[name]().eval()
            net.load_state_dict({n: torch.from_numpy(np.float32(a)) for n, a in weights.items()}, strict=False)
            nets[name] = net
        given = torch.from_numpy(x)
        made, penalty = nets["main"].regularized(given)
        distance = lpips({n: torch.from_numpy(np.float32(a)) for n, a in own["perceptual"].items()}, made, given)
        error = (made - given).abs().mean() + 0.7 * distance.mean()
        fooled = -nets["discriminator"](made).mean()
        last = nets["main"].decoder.conv_out.weight
        slopes = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (error, fooled)]
        weight = (slopes[0] / (slopes[1] + 1e-4)).clamp(0, 1e4) * 0.8
        wanted = [error + weight * fooled + 0.9 * penalty.mean(), error, penalty.mean(), fooled, weight]
        assert [float(v) for v in found] == pytest.approx([float(v.detach()) for v in wanted], rel=1e-4)
        real, fake = nets["discriminator"](given), nets["discriminator"](made)
        hinge = 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())
        assert float(of_discriminator) == pytest.approx(float(hinge.detach()), rel=1e-5)
        changes = ["objective.loss=logistic", "objective.discriminator_weight=0.4"]
        logistic = lower(load_spec(str(tmp_path / "spec.yaml"), overrides=changes))
        (of_logistic,) = Interpreter(logistic.module, oracle.params).run("loss.discriminator", x)
        wanted_logistic = 0.4 * 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())
        assert float(of_logistic) == pytest.approx(float(wanted_logistic.detach()), rel=1e-5)


def test_codes_are_drawn_as_their_bottleneck_says(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    drawn = "networks.main.bottleneck={kind: stochastic_codebook, size: 16, channels: 4, temperature: 0.1}"
    for update in lower(load_spec(str(tmp_path / "spec.yaml"), overrides=[drawn])).updates:
        assert update.draws == (Draw("u", "uniform"),)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("vqgan_taming", "imagenet"),
        ("vqgan_taming", "imagenet-974"),
        ("vqgan_segmentation", None),
        *(("vq_f4", variant) for variant in ("f8", "f16-tokens", "f16-adversarial")),
    ],
)
def test_beta_weights_the_rows_as_in_the_authors_quantizer(name: str, variant: str | None) -> None:
    """VectorQuantizer2 with `legacy`, its default, has beta on the rows' term, and they trained so."""
    bottleneck = load_spec(name, variant).networks["main"].bottleneck  # type: ignore[attr-defined]
    assert (bottleneck.commitment, bottleneck.pull) == (1.0, 0.25)
