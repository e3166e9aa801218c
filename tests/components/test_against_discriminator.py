"""Autoencoders against a discriminator: weights and starts of terms, video by frames, a classifier that compares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from random_weights import random_weights

from latentc.checkpoint import network_params
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec

TINY = [
    "data.shape=[3, 16, 16]",
    *(f"networks.main.{size}" for size in ("width=8", "multipliers=[1, 2]", "blocks=1", "groups=4", "attention=[]")),
    "networks.main.bottleneck={kind: codebook, size: 8, channels: 4}",
    "networks.discriminator={kind: patch_discriminator, width: 8, depth: 1}",
    "networks.perceptual={kind: lpips, width: 4}",
]
CLASSIFIER = [
    "data.classes=7",
    "networks.perceptual={kind: resnet_classifier, layers: [1, 1, 1, 1], width: 4, frozen: true}",
]
PRIOR = "block: {mixer: {kind: attention, heads: 2, causal: true}, feed_forward: {kind: gelu_mlp}, "
PRIOR += "norm: {kind: layer_norm}, condition: {kind: in_context}}"
LARP = [
    "data.fields.x.shape=[3, 4, 16, 16]",
    *(
        f"networks.main.{size}"
        for size in ("tokens=6", "width=16", "depth=1", "patch=8", "frames=2", "block.mixer.heads=2")
    ),
    "networks.main.bottleneck={kind: codebook, size: 8, channels: 4, normalize: true, temperature: 0.5}",
    f"networks.prior={{kind: vector_transformer, width: 16, depth: 1, length: 6, channels: 4, {PRIOR}}}",
    *TINY[-2:],
]


def loaded(name: str, sizes: list[str], variant: str | None = None) -> tuple[Any, Interpreter]:
    """A lowered spec, and an interpreter with random weights, variances positive."""
    lowered, rng, weights = lower(load_spec(name, variant, sizes)), np.random.default_rng(0), {}
    for net, network in lowered.networks.items():
        for path, array in random_weights(network_params(lowered, network), rng, 0.3).items():
            weights[f"{net}.{path}"] = np.abs(array) + 0.5 if path.endswith("running_var") else array
    return lowered, Interpreter(lowered.module, weights)


def run(lowered: Any, oracle: Interpreter, method: str, *given: np.ndarray) -> tuple[np.ndarray, ...]:
    """The outputs of a network's method (`main.encode`)."""
    prefix = method.split(".")[0] + "."
    own = {name.removeprefix(prefix): array for name, array in oracle.params.items() if name.startswith(prefix)}
    return Interpreter(lowered.module, own).run(method, *given)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


@pytest.mark.parametrize("classifier", [False, True])
def test_terms_have_their_weights_and_the_adversarial_one_its_start(classifier: bool) -> None:
    objective = (
        "objective={kind: adversarial_autoencoding, adaptive: false, reconstruction: l2, reconstruction_weight: 4, "
    )
    objective += "perceptual: 0.5, penalty: 0.9, adversarial: 0.3, generator: logistic, loss: logistic, start: 7}"
    lowered, oracle = loaded("vqgan_taming", [*TINY, *(CLASSIFIER if classifier else []), objective])
    assert [(u.name, u.start, u.every) for u in lowered.updates] == [("autoencoder", 0, 1), ("discriminator", 7, 1)]
    assert "regularized_features" not in lowered.networks["main"].methods
    x = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16))
    made, penalty = run(lowered, oracle, "main.regularized", x)
    real, fake = (run(lowered, oracle, "discriminator.forward", of)[0] for of in (x, made))
    if classifier:
        logits = [run(lowered, oracle, "perceptual.forward", of)[0] for of in (made, x)]
        distance = np.mean((logits[0] - logits[1]) ** 2)
    else:
        distance = run(lowered, oracle, "perceptual.forward", made, x)[0].mean()
    error = 4 * np.mean((made - x) ** 2) + 0.5 * distance
    plain, fooled = error + 0.9 * penalty.mean(), softplus(-fake).mean()
    for step, weight in ((6, 0.0), (7, 0.3)):
        found = oracle.run("loss.autoencoder", x, np.array(step))
        np.testing.assert_allclose(found, [plain + weight * fooled, error, penalty.mean(), fooled, weight], rtol=1e-9)
    (found,) = oracle.run("loss.discriminator", x)
    assert found == pytest.approx((softplus(-real).mean() + softplus(fake).mean()) / 2)


def test_larp_against_a_discriminator_that_sees_frames() -> None:
    lowered, oracle = loaded("larp_tokenizer", LARP, "adversarial")
    assert [(u.name, u.every) for u in lowered.updates] == [("autoencoder", 1), ("discriminator", 5)]
    rng = np.random.default_rng(1)
    x, u = rng.uniform(-1, 1, (2, 3, 4, 16, 16)), rng.random((2, 6))
    made, *_ = run(lowered, oracle, "main.regularized_codes", x, u)
    scores, distance = (
        run(lowered, oracle, "discriminator.forward", made)[0],
        run(lowered, oracle, "perceptual.forward", made, x)[0],
    )
    found = oracle.run("loss.autoencoder", x, u, rng.random((2, 5)), rng.random((2, 5)))
    total, error, of_codes, prior, fooled = found
    assert error == pytest.approx(np.abs(made - x).mean() + distance.mean())
    assert fooled == pytest.approx(softplus(-scores).mean())
    assert total == pytest.approx(error + 0.1 * of_codes + 0.06 * prior + 0.3 * fooled)
    # Both networks as they are of images, on one frame after another.
    of_images, others = loaded("vqgan_taming", TINY)
    images = Interpreter(of_images.module, {**others.params, **oracle.params})
    for i in range(2):
        frames = [video[i].transpose(1, 0, 2, 3) for video in (made, x)]
        assert distance[i] == pytest.approx(run(of_images, images, "perceptual.forward", *frames)[0].mean())
        np.testing.assert_allclose(
            scores[4 * i : 4 * i + 4], run(of_images, images, "discriminator.forward", frames[0])[0]
        )
