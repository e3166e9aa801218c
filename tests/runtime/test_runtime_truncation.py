"""Truncated noise: within its bound, of the right distribution, the same in projects, and refused where it is none."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from latentc import api
from latentc_runtime import load, noise
from latentc_runtime.distributions import draw
from latentc_runtime.errors import BundleError
from latentc_runtime.sources import Setting

OVERRIDES = ["data.shape=[3, 8, 8]", "data.classes=3", "backbone.width=8", "backbone.channel_multipliers=[1, 1]"]
OVERRIDES += ["backbone.attention=[]", "backbone.latent_dim=4", "backbone.embedding=4"]


@pytest.mark.parametrize("bound", [0.04, 0.5, 2.0, 30.0])
def test_distribution(bound):
    """That of normals of which those beyond the bound were drawn again (Kolmogorov-Smirnov, far from its 1 % point)."""
    values = np.sort(draw("truncated_normal", [3], "z", (20_000,), bound=np.array([bound]))[0].astype(np.float64))
    assert np.abs(values).max() <= bound
    curve = NormalDist()
    low = curve.cdf(-bound)
    expected = (np.array([curve.cdf(v) for v in values]) - low) / (1 - 2 * low)
    assert np.abs(expected - np.arange(len(values)) / len(values)).max() < 1.6 / math.sqrt(len(values))


def test_seeds_and_bounds_are_each_samples_own():
    together = draw("truncated_normal", [1, 2, 3], "z", (8,), bound=np.array([0.5, math.inf, 1.0]))
    for i, bound in enumerate([0.5, math.inf, 1.0]):
        assert np.array_equal(
            together[i : i + 1], draw("truncated_normal", [i + 1], "z", (8,), bound=np.array([bound]))
        )
    assert np.array_equal(together[1:2], noise.normals([2], "z", (8,)))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("truncated") / "biggan.latentc"
    spec = ("biggan", None, OVERRIDES)
    from latentc.checkpoint import network_params
    from latentc.ir.inits import INITS
    from latentc.lower import lower
    from latentc.spec import load_spec
    from latentc.weights import Array, write_safetensors

    lowered = lower(load_spec(*spec))
    rng = np.random.default_rng(0)
    weights = {
        name: Array(INITS[p.init.kind](rng, tuple(map(int, p.type.shape)), **p.init.args).astype(np.float32))
        for name, p in network_params(lowered, lowered.networks["main"]).items()
    }
    file = path.parent / "weights.safetensors"
    write_safetensors(file, weights)
    api.compile("biggan", file, path, overrides=OVERRIDES)
    return path


def test_a_request_may_give_another(bundle):
    pipe = load(bundle, device="cpu")
    assert pipe.manifest.settings == (Setting("truncation", 0.5, low=0.0, closed=False, unlimited=True),)
    default, same, other, free = (pipe.sample([1], 7, truncation=t) for t in (None, 0.5, 0.1, math.inf))
    assert np.array_equal(default, same)
    assert not np.allclose(default, other) and not np.allclose(default, free)
    mixed = pipe.sample([1, 1], [7, 7], truncation=[0.5, 0.1])
    assert np.allclose(mixed, np.concatenate([same, other]), atol=1e-6)


@pytest.mark.parametrize("bad", [0, -1.0, [0.5], "much", [[0.5, 0.5]], math.nan])
def test_refusals(bundle, bad):
    with pytest.raises(BundleError) as failed:
        load(bundle, device="cpu").sample([0, 1], truncation=bad)
    assert failed.value.code == "E0608"
