"""The process and the sampler of CONTRIBUTING.md: right, not only running."""

import re
import types
from pathlib import Path

import numpy as np
import pytest
from test_processes import S, X, exact_network, spread

from latentc.components.processes.prediction import KINDS
from latentc.components.processes.process import Parameterization
from latentc.components.samplers.table import run

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page():
    module = types.ModuleType("page")
    for name in ("trigonometric", "midpoint"):
        (block,) = re.findall(rf"### [^\n]*{name}\.py`\n.*?```python\n(.*?)```", PAGE, flags=re.DOTALL)
        exec(block, vars(module))
    return module


def test_the_process_of_the_page(page):
    process = page.Trigonometric(**page.Trigonometric.EXAMPLE)
    times, step = np.linspace(0.1, 1.4, 9), 1e-6
    after, before, here = process.point(times + step), process.point(times - step), process.point(times)
    np.testing.assert_allclose((after.alpha - before.alpha) / (2 * step), here.d_alpha, rtol=1e-6)
    np.testing.assert_allclose((after.sigma - before.sigma) / (2 * step), here.d_sigma, rtol=1e-6)
    np.testing.assert_allclose(process.time_of_level(process.point(times).level), times)


@pytest.mark.parametrize("predicts", [kind for kind in KINDS if kind != "preconditioned"])
def test_the_sampler_of_the_page_is_of_second_order(page, predicts):
    process = page.Trigonometric(kind="trigonometric", eps=0.05)
    target = Parameterization(process, predicts)
    exact = X * spread(process, process.last) / spread(process, process.first)
    errors = []
    for steps in (40, 160):
        sampler = page.Midpoint(kind="midpoint", steps=steps)
        every = np.linspace(process.first, process.last, 2 * steps + 1)
        result = run(sampler.table(target), exact_network(target, every), X)
        errors.append(float(np.abs(result / exact - 1).max()))
    assert S < 1 and np.log(errors[0] / errors[1]) / np.log(4) > 1.8
