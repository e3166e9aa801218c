"""ADA: images are augmented by chance, and the scores of data move the chance, which checkpoints keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL = [
    "networks.main.width=4",
    "networks.discriminator.width=4",
    "networks.main.latent_dim=8",
    "objective.augment=[color]",
    "networks.probability.images=100",
]
COLOR = ("brightness", "saturation", "contrast")


def made() -> tuple[Any, Any, dict[str, np.ndarray]]:
    spec = load_spec("digits_ada", None, SMALL)
    low = lower(spec)
    weights = {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in weights_of(low, 0.4, 2).items()}
    return spec, low, weights


def drawn(update: Any, rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """The random inputs of an update; `labels` are classes, z is normal, the others are uniform."""
    kinds = {"z": lambda: rng.standard_normal((count, 8)), "labels": lambda: rng.integers(0, 10, count)}
    return {d.name: kinds.get(d.name, lambda: rng.random(count))() for d in update.draws}


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_each_image_is_augmented_by_chance(probability: float) -> None:
    """The generator's loss is that of images of which those below the probability are augmented."""
    _, low, weights = made()
    update = next(u for u in low.updates if u.name == "generator")
    weights["probability.probability"] = np.array([probability])
    given = drawn(update, np.random.default_rng(3), 6)
    assert [name for name in given if name not in ("z", "labels")] == [
        *(f"{name}_of_samples" for name in COLOR),
        "color_applied_of_samples",
    ]
    applied = given["color_applied_of_samples"] < probability
    run = Interpreter(low.module, weights, float_dtype="f64").run
    (found, *_) = run(update.loss, *given.values())
    (x,) = run("main.forward", given["z"], given["labels"], prefix="main")
    light, _, contrast = (given[f"{name}_of_samples"][:, None, None, None] for name in COLOR)
    changed = x + light - 0.5  # one channel has no saturation
    grey = changed.mean((1, 2, 3), keepdims=True)
    changed = (changed - grey) * (contrast + 0.5) + grey
    seen = np.where(applied[:, None, None, None], changed, x)
    score = run("discriminator.forward", seen, given["labels"], prefix="discriminator")[0]
    assert found == pytest.approx(-score.mean(), rel=1e-9)
    assert 0 < applied.sum() < 6 or probability in (0.0, 1.0)


@pytest.mark.parametrize(("sign", "first", "moved"), [(1, 0.0, 0.06), (-1, 0.5, 0.44), (-1, 0.02, 0.0), (1, 0.99, 1.0)])
def test_the_scores_of_data_move_the_probability(sign: int, first: float, moved: float, tmp_path: Path) -> None:
    """By the number of images over `images`, towards `target`, between 0 and 1; only in training."""
    spec, low, _ = made()
    with emitted(low, spec, tmp_path / "project") as project:
        net = project.model.NETWORKS["probability"]()
        net.probability.fill_(first)
        score = torch.full((6, 1), float(sign))
        assert float(net.eval()(score)) == pytest.approx(first) == pytest.approx(float(net.current()))
        assert float(net.train()(score)) == pytest.approx(first)
        assert float(net.current()) == pytest.approx(moved, abs=1e-6)
        assert list(net.state_dict()) == ["probability"]


def test_the_discriminators_update_moves_it(tmp_path: Path) -> None:
    spec, low, _ = made()
    update = next(u for u in low.updates if u.name == "discriminator")
    assert update.networks == ("discriminator",) and "discriminator/probability" in update.metrics
    rng = np.random.default_rng(4)
    with emitted(low, spec, tmp_path / "project") as project:
        own = next(u for u in project.objective.UPDATES if u.metrics == update.metrics)
        nets = {name: project.model.NETWORKS[name]().train() for name in own.networks}
        nets["probability"].probability.fill_(0.5)
        x, y = torch.zeros(6, 1, 8, 8), torch.zeros(6, dtype=torch.int64)
        given = {n: torch.tensor(a) for n, a in drawn(update, rng, 6).items()}
        given = {n: a.float() if a.is_floating_point() else a for n, a in given.items()}
        own.loss(*nets.values(), x=x, y=y, **given)
        assert abs(float(nets["probability"].probability) - 0.5) == pytest.approx(0.06, abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.augment=[]"], "no augmentations"),
        (["networks.probability=null"], "probability"),
    ],
)
def test_what_is_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(DiagnosticError, match=message):
        load_spec("digits_ada", None, [*SMALL, *overrides])
