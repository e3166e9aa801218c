"""Tree sampling and search: rewards below a shared beginning of the noise decide where the next sample is drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle

import latentc_runtime
from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc_runtime import tree
from latentc_runtime.errors import BundleError
from latentc_runtime.sources import Input, RandomSource

N = 4


class Fake:
    """A sampler whose sample is the sum of its noise: each step adds its own, the first state most of all."""

    def __init__(self, stochastic: bool = True) -> None:
        inputs = [Input("x", "f32", ("B", 1), RandomSource("normal", "x"))]
        if stochastic:
            inputs.append(Input("noise", "f32", (N, "B", 1), RandomSource("normal", "step", N)))
        self.entry = SimpleNamespace(inputs=tuple(inputs))
        self.drawn: list[tuple[float, ...]] = []

    def program(self, name: str | None, steps: int | None) -> Any:
        return self.entry

    def sample(self, classes: Any = None, *, noise: Any, count: int = 0, **_: Any) -> np.ndarray:
        self.drawn += [(float(noise["x"][i, 0]), *noise["noise"][:, i, 0].tolist()) for i in range(len(noise["x"]))]
        return np.asarray(2 * noise["x"] + noise["noise"].sum(0))


def value(samples: np.ndarray, classes: Any) -> np.ndarray:
    return samples[:, 0]


def test_samples_of_a_tree_share_their_beginnings() -> None:
    pipe: Any = Fake()
    found = tree.search(pipe, value, count=1, rollouts=40, levels=5)
    assert found.history.shape == (40, 1) and len(set(pipe.drawn)) == 40
    beginnings = [len({one[: k + 1] for one in pipe.drawn}) for k in range(N + 1)]
    assert beginnings == sorted(beginnings) and beginnings[0] < 15 and beginnings[-1] == 40


def test_the_search_finds_more_than_as_many_samples() -> None:
    """The best of 64 by DTS* and by drawing 64 afresh, over 40 trees."""
    pipe: Any = Fake()
    best = {
        levels: tree.search(pipe, value, count=40, rollouts=64, levels=levels, greedy=True, sharpness=2.0, seed=3)
        for levels in (1, 5)
    }
    assert np.array_equal(best[1].rewards, best[1].history.max(0))
    assert best[5].rewards.mean() > best[1].rewards.mean() + 0.3


def test_tree_sampling_draws_from_the_tilted_density() -> None:
    """The sum is normal with variance 8; tilted by exp(x / 4) its mean is 2, which more rollouts come closer to."""
    pipe: Any = Fake()
    settings: Any = {"count": 200, "levels": 2, "sharpness": 0.25, "widening": (1.0, 0.5), "seed": 1}
    few, many = (tree.search(pipe, value, rollouts=n, **settings).rewards.mean() for n in (4, 200))
    assert few < 1.5 and many == pytest.approx(2.0, abs=0.4)


def test_what_is_refused() -> None:
    deterministic: Any = Fake(stochastic=False)
    with pytest.raises(BundleError, match="adds no noise in its steps"):
        tree.search(deterministic, value, count=1)
    pipe: Any = Fake()
    with pytest.raises(BundleError, match="the reward of 2 samples"):
        tree.search(pipe, lambda samples, classes: 1.0, count=2)
    for wrong in ({"rollouts": 0}, {"sharpness": 0.0}):
        with pytest.raises(BundleError, match="rollouts and a sharpness"):
            tree.search(pipe, value, count=1, **wrong)


def test_seeds_of_the_whole_range() -> None:
    pipe: Any = Fake()
    assert tree.search(pipe, value, count=1, rollouts=3, levels=5, seed=(1 << 64) - 1).history.shape == (3, 1)


def test_a_bundle(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    tiny = ("backbone.width=8", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler={kind: ddpm, steps: 4}")
    pipe = latentc_runtime.load(tiny_bundle("digits_dit", tmp_path / "bundle", tiny), "cpu")
    asked: list[Any] = []

    def brightness(samples: np.ndarray, classes: Any) -> np.ndarray:
        asked.append(classes)
        return samples.mean(axis=(1, 2, 3))

    found = tree.search(pipe, brightness, [3, 5], rollouts=6, levels=3, greedy=True)
    assert found.samples.shape == (2, 1, 8, 8) and np.allclose(found.rewards, found.history.max(0))
    assert np.array_equal(asked[0], [3, 5])

    # The command's function, of a file of the user.
    (tmp_path / "reward.py").write_text(
        "bright = lambda samples, classes: samples.mean(axis=(1, 2, 3))\none = lambda samples, classes: 'much'\n"
    )
    settings: Any = {"rollouts": 6, "levels": 3, "raw": tmp_path / "found.npz", "output": tmp_path / "found.png"}
    again = api.search(tmp_path / "bundle", f"{tmp_path}/reward.py:bright", [3, 5], **settings)
    assert np.array_equal(again.rewards, found.rewards) and (tmp_path / "found.png").is_file()
    assert np.load(tmp_path / "found.npz")["history"].shape == (6, 2)
    with pytest.raises(DiagnosticError, match="one returned 'much'"):
        api.search(tmp_path / "bundle", f"{tmp_path}/reward.py:one", [3])
