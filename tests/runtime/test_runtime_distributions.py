"""Every distribution of the registry, in numpy and in torch; a sample's values follow from its own seed."""

import math

import numpy as np
import pytest
import torch

from latentc_runtime.distributions import DISTRIBUTIONS, draw
from latentc_runtime.sources import RandomSource

COUNT = 40_000


def normal_cdf(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def beta_cdf(a, b):
    grid = (np.arange(200_000) + 0.5) / 200_000
    density = grid ** (a - 1) * (1 - grid) ** (b - 1)
    return lambda x: np.interp(x, grid, np.cumsum(density) / density.sum())


def truncated_cdf(bound):
    low = normal_cdf(np.array(-bound))
    return lambda x: (normal_cdf(x) - low) / (1 - 2 * low)


# name: parameters, and the cumulative distribution or the probability of each value
CASES = {
    "normal": ({}, normal_cdf),
    "truncated_normal": ({"bound": 1.5}, truncated_cdf(1.5)),
    "uniform": ({}, lambda x: x),
    "uniform_between": ({"low": -1.0, "high": 3.0}, lambda x: (x + 1.0) / 4.0),
    "log_uniform": ({"low": 1.0, "high": 8.0}, lambda x: np.log(x) / np.log(8.0)),
    "power_law": ({"low": 1.0, "high": 8.0, "power": 3.0}, lambda x: (1 - x**-2.0) / (1 - 8.0**-2)),
    "integers": ({"high": 6}, np.full(6, 1 / 6)),
    "gumbel": ({}, lambda x: np.exp(-np.exp(-x))),
    "exponential": ({"rate": 2.0}, lambda x: 1 - np.exp(-2.0 * x)),
    "normal_between": (
        {"mean": 0.5, "std": 2.0, "low": 0.2, "high": 0.7},
        lambda x: (normal_cdf((x - 0.5) / 2.0) - 0.2) / 0.5,
    ),
    "log_normal": ({"mean": -1.2, "std": 1.2}, lambda x: normal_cdf((np.log(x) + 1.2) / 1.2)),
    "logit_normal": ({"mean": 0.5, "std": 0.8}, lambda x: normal_cdf((np.log(x / (1 - x)) - 0.5) / 0.8)),
    "beta": ({"a": 1.5, "b": 0.7}, beta_cdf(1.5, 0.7)),
    "bernoulli": ({"probability": 0.3}, np.array([0.7, 0.3])),
    "categorical": ({"weights": (1.0, 3.0, 4.0)}, np.array([1, 3, 4]) / 8),
}


def in_torch(name, parameters, shape):
    text = DISTRIBUTIONS[name].torch.format(shape=", ".join(map(str, shape)), **parameters)
    scope = {"torch": torch, "math": math, "np": np, "generator": torch.Generator().manual_seed(3)}
    return eval(text, scope).numpy()


def test_every_distribution_is_tried():
    assert {*CASES, "permutation"} == set(DISTRIBUTIONS)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_values_follow_the_distribution(name, backend):
    parameters, wanted = CASES[name]
    if backend == "torch":
        values = in_torch(name, parameters, (COUNT,))
        assert values.dtype == {"f32": np.float32, "i64": np.int64}[DISTRIBUTIONS[name].dtype]
    else:
        values = draw(name, range(4), "s", (COUNT // 4,), **parameters).ravel()
    low, high = DISTRIBUTIONS[name].bounds(parameters)
    assert low <= values.min() and values.max() <= high
    if callable(wanted):  # Kolmogorov-Smirnov; 1.95 is exceeded once in a thousand
        distance = np.abs(wanted(np.sort(values.astype(np.float64))) - (np.arange(COUNT) + 0.5) / COUNT).max()
        assert distance * math.sqrt(COUNT) < 1.95
    else:
        found = np.bincount(values.astype(int), minlength=len(wanted))
        assert ((found - COUNT * wanted) ** 2 / (COUNT * wanted)).sum() < 3 * len(wanted) + 10


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_permutations(backend):
    rows = draw("permutation", range(6), "order", (500, 4)) if backend == "numpy" else None
    rows = in_torch("permutation", {}, (3000, 4)) if rows is None else rows
    rows = rows.reshape(-1, 4)
    assert (np.sort(rows, axis=1) == np.arange(4)).all()
    found = np.unique(rows, axis=0, return_counts=True)[1]
    assert len(found) == 24 and ((found - 125) ** 2 / 125).sum() < 60


@pytest.mark.parametrize("name", [*CASES, "permutation"])
def test_a_sample_depends_on_its_own_seed_index_and_parameters(name):
    parameters = CASES.get(name, ({}, None))[0]
    many = draw(name, [5, 2**63, 5], "s", (2, 8), range(3), **parameters)
    assert many.shape == (3, 3, 2, 8)
    np.testing.assert_array_equal(many[:, 0], many[:, 2])
    for index in range(3):
        np.testing.assert_array_equal(many[index, 1:2], draw(name, [2**63], "s", (2, 8), index, **parameters))
    assert not np.array_equal(many[0], many[1]) and not np.array_equal(many[0, 0], many[0, 1])
    if name not in ("categorical", "permutation") and parameters:
        columns = {key: np.array([value, value, value / 2]) for key, value in parameters.items()}
        each = draw(name, [5, 2**63, 5], "s", (2, 8), range(3), **columns)
        np.testing.assert_array_equal(each[:, :2], many[:, :2])
        halved = draw(name, [5], "s", (2, 8), range(3), **{key: value / 2 for key, value in parameters.items()})
        np.testing.assert_array_equal(each[:, 2:], halved)


def test_a_source_takes_the_parameters_of_its_distribution():
    assert RandomSource("integers", "t", parameters={"high": 3}).rows is None
    for name, parameters in (("integers", {}), ("normal", {"std": 2.0}), ("cauchy", {})):
        with pytest.raises(ValueError, match=f"distribution `{name}`"):
            RandomSource(name, "s", parameters=parameters)
