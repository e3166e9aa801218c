"""R3GAN's loss with any networks: pairs of the same class, both penalties, and how their weight falls."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from random_weights import weights_of

from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

SMALL: tuple[str, ...] = ("networks.main.width=2", "networks.discriminator.width=2", "networks.main.latent_dim=4")
SMALL: tuple[str, ...] = (*SMALL, "networks.main.groups=[2, 1]", "networks.discriminator.groups=[1, 2]")
BIGGAN: tuple[str, ...] = ("networks.main.width=4", "networks.discriminator.width=4", "networks.main.latent_dim=4")
BIGGAN = (*BIGGAN, "objective.terms=[relativistic_pairing]")
RNG = np.random.default_rng(0)
GIVEN = {
    "x": RNG.standard_normal((3, 1, 8, 8)),
    "y": np.array([3, 1, 4]),
    "z": RNG.standard_normal((3, 4)),
    **{
        f"{name}_of_{of}": RNG.random(3)
        for name in ("brightness", "saturation", "contrast")
        for of in ("data", "samples")
    },
}


@cache
def system(name: str, *changes: str) -> tuple[Any, dict[str, np.ndarray]]:
    low = lower(load_spec(name, None, [*changes]))
    found = weights_of(low, 0.4, 2)
    return low, {n: np.abs(a) + 0.1 if n.endswith("running_var") else a for n, a in found.items()}


def losses(name: str, *changes: str, step: int = 0) -> dict[str, dict[str, float]]:
    """The metrics of each update."""
    low, weights = system(name, *changes)
    run = Interpreter(low.module, weights, float_dtype="f64").run
    given = {**GIVEN, "training_step": np.int64(step)}
    found = {}
    for update in low.updates:
        values = run(update.loss, *(given[value.name] for value in low.module.entry(update.loss).inputs))
        found[update.name] = {m: float(v) for m, v in zip(update.metrics, values, strict=True)}
    return found


def softplus(x: np.ndarray) -> float:
    return float(np.logaddexp(0, x).mean())


def test_samples_are_compared_with_data_of_their_class() -> None:
    """With BigGAN's networks, whose images are augmented by the numbers drawn for data and for samples."""
    changes = (*BIGGAN, "objective.augment=[color]")
    low, weights = system("digits_biggan", *changes)
    run = Interpreter(low.module, weights, float_dtype="f64").run
    (made,) = run("main.forward", GIVEN["z"], GIVEN["y"], prefix="main")
    scores = []
    for x, of in ((GIVEN["x"], "data"), (made, "samples")):
        light, contrast = (GIVEN[f"{name}_of_{of}"][:, None, None, None] for name in ("brightness", "contrast"))
        x = x + light - 0.5  # one channel has no saturation
        grey = x.mean((1, 2, 3), keepdims=True)
        given = ((x - grey) * (contrast + 0.5) + grey, GIVEN["y"])
        scores.append(run(low.networks["discriminator"].methods["forward"].function, *given, prefix="discriminator")[0])
    margin = scores[0] - scores[1]
    found = losses("digits_biggan", *changes)
    assert found["discriminator"]["discriminator/loss"] == pytest.approx(softplus(-margin), rel=1e-6)
    assert found["generator"]["generator/loss"] == pytest.approx(softplus(margin), rel=1e-6)
    assert found["discriminator"]["discriminator/accuracy_of_pairs"] == pytest.approx(np.mean(margin > 0))


def test_penalties_are_the_sum_of_both_sides() -> None:
    both = losses("digits_r3gan", *SMALL, "objective.terms.1.final=null", "objective.terms.1.steps=1")
    found = both["discriminator"]["discriminator/zero_centred_penalties"]
    single = [
        losses(
            "digits_r3gan",
            *SMALL,
            f"objective.terms=[relativistic_pairing, {{kind: gradient_penalty, at: {at}, target: 0, weight: 1}}]",
        )["discriminator"]["discriminator/gradient_penalty"]
        for at in ("real", "fake")
    ]
    assert min(single) > 1e-6
    assert found == pytest.approx(sum(single), rel=1e-6)


@pytest.mark.parametrize(("step", "weight"), [(0, 0.5), (250, 0.5 * 0.853553 + 0.05 * 0.146447), (5000, 0.05)])
def test_the_weight_falls_along_half_a_cosine(step: int, weight: float) -> None:
    still = losses("digits_r3gan", *SMALL, "objective.terms.1.final=null", "objective.terms.1.steps=1")
    falls = losses("digits_r3gan", *SMALL, "objective.terms.1.steps=1000", step=step)
    name = "discriminator/zero_centred_penalties"
    ratio = falls["discriminator"][name] / still["discriminator"][name]
    assert ratio == pytest.approx(weight / 0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("objective.generator_batch=2", "`relativistic_pairing` pairs samples with a batch of data"),
        ("networks.main.groups=[2]", "1 stages have `groups`, but there are 2"),
        ("networks.main.groups=[3, 1]", "3 groups do not divide 64 channels"),
        ("networks.main.channel_multipliers=[4, 2, 1]", "3 stages double 4 pixels to 16, not 8 by 8"),
        ("objective.terms.1.final=null", "the weight does not fall"),
    ],
)
def test_refusals(change: str, words: str) -> None:
    with pytest.raises(DiagnosticError, match=words):
        lower(load_spec("digits_r3gan", None, [change]))
