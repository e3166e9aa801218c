"""Measuring a bundle: every sampler and batch it holds, and the emitted PyTorch beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bundles import TINY_DIT, tiny_bundle

from latentc.measure.bench import bench, timing
from latentc_runtime import BundleError


@pytest.mark.parametrize("form", ["loop", "host"])
def test_bench(tmp_path: Path, form: str) -> None:
    pytest.importorskip("torch")
    folder = tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT, steps=(3, 2), form=form)
    told: list[tuple[int, int, str]] = []
    found = bench(folder, batches=(1, 2, 100), seconds=0.0, compare=True, progress=lambda *step: told.append(step))
    assert [(c.steps, c.batch, c.form) for c in found.cases] == [(n, b, form) for n in (3, 2) for b in (1, 2)]
    for case in found.cases:
        assert case.engine.count == 3
        assert case.engine.low <= case.engine.median <= case.engine.high
        assert case.samples_per_second == pytest.approx(case.batch / case.engine.median)
        assert case.ms_per_step == pytest.approx(1e3 * case.engine.median / case.steps)
        assert 0 <= case.outside < 1 and case.first > 0
        assert case.pytorch is not None and case.ratio == pytest.approx(case.pytorch.median / case.engine.median)
    assert told[-1][0] == told[-1][1] == 4
    assert len(json.loads(json.dumps(found.data()))["cases"]) == 4
    assert "samples/s" in found.text() and "ratio" in found.text()


def test_one_sampler_without_comparison(tmp_path: Path) -> None:
    folder = tiny_bundle("digits_dit", tmp_path / "bundle", TINY_DIT, steps=(3, 2))
    found = bench(folder, batches=(2,), steps=(2,), seconds=0.0)
    assert [(c.steps, c.pytorch, c.ratio) for c in found.cases] == [(2, None, None)]
    assert "ratio" not in found.text()
    with pytest.raises(BundleError, match="runs in 2, 3 steps"):
        bench(folder, steps=(7,), seconds=0.0)


def test_timing() -> None:
    found = timing([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (found.median, found.low, found.high, found.count) == (3.0, 2.0, 4.0, 5)
