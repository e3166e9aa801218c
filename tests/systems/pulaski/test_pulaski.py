"""PULASki beside its recordings: the loss and the distances written out, masks of an engine, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundles import tiny_bundle
from random_weights import weights_of
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.builder import ModuleBuilder, f32
from latentc.ir.interpret import Interpreter
from latentc.ir.types import B
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.pulaski.distances import distance

SMALL = ("backbone.widths=[4, 6]", "backbone.convs=1", "backbone.combining=2")


def measured(kind: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A distance of sets of points [B, N, D], by the oracle."""
    mb = ModuleBuilder()
    b = mb.function("distance")
    b.output(distance(b, kind, b.input("x", f32(B, *x.shape[1:])), b.input("y", f32(B, *y.shape[1:]))))
    b.finish("")
    (found,) = Interpreter(mb.finish()).run("distance", x, y)
    return np.asarray(found)


@pytest.fixture(scope="module")
def sets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.uniform(0, 1, (3, 4, 16)), rng.integers(0, 2, (3, 4, 16)).astype(float)


def test_the_energy_distance_is_of_pairs_of_different_draws(sets: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = sets
    wanted = [
        2 * cdist(a, b).mean() - cdist(a, a).sum() / (len(a) * (len(a) - 1)) - cdist(b, b).mean()
        for a, b in zip(x, y, strict=True)
    ]
    assert np.allclose(measured("energy", x, y), wanted, atol=1e-6)


def test_the_hausdorff_distance_is_to_the_nearest_masks(sets: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = sets
    each = [cdist(a, b) for a, b in zip(x, y, strict=True)]
    wanted = [(d.min(0).mean() + d.min(1).mean()) / 2 for d in each]
    assert np.allclose(measured("hausdorff", x, y), wanted, atol=1e-6)


def test_the_sinkhorn_divergence_is_that_of_geomloss(sets: tuple[np.ndarray, np.ndarray]) -> None:
    """Recorded from its `SamplesLoss("sinkhorn", diameter=4)`, 0.3.1; at most the cost of the best assignment."""
    x, y = sets
    found = measured("sinkhorn", x, y)
    assert np.allclose(found, [2.05929282, 2.12762667, 2.11248294], rtol=1e-8)
    for a, b, own in zip(x, y, found, strict=True):
        cost = cdist(a, b, "sqeuclidean") / 2
        assert 0.95 < own / cost[linear_sum_assignment(cost)].mean() < 1 + 1e-6
    assert np.allclose(measured("sinkhorn", y, y), 0, atol=1e-12)


def test_the_loss_is_the_bound_and_a_distance() -> None:
    spec = load_spec("digits_pulaski", None, [*SMALL, "objective.kl_weight=2"])
    low = lower(spec)
    weights, rng = weights_of(low, 0.5), np.random.default_rng(1)
    given = {
        "x": rng.integers(0, 2, (3, 1, 8, 8)) * 2.0 - 1,
        "raters": rng.integers(0, 2, (3, 4, 8, 8)) * 2.0 - 1,
        "image": rng.uniform(0, 1, (3, 1, 8, 8)),
        "noise": rng.standard_normal((3, 2)),
        "drawn_noise": rng.standard_normal((3, 4, 2)),
    }
    inputs = [value.name for value in low.module.entry("loss.terms").inputs]
    loss, error, divergence, apart = Interpreter(low.module, weights).run("loss.terms", *(given[n] for n in inputs))
    network = Interpreter(low.module, {name.removeprefix("main."): a for name, a in weights.items()})

    def run(method: str, *operands: np.ndarray) -> list[torch.Tensor]:
        return [torch.tensor(a) for a in network.run(low.networks["main"].methods[method].function, *operands)]

    posterior, prior = (
        Normal(m, s.exp()) for m, s in (run("posterior", given["x"], given["image"]), run("prior", given["image"]))
    )
    (features,) = run("features", given["image"])
    z = posterior.mean + posterior.stddev * torch.tensor(given["noise"])
    target = torch.tensor(given["x"] / 2 + 0.5)
    (logits,) = run("decode", features.numpy(), z.numpy())
    errors = binary_cross_entropy_with_logits(logits, target, reduction="none").sum((1, 2, 3))
    kl = kl_divergence(posterior, prior).sum(1)
    drawn = [prior.mean + prior.stddev * torch.tensor(given["drawn_noise"][:, i]) for i in range(4)]
    masks = torch.stack([run("decode", features.numpy(), one.numpy())[0].sigmoid().flatten(1) for one in drawn], 1)
    energy = measured("energy", masks.numpy(), (given["raters"] / 2 + 0.5).reshape(3, 4, 64))
    for found, wanted in ((error, errors), (divergence, kl), (apart, torch.tensor(energy))):
        assert np.allclose(found, wanted.numpy(), rtol=1e-9)
    assert np.allclose(loss, (errors + 2 * kl).numpy() + 10 * energy, rtol=1e-9)


def test_an_engine_draws_several_masks_of_an_image(tmp_path: Path) -> None:
    pipe = latentc_runtime.load(tiny_bundle("digits_pulaski", tmp_path / "b", SMALL, std=0.5), "cpu")
    image = np.random.default_rng(0).uniform(0, 1, (1, 1, 8, 8)).astype(np.float32)
    masks = pipe.sample(conditions={"image": np.repeat(image, 3, axis=0)}, seeds=[0, 1, 0])
    assert masks.shape == (3, 1, 8, 8) and np.abs(masks).max() <= 1
    assert np.array_equal(masks[0], masks[2]) and np.abs(masks[0] - masks[1]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["conditioning.image=null"], "makes masks of images, but takes none"),
        (["backbone.widths=[4, 4, 4, 4, 4]"], "sides of 8 and 8 cannot be halved 4 times"),
        (["objective.raters=image2"], "`image2` is no field of several masks"),
        (["objective.distance=null", "objective.reconstruction=0"], "nothing compares masks"),
    ],
)
def test_what_does_not_fit_is_refused(options: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError, match=said):
        load_spec("digits_pulaski", overrides=options)
