"""The optimisers of an emitted project: what decays, what moves how, and that a resumed run is bit-equal."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_train import SHORT, TINY, run, same
from torch import nn

from latentc import components
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.resources import folder
from latentc.spec import load_spec


@pytest.fixture(scope="module")
def optimizers() -> ModuleType:
    spec = importlib.util.spec_from_file_location("optimizers", folder("templates") / "project" / "optimizers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(kind: str, **values: Any) -> dict[str, Any]:
    return components.load("optimizers")[kind].model_validate({"kind": kind, **values}).model_dump(mode="json")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 12))


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("kind", components.load("optimizers"))
def test_matrices_decay_and_vectors_never(kind: str, embeddings: bool, optimizers: ModuleType) -> None:
    net = network()
    made = optimizers.make_optimizer(net, settings(kind, weight_decay=0.25, decay_embeddings=embeddings))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    wanted = {"0.weight": 0.25 * embeddings, "1.weight": 0.25, "3.weight": 0.25}
    assert {n: decay[id(p)] for n, p in net.named_parameters()} == {
        n: wanted.get(n, 0.0) for n, _ in net.named_parameters()
    }


def test_llamagens_embeddings_decay_as_its_authors_decay_them(optimizers: ModuleType) -> None:
    net, chosen = network(), load_spec("llamagen", "B").train.optimizer
    made = optimizers.make_optimizer(net, chosen.model_dump(mode="json"))
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert decay[id(net[0].weight)] == decay[id(net[1].weight)] > 0  # an embedding as a linear layer


@pytest.mark.parametrize("shape", [(6, 8), (12, 6), (4, 3, 3, 3)])
def test_muon_moves_matrices_by_orthogonal_steps(shape: tuple[int, ...], optimizers: ModuleType) -> None:
    torch.manual_seed(0)
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(shape))
    made = optimizers.make_optimizer(module, settings("muon", lr=1.0))
    module.weight.grad = torch.randn(shape)
    made.step()
    matrix = module.weight.detach().flatten(1)
    scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    values = torch.linalg.svdvals(matrix) / scale
    assert values.min() > 0.6 and values.max() < 1.3
    # The step goes down: it is the orthogonal factor of the gradient.
    assert (module.weight.detach() * module.weight.grad).sum() < 0


def test_muon_moves_the_rest_as_adamw_does(optimizers: ModuleType) -> None:
    ours, theirs = network(), network()
    a = optimizers.make_optimizer(ours, settings("muon", adam_lr=1e-2))
    b = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(3):
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            p.grad = torch.full_like(p, 0.1 * (step + 1))
            q.grad = p.grad.clone()
        a.step(), b.step()
    for name, p in ours.named_parameters():
        if p.ndim == 1 or name == "0.weight":
            torch.testing.assert_close(p, theirs.get_parameter(name), rtol=1e-5, atol=1e-7)


def test_sam_climbs_by_its_radius(optimizers: ModuleType) -> None:
    weights = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5))]
    before = [w.detach().clone() for w in weights]
    for w in weights:
        w.grad = torch.randn_like(w)
    moves = optimizers.climb(weights, 0.05)
    assert torch.stack([m.norm() for m in moves]).norm().item() == pytest.approx(0.05, rel=1e-5)
    torch._foreach_sub_([w.data for w in weights], moves)
    for w, old in zip(weights, before, strict=True):
        torch.testing.assert_close(w.data, old, rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["kind: muon", "kind: sgd, sam: 0.05", "kind: adam"])
def test_a_resumed_run_is_bit_equal(change: str, tmp_path: Path) -> None:
    spec = load_spec("digits_dit", overrides=[*TINY["digits_dit"], f"train.optimizer={{{change}, lr: 1e-3}}"])
    project_from_lowered(lower(spec), spec, tmp_path)
    flags = [*SHORT, "--steps", "8", "--checkpoint_every", "4", "--accumulate", "2"]
    run(tmp_path, "train.py", *flags, "--out", "whole")
    run(tmp_path, "train.py", *flags, "--out", "parts")
    shutil.rmtree(tmp_path / "parts/checkpoints/step-00000008")
    assert "resumed" in run(tmp_path, "train.py", *flags, "--out", "parts", "--resume", "true")
    same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_each_network_of_an_update_has_its_own_optimiser(tmp_path: Path) -> None:
    """The discriminator's rate of zero leaves it where it started, and the generator learns."""
    overrides = [*TINY["digits_biggan"], "train.optimizers.discriminator={kind: sgd, lr: 1e-30, momentum: 0.0}"]
    spec = load_spec("digits_biggan", overrides=[*overrides, "train.ema=null"])
    project_from_lowered(lower(spec), spec, tmp_path)
    flags = [*SHORT, "--checkpoint_every", "4"]
    for steps in ("4", "8"):
        run(tmp_path, "train.py", *flags, "--steps", steps, "--out", f"run{steps}")
    few, many = (load_file(tmp_path / f"run{n}" / "weights_raw.safetensors") for n in ("4", "8"))
    learned = [k for k in few if k.endswith(".weight")]
    still = {k: torch.equal(few[k], many[k]) for k in learned}
    assert all(v for k, v in still.items() if k.startswith("discriminator."))
    assert not all(v for k, v in still.items() if k.startswith("main."))
