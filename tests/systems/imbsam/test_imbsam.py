"""ImbSAM's steps are those of its authors' code, and what it needs of the rest of a spec."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from parity_data import error, load

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.scale.counts import count
from latentc.spec import load_spec

TAIL = "objective={kind: imbsam, of: {kind: classification}, tail: [4, 3], weight: 2}"
NAMES = {"hidden.0.weight": "0.weight", "hidden.0.bias": "0.bias", "output.weight": "2.weight", "output.bias": "2.bias"}
LINEAR = ["data={kind: npz, path: data.npz, classes: 5, fields: {x: {shape: [6]}}}"]
LINEAR += ["backbone={kind: mlp_classifier, widths: [10], activation: relu}"]
LINEAR += ["train.optimizer={kind: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5e-4, sam: 0.05}"]


def weights_after(objective: str, numbers: Any, folder: Path, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """The weights after the recorded batches, by the authors' names."""
    spec = load_spec("digits_imbsam", None, [*LINEAR, objective])
    with emitted(lower(spec), spec, folder) as project:
        train = importlib.import_module("train")
        size, flags = numbers.inputs["y"].shape[1], ["--accumulate", str(accumulate)]
        flags += ["--batch_size", str(size)]
        config = importlib.import_module("latentc_support.config").load_config(flags)["train"]
        net = project.model.NETWORKS["main"]()
        net.load_state_dict({ours: torch.from_numpy(numbers.weights[name]) for ours, name in NAMES.items()})
        optimizer = train.make_optimizer(net, train.settings_of("main", config))
        for group in optimizer.param_groups:  # the authors' code also decays biases
            group["weight_decay"] = 5e-4
        state = train.State({"main": net}, {}, {"main": optimizer})
        run = SimpleNamespace(rank=0, world=1, device=torch.device("cpu"), parallel="none")
        (update,) = project.objective.UPDATES
        for step, (x, y) in enumerate(zip(numbers.inputs["x"], numbers.inputs["y"], strict=True)):
            batch = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
            train.train_step(update, state, {"main": net}, batch, config, train.Turn(step, 0, 1.0), run)
        return {NAMES[path]: weight.detach() for path, weight in net.state_dict().items()}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(("name", "objective"), [("imbsam", TAIL), ("imbsam.sam", "objective={kind: classification}")])
def test_three_steps_are_the_authors(name: str, objective: str, accumulate: int, tmp_path: Path) -> None:
    numbers = load(name)
    for path, weight in weights_after(objective, numbers, tmp_path / "project", accumulate).items():
        assert error(weight.numpy(), numbers.outputs[f"out.weights.{path}"]) < 1e-5, path
        assert error(numbers.weights[path], numbers.outputs[f"out.weights.{path}"]) > 1e-3, path


def test_without_the_factor_the_steps_are_others(tmp_path: Path) -> None:
    numbers = load("imbsam")
    found = weights_after(TAIL.replace(", weight: 2", ""), numbers, tmp_path / "project")
    assert error(found["2.bias"].numpy(), numbers.outputs["out.weights.2.bias"]) > 1e-3


@pytest.mark.parametrize("backend", ["oracle", "torch"])
def test_the_loss_of_the_tail_is_a_part_of_the_loss(backend: Any) -> None:
    numbers = load("imbsam")
    weights = {ours: numbers.weights[name] for ours, name in NAMES.items()}
    x, y = numbers.inputs["x"][0], numbers.inputs["y"][0]
    found = api.loss("digits_imbsam", weights, {"x": x, "y": y}, backend, overrides=[*LINEAR, TAIL])
    own = {name: torch.from_numpy(array) for name, array in weights.items()}
    hidden = torch.relu(torch.from_numpy(x) @ own["hidden.0.weight"].T + own["hidden.0.bias"])
    logits = hidden @ own["output.weight"].T + own["output.bias"]
    losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none").numpy()
    tail = 2 * np.where(y >= 3, losses, 0).mean()
    assert found["tail_loss"] == pytest.approx(tail, rel=1e-6)
    assert found["loss"] == pytest.approx(np.where(y < 3, losses, 0).mean() + tail, rel=1e-6)


def test_a_denoiser_can_have_a_tail_too() -> None:
    """Of any objective with a value per sample; the label is read even if the network does not take it."""
    objective = "objective={kind: imbsam, of: {kind: diffusion}, tail: [1]}"
    changes = [objective, "conditioning.class=null", "train.optimizer.sam=0.05"]
    spec = load_spec("digits_dit", None, [*changes, "sampler.guidance=null"])
    (update,) = lower(spec).updates
    assert update.batch == ("x", "y") and update.metrics[update.climbs] == "tail_loss"


def test_a_step_costs_three_passes() -> None:
    three, two = (
        load_spec("digits_imbsam", None, [o]) for o in ("objective.tail=[1]", "objective={kind: classification}")
    )
    ratio = count(three, lower(three)).flops / count(two, lower(two)).flops
    assert ratio == pytest.approx(1.5, rel=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("objective.tail=[10]", "class 10 is out of range: the data has classes 0 to 9"),
        ("train.optimizer.sam=null", "the optimiser of `main` has no radius to climb by"),
        ("train.optimizers={main: {kind: adam}}", r"set `train.optimizers.main.sam: 0.05`"),
    ],
)
def test_refusals(change: str, message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_imbsam", None, [change])


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("digits_biggan", "kind: adversarial"),
        ("digits_selfcond", "kind: self_conditioned"),
        ("digits_ar_grpo", "kind: group_relative_policy, rewards: [{kind: file, file: scorer.pt2}]"),
    ],
)
def test_a_loss_without_a_value_per_sample_is_refused(name: str, of: str) -> None:
    own = load_spec(name, None, [])
    radii = ["train.optimizer.sam=0.05", *(f"train.optimizers.{n}.sam=0.05" for n in own.train.optimizers)]
    spec = load_spec(name, None, [f"objective={{kind: imbsam, of: {{{of}}}, tail: [1]}}", *radii])
    with pytest.raises(DiagnosticError, match="has no single loss with one value per sample"):
        lower(spec)
