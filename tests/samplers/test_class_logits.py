"""Engines of classifiers: the program `logits`, and classification by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundles import tiny_bundle
from forked import python

import latentc_runtime
from latentc import api
from latentc.cli import run
from latentc.diagnostics import DiagnosticError
from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime import BundleError
from latentc_runtime.classify import classify

SIZES = ("backbone={kind: plain_classifier, stages: [[4]], padded: true, hidden: [6]}",)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle("digits_tcn_teacher", tmp_path_factory.mktemp("logits") / "bundle", SIZES, std=0.5)


def test_classes_are_those_of_the_largest_logits(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pipe, rng = latentc_runtime.load(bundle, "cpu"), np.random.default_rng(0)
    x = rng.standard_normal((7, 1, 8, 8)).astype(np.float32)
    logits = pipe.sample(conditions={"x": x}).astype(float)
    found = classify(pipe, x, batch=3)
    assert logits.shape == (7, 10) and len(set(found.labels.tolist())) > 1
    assert found.labels.tolist() == logits.argmax(1).tolist() and found.evaluations == 7
    assert np.allclose(np.exp(-found.errors), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), rtol=0, atol=1e-6)
    few = classify(pipe, x, classes=[2, 5])
    assert few.labels.tolist() == np.array([2, 5])[logits[:, [2, 5]].argmax(1)].tolist()
    assert np.isinf(few.errors[:, 0]).all() and few.runs.sum(1).tolist() == [2] * 7
    np.savez(tmp_path / "some.npz", x=x, y=found.labels)
    labels, truth = api.classify(bundle, tmp_path / "some.npz")
    assert labels.labels.tolist() == found.labels.tolist() == truth.tolist()  # type: ignore[union-attr]
    assert run(["classify", str(bundle), str(tmp_path / "some.npz")]) == 0
    assert "accuracy 1.0000 of 7 samples" in capsys.readouterr().out


def test_samples_of_another_shape_and_classes_that_do_not_exist_are_refused(bundle: Path) -> None:
    pipe = latentc_runtime.load(bundle, "cpu")
    with pytest.raises(BundleError, match=r"samples have shape \[8, 8\], not \[1, 8, 8\]"):
        classify(pipe, np.zeros((2, 8, 8)))
    with pytest.raises(BundleError, match="10"):
        classify(pipe, np.zeros((2, 1, 8, 8)), classes=[10])


def test_a_classifier_of_noisy_samples_has_no_such_program() -> None:
    with pytest.raises(DiagnosticError, match="takes a time besides the sample"):
        load_spec("adm_classifier", None, ["sampler={kind: class_logits}"])


def test_training_draws_no_previews_of_logits(tmp_path: Path) -> None:
    """With the default `sample_every`; the project's sampler writes logits as arrays."""
    spec = load_spec("digits_tcn_teacher", None, [*SIZES, "train.log=[csv]", "train.workers=0"])
    folder = tmp_path / "project"
    project_from_lowered(lower(spec), spec, folder)
    assert "--given x=x.npy -o samples.npz" in (folder / "README.md").read_text(encoding="utf-8")
    done = python(folder, "train.py", "--steps", "1", "--batch_size", "8")
    assert done.returncode == 0, done.stderr
    assert not (folder / "runs/train/samples").exists()
    np.save(folder / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    weights = "runs/train/weights.safetensors"
    done = python(folder, "sample.py", "--weights", weights, "--given", "x=x.npy", "-o", "logits.npz")
    assert done.returncode == 0, done.stderr
    assert np.load(folder / "logits.npz")["samples"].shape == (3, 10)


def test_sample_metrics_need_samples() -> None:
    with pytest.raises(DiagnosticError, match="`class_logits` draws no samples of the data"):
        lower(load_spec("digits_tcn_teacher", None, [*SIZES, "train.evaluate_every=10"]))
    with pytest.raises(DiagnosticError, match="a spec without a sampler draws no samples of the data"):
        lower(load_spec("digits_tcn_teacher", None, [*SIZES, "sampler=null", "train.evaluate_every=10"]))
