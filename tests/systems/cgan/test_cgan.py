"""The conditional GAN's networks, written out; and multilayer perceptrons as players."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest

from latentc import api
from latentc.checkpoint import network_params
from latentc.diagnostics import DiagnosticError
from latentc.lower import lower
from latentc.spec import load_spec

SIZES = ["data={kind: digits}", "networks.main.latent_dim=5", "networks.main.latent_width=6"]
SIZES += ["networks.main.condition_width=7", "networks.main.widths=[9, 8]", "networks.discriminator.widths=[8]"]
SIZES += ["networks.discriminator.state_width=6", "networks.discriminator.condition_width=5"]
SIZES += ["networks.discriminator.pieces=3", "networks.discriminator.joint_pieces=2"]


def weights(network: str) -> dict[str, np.ndarray]:
    rng, lowered = np.random.default_rng(0), lower(load_spec("cgan", None, SIZES))
    params = network_params(lowered, lowered.networks[network])
    return {n: rng.standard_normal([int(d) for d in p.type.shape]).astype(np.float32) for n, p in params.items()}


def linear(own: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ own[f"{name}.weight"].T + own[f"{name}.bias"]


def test_the_generator_joins_uniform_noise_and_the_class_after_a_layer_of_each() -> None:
    own, rng = weights("main"), np.random.default_rng(1)
    z, y = rng.standard_normal((4, 5)), np.array([3, 0, 9, 3])
    uniform = np.vectorize(lambda x: (1 + erf(x / sqrt(2))) / 2)(z)
    of_z = np.maximum(linear(own, "latent", uniform), 0)
    of_y = np.maximum(own["y_embedder.weight"][y] + own["y_embedder.bias"], 0)
    h = np.concatenate([of_z, of_y], axis=1)
    for i in range(2):
        h = np.maximum(linear(own, f"hidden.{i}", h), 0)
    wanted = 1 / (1 + np.exp(-linear(own, "output", h)))
    found = api.forward("cgan", own, {"z": z, "y": y}, overrides=SIZES)
    assert np.abs(found - wanted.reshape(4, 1, 8, 8)).max() < 1e-6


def test_units_of_the_discriminator_are_the_largest_of_their_pieces() -> None:
    own, rng = weights("discriminator"), np.random.default_rng(1)
    x, y = rng.standard_normal((4, 1, 8, 8)), np.array([3, 0, 9, 3])
    of_x = linear(own, "state", x.reshape(4, 64)).reshape(4, 6, 3).max(2)
    of_y = (own["y_embedder.weight"][y] + own["y_embedder.bias"]).reshape(4, 5, 3).max(2)
    h = linear(own, "hidden.0", np.concatenate([of_x, of_y], axis=1)).reshape(4, 8, 2).max(2)
    wanted = linear(own, "score", h)
    found = api.forward("cgan", own, {"x": x, "y": y}, overrides=SIZES, network="discriminator")
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["networks.main.condition_width=null"], "condition `class` is no vector that could join as it is"),
        (["conditioning.class.dropout=0.1"], "always knows the class"),
        (["conditioning.class={kind: label, dropout: 0, encoding: one_hot}"], "takes the class as an index"),
        (["networks.discriminator.activation=relu"], "maxout"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(overrides: list[str], said: str) -> None:
    with pytest.raises(DiagnosticError) as error:
        load_spec("cgan", None, overrides)
    assert said in str(error.value), error.value
