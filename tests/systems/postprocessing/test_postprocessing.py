"""Correcting samples by a flow that starts from them; how far samples are from the boundary between classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import random_weights

from latentc.diagnostics import DiagnosticError
from latentc.evaluate.metrics.classifier import METRICS
from latentc.evaluate.metrics.contract import Compared, Moments, Reference
from latentc.ir.core import parameters
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.verify.run import verify

TINY = tuple(f"networks.{n}.{size}" for n in ("main", "generator") for size in ("width=16", "block.mixer.heads=2"))
TINY = (*TINY, "networks.main.depth=1", "networks.generator.depth=1", "sampler.steps=3")
TINY = (*TINY, "conditioning.generated.prior.sampler.steps=3")


def test_the_flow_leads_from_samples_to_data() -> None:
    """x_t = t x + (1 - t) (sample + std z), whose velocity the network is to predict; the generator stays as it is."""
    low = lower(load_spec("digits_postprocessed", overrides=[*TINY]))
    function = low.networks["main"].main.function
    params = {f"main.{path}": p for path, p in parameters(low.module, function).items()}
    oracle = Interpreter(low.module, random_weights(params, np.random.default_rng(0), 0.3))
    rng = np.random.default_rng(1)
    x, sample, noise = rng.standard_normal((3, 4, 1, 8, 8))
    t, y = np.array([0.1, 0.4, 0.6, 0.9]), np.array([3, 1, 4, 1])
    given = {"x": x, "generated": sample, "noise": noise, "u": t, "y": y, "drop": np.array([0.5, 0.5, 0.01, 0.5])}
    (found,) = oracle.run("loss", *(given[v.name] for v in low.module.entry("loss").inputs))
    column, start = t[:, None, None, None], sample + 0.05 * noise
    (v,) = oracle.run(
        function, column * x + (1 - column) * start, t, np.where(given["drop"] < 0.1, 10, y), sample, prefix="main"
    )
    assert found == pytest.approx(np.mean((v - (x - start)) ** 2), rel=1e-6)
    assert [update.networks for update in low.updates] == [("main",)]


def test_a_sample_and_its_correction_are_one_program(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    report = verify(tiny_bundle("digits_postprocessed", tmp_path / "bundle", TINY))
    assert report.ok, report.text()


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["objective.coupling.condition=nothing"], "no condition `nothing`"),
        (["objective.coupling.condition=class"], "not an array of the data's shape"),
        (["data.fields.generated.shape=[1, 4, 4]"], "not an array of the data's shape"),
    ],
)
def test_what_does_not_fit_is_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(DiagnosticError, match=says):
        load_spec("digits_postprocessed", overrides=overrides)


def test_the_distance_from_the_decision_boundary() -> None:
    scores, labels = np.array([[4.0, 1.0, 0.0], [0.0, 2.0, 1.5], [3.0, 0.0, -1.0]]), np.array([0, 2, 1])
    reference = Reference("", Moments(np.zeros(1), np.zeros((1, 1))))
    (metric,) = (m for m in METRICS if m.figures[0].name == "margin")
    found = metric.compute(Compared(np.zeros((3, 1)), reference, scores=scores, labels=labels))
    assert found == {"margin": pytest.approx((3.0 - 0.5 - 3.0) / 3), "near_boundary": pytest.approx(1 / 3)}
