"""Knowledge distillation of classifiers against the losses written out in PyTorch; what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

STAGES = "stages: [[3], [4]], padded: true, dropout: 0, hidden_dropout: 0"
SIZES = [
    "data={kind: npz, path: x.npz, classes: 3, shape: [1, 8, 8]}",
    f"networks.main={{kind: plain_classifier, {STAGES}, hidden: [5]}}",
    f"networks.teacher={{kind: plain_classifier, {STAGES}, hidden: [6, 5], pretrained: teacher.safetensors}}",
]
SPEC = "digits_tcn"


def weights(overrides: list[str]) -> dict[str, np.ndarray]:
    rng, lowered = np.random.default_rng(0), lower(load_spec(SPEC, None, overrides))
    return {
        f"{name}.{path}": rng.standard_normal([int(d) for d in param.type.shape]).astype(np.float32) / 2
        for name, network in lowered.networks.items()
        for path, param in network_params(lowered, network).items()
    }


def run(own: dict[str, np.ndarray], network: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and logits of a plain classifier, by PyTorch's layers."""
    w = {n.removeprefix(f"{network}."): torch.from_numpy(a) for n, a in own.items() if n.startswith(f"{network}.")}
    for i in range(2):
        x = F.max_pool2d(F.relu(F.conv2d(x, w[f"stages.{i}.0.weight"], w[f"stages.{i}.0.bias"], padding=1)), 2)
    x = x.flatten(1)
    for i in range(sum(name.startswith("hidden.") for name in w) // 2):
        x = F.relu(F.linear(x, w[f"hidden.{i}.weight"], w[f"hidden.{i}.bias"]))
    return x, F.linear(x, w["fc.weight"], w["fc.bias"])


@pytest.mark.parametrize(
    ("backend", "labels", "logits", "features"),
    [("oracle", 0.1, 0.9, 0.0), ("torch", 0.3, 0.5, 2.0), ("oracle", 0.0, 0.0, 1.0)],
)
def test_the_loss_is_the_weighted_sum_of_three_terms(
    backend: Any, labels: float, logits: float, features: float
) -> None:
    overrides = [*SIZES, f"objective.labels={labels}", f"objective.logits={logits}", f"objective.features={features}"]
    overrides += ["objective.temperature=3"]
    own, rng = weights(overrides), np.random.default_rng(1)
    x, y = rng.standard_normal((4, 1, 8, 8)).astype(np.float32), rng.integers(0, 3, 4)
    (h, given), (h_taught, taught) = (run(own, name, torch.from_numpy(x)) for name in ("main", "teacher"))
    divergence = F.kl_div(F.log_softmax(given / 3, 1), F.softmax(taught / 3, 1), reduction="batchmean") * 9
    terms = (F.cross_entropy(given, torch.from_numpy(y)), divergence, F.mse_loss(h, h_taught))
    assert min(float(term) for term in terms) > 0.05
    wanted = sum(weight * float(term) for weight, term in zip((labels, logits, features), terms, strict=True))
    found = api.loss(SPEC, own, {"x": x, "y": y}, backend, overrides=overrides)
    assert np.isclose(found["loss"], wanted, rtol=1e-5)
    assert ("divergence" in found, "difference" in found) == (logits > 0, features > 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["objective.features=0"], "nothing is learned from the teacher"),
        (["networks.teacher.pretrained=null"], "needs trained weights"),
        (["networks.teacher.hidden=[6]", "objective.features=1"], "`main` has 5 features, but `teacher` has 6"),
        (["data.classes=null"], "needs labels"),
    ],
)
def test_what_it_refuses(change: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec(SPEC, None, [*SIZES, *change])
