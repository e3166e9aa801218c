"""Early exits: the losses against the paper's formulas, engines that leave the network by a plan and at run time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import random_weights

import latentc_runtime
from latentc.diagnostics import DiagnosticError
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify
from latentc_runtime import exits

TINY = ("networks.main.width=16", "networks.main.depth=3", "networks.main.block.mixer.heads=2", "sampler.steps=3")
COUNT = 4


def test_the_losses_of_every_exit() -> None:
    low = lower(
        load_spec("digits_deediff", overrides=[*TINY, "objective.further=[{kind: early_exit, uncertainty: 0.5}]"])
    )
    methods = {"main": "train_forward", "exits": "forward"}
    functions = {name: low.networks[name].methods[method].function for name, method in methods.items()}
    params = {f"{n}.{path}": p for n, f in functions.items() for path, p in parameters(low.module, f).items()}
    oracle = Interpreter(low.module, random_weights(params, np.random.default_rng(0), 0.3))
    rng = np.random.default_rng(1)
    x, noise = rng.standard_normal((2, COUNT, 1, 8, 8))
    t, y, drop = np.array([10, 300, 600, 990]), np.array([1, 5, 9, 3]), np.array([0.5, 0.01, 0.5, 0.5])
    given = {"x": x, "y": y, "t": t, "noise": noise, "drop": drop}
    found = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    bar = load_spec("digits_deediff").objective.process.alphas_cumprod[t][:, None, None, None]
    x_t, wanted = np.sqrt(bar) * x + np.sqrt(1 - bar) * noise, np.sqrt(bar) * noise - np.sqrt(1 - bar) * x
    out, *behind = oracle.run(functions["main"], x_t, t.astype(float), np.where(drop < 0.1, 10, y), prefix="main")
    (plain,) = oracle.run(low.networks["main"].main.function, x_t, t * 1.0, np.where(drop < 0.1, 10, y), prefix="main")
    np.testing.assert_allclose(out, plain)
    made = oracle.run(functions["exits"], t.astype(float), *behind, prefix="exits")
    total = 0.0
    for prediction, u in zip(made[:2], made[2:], strict=True):
        error = prediction - wanted
        squared, tanh = (a.mean(axis=(1, 2, 3)) for a in (error**2, np.tanh(np.abs(error))))
        total += np.mean((1 - u) * squared) + 0.5 * np.mean((u - tanh) ** 2)
        assert np.all((u >= 0) & (u <= 1))
    base = np.mean((out - wanted) ** 2)
    assert found == pytest.approx([base + total, base, total], rel=1e-6)
    assert set(low.updates[0].networks) == {"main", "exits"}


def test_a_plan_and_decisions_at_run_time_agree(tmp_path: Path) -> None:
    """Engines: the plan [1, 3, 2] compiled into the loop, the same by the host, then by the uncertainties."""
    pytest.importorskip("onnxruntime")
    planned = tiny_bundle("digits_deediff", tmp_path / "planned", (*TINY, "programs.0.after=[1, 3, 2]"))
    report = verify(planned)
    assert report.ok, report.text()
    pipe, classes, seeds = latentc_runtime.load(planned, "cpu"), np.array([3, 1, 4, 1]), np.arange(COUNT)
    ours = pipe.sample(classes, seeds)
    host = exits.sample(pipe, classes, seeds, plan=[1, 3, 2])
    scale = abs(ours).max()
    np.testing.assert_allclose(host.samples, ours, rtol=0, atol=1e-5 * scale)
    assert host.exits.tolist() == [[1] * COUNT, [3] * COUNT, [2] * COUNT]
    whole = exits.sample(pipe, classes, seeds, threshold=-1.0)
    assert np.all(whole.exits == 3) and abs(whole.samples - ours).max() > 1e-3 * scale
    # Each sample is decided by itself: a threshold between the uncertainties sends some on.
    first = exits.sample(pipe, classes, seeds, threshold=1.0)
    assert np.all(first.exits == 1)
    mixed = exits.sample(pipe, classes, seeds, threshold=float(np.median(first.uncertainties)))
    assert {1} < set(np.unique(mixed.exits)) and np.all(mixed.uncertainties <= np.median(first.uncertainties))
    for i in range(COUNT):
        alone = exits.sample(pipe, classes[i : i + 1], seeds[i : i + 1], plan=mixed.exits[:, i].tolist())
        np.testing.assert_allclose(mixed.samples[i], alone.samples[0], rtol=0, atol=1e-5 * scale)
    with pytest.raises(latentc_runtime.BundleError, match="a plan of 2 exits"):
        exits.sample(pipe, classes, seeds, plan=[1, 1])


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["networks.exits.network=nothing"], "`nothing` does not exist"),
        (["networks.exits.after=[1, 4]"], "exits must follow increasing blocks from 1 to 3"),
        (["programs.0.network=main"], "exit"),
        (["programs.0.after=[1, 2]"], "2 block numbers for 50 evaluations"),
        (["sampler.steps=2", "networks.exits.after=[2]", "programs.0.after=[1, 4]"], "no exit after block 1"),
        (["sampler.guidance={kind: blur, scale: 2}"], "only under classifier-free guidance, not with `blur`"),
        (["sampler.guidance={scale: 2, name: step}"], "a guidance scale cannot be named `step`"),
        (["sampler={kind: dpm_solver_pp, steps: 9}"], "first-order steps"),
        (["optimize.stitch={network: exits, until: 0.5}"], "cannot be combined with stitching or caching"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[Any], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_deediff", overrides=overrides)
