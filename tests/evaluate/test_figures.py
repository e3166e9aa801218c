"""The figures: against torch-fidelity and prdc on the same arrays, and against closed forms."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentc.datasets.arrays import drawn_rows
from latentc.evaluate.metrics import FIGURES, figures_by_class, figures_from_text, figures_of
from latentc.evaluate.metrics.contract import Compared, Reference, moments
from latentc.evaluate.metrics.memorisation import neighbours
from latentc.measure.metrics import frechet_of_moments

torch = pytest.importorskip("torch")
pytest.importorskip("torch_fidelity")


def _reference(features: np.ndarray, labels: np.ndarray | None = None) -> Reference:
    return Reference("real", moments(features), features, labels, count=len(features))


def _pair(seed: int = 0, count: int = 200, size: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((size, size))
    ours = (rng.standard_normal((count, size)) @ mix + 0.3).astype(np.float32)
    return ours, (rng.standard_normal((count + 40, size)) @ mix).astype(np.float32)


def test_frechet_distance_of_gaussians_has_a_closed_form() -> None:
    """Of N(m, A) and N(m', A') whose covariances commute: |m - m'|² + Σ (√a - √a')² over their eigenvalues."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((16, 16)))
    a, b = rng.uniform(0.1, 4, 16), rng.uniform(0.1, 4, 16)
    means = rng.standard_normal((2, 16))
    wanted = np.sum((means[0] - means[1]) ** 2) + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    covariances = [(basis * values) @ basis.T for values in (a, b)]
    found = frechet_of_moments(means[0], covariances[0], means[1], covariances[1])
    assert found == pytest.approx(wanted, rel=1e-9)


def test_frechet_distance_of_samples_of_gaussians() -> None:
    """The whole way, from features that have exactly the wanted moments."""
    rng = np.random.default_rng(1)
    white = rng.standard_normal((500, 6))
    white = np.linalg.solve(np.linalg.cholesky(np.cov(white.T)), (white - white.mean(0)).T).T
    ours, theirs = white * 2.0 + 1.0, white * [1, 2, 3, 4, 5, 6]
    found, missing = figures_of(Compared(ours, _reference(theirs)), ["fd"])
    assert found["fd"] == pytest.approx(6 + sum((2 - s) ** 2 for s in range(1, 7)), rel=1e-6) and not missing


def test_figures_are_those_of_torch_fidelity() -> None:
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    ours, theirs = _pair()
    logits = np.random.default_rng(2).standard_normal((len(ours), 10)).astype(np.float32) * 3
    compared = Compared(ours, _reference(theirs), logits=logits)
    names = ["fd", "kid", "precision", "recall", "inception_score"]
    found, _ = figures_of(compared, names)
    a, b = torch.from_numpy(ours), torch.from_numpy(theirs)
    statistics = [metric_fid.fid_features_to_statistics(x.double()) for x in (a, b)]
    wanted = metric_fid.fid_statistics_to_metric(*statistics, verbose=False)
    wanted |= metric_kid.kid_features_to_metric(a, b, kid_subset_size=len(ours), verbose=False)
    wanted |= metric_prc.prc_features_to_metric(a, b, save_cpu_ram=False, verbose=False)
    wanted |= metric_isc.isc_features_to_metric(torch.from_numpy(logits))
    keys = [metric_fid.KEY_METRIC_FID, metric_kid.KEY_METRIC_KID_MEAN, "precision", "recall"]
    for name, key in zip(names, [*keys, metric_isc.KEY_METRIC_ISC_MEAN], strict=True):
        assert found[name] == pytest.approx(wanted[key], rel=1e-5), name


def test_density_and_coverage_are_those_of_prdc(capsys: pytest.CaptureFixture[str]) -> None:
    import prdc

    ours, theirs = _pair()
    found, _ = figures_of(Compared(ours, _reference(theirs)), ["density", "coverage"])
    assert capsys.readouterr().out == ""
    wanted = prdc.compute_prdc(theirs, ours, nearest_k=5)
    assert found == {name: pytest.approx(float(wanted[name])) for name in found}


def test_real_samples_are_judged_real_and_ruined_ones_not() -> None:
    rng = np.random.default_rng(3)
    real, other = rng.standard_normal((2, 300, 8)).astype(np.float32)
    good, _ = figures_of(Compared(other, _reference(real)), FIGURES)
    far, _ = figures_of(Compared(other * 0.05, _reference(real)), FIGURES)  # collapsed to one spot
    assert good["fd"] < 0.3 < 3 < far["fd"] and good["kid"] < far["kid"]
    assert far["recall"] < 0.1 < 0.8 < good["recall"] and far["coverage"] < 0.2 < 0.8 < good["coverage"]
    assert far["precision"] > 0.95 and far["density"] > 2 * good["density"]


@pytest.mark.parametrize("seed", [0, 1, 1 << 63])
def test_large_sets_are_thinned_without_losing_classes(seed: int) -> None:
    """Every class keeps its share, however the rows are ordered; fewer rows than classes are of different ones."""
    random = np.random.default_rng(0)
    sizes = np.array([1, 10, 100, 1000, 4000, 4000, 333])
    for labels in (np.repeat(np.arange(7), sizes), random.permutation(np.repeat(np.arange(7), sizes))):
        for most in (7, 300, 3000):
            rows = drawn_rows(labels, len(labels), most, seed)
            assert len(set(rows.tolist())) == most and (np.diff(rows) > 0).all()
            np.testing.assert_allclose(np.bincount(labels[rows], minlength=7), sizes * most / sizes.sum(), atol=2)
            np.testing.assert_array_equal(rows, drawn_rows(labels, len(labels), most, seed))
            assert (rows != drawn_rows(labels, len(labels), most, seed + 1)).any()
    many = drawn_rows(np.arange(1000), 1000, 300, seed)
    assert 400 < many.mean() < 600 and len(many) == 300
    assert drawn_rows(None, 5, 10).tolist() == [0, 1, 2, 3, 4]
    assert 22_000 < drawn_rows(None, 50_000, 1000, seed).mean() < 28_000


def test_copies_of_training_samples_are_found() -> None:
    rng = np.random.default_rng(4)
    training, unseen, new = rng.standard_normal((3, 400, 5)).astype(np.float32)
    copied = np.concatenate([training[:200], new[:200]])
    for features, ratio, copies in ((training, 0, 1), (new, 1, 0.01), (copied, None, 0.5)):
        near = neighbours(features, training, unseen)
        found, _ = figures_of(Compared(features, _reference(unseen), neighbours=near), FIGURES)
        assert ratio is None or found["nearest_ratio"] == pytest.approx(ratio, abs=0.1)
        assert found["copies"] == pytest.approx(copies, abs=0.02)
    assert near.indices[:200].tolist() == list(range(200))
    alone = neighbours(new, training, None)  # no unseen samples: the training samples' own distances
    assert np.median(alone.usual) == pytest.approx(np.median(near.usual), rel=0.1)


def test_what_cannot_be_computed_is_said() -> None:
    ours, theirs = _pair()
    statistics = Reference("stats.npz", moments(theirs))
    found, missing = figures_of(Compared(ours, statistics), FIGURES)
    assert set(found) == {"fd"} and set(missing) == {*FIGURES} - {"fd"}
    assert "only statistics" in missing["recall"] and "--classifier" not in missing["accuracy"]
    assert "no labels" in missing["accuracy"] and "--training" in missing["nearest"]


def test_classes_are_judged_apart() -> None:
    """Class 0 is right, class 1 has the samples of class 0."""
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], 60)
    real = (rng.standard_normal((120, 4)) + 6 * labels[:, None]).astype(np.float32)
    ours = rng.standard_normal((120, 4)).astype(np.float32)
    scores = np.stack([-ours.sum(1) + 12, ours.sum(1) - 12], 1)
    compared = Compared(ours, _reference(real, labels), scores, scores, labels)
    found = figures_by_class(compared, FIGURES)
    assert found[0]["accuracy"] == 1 and found[1]["accuracy"] == 0
    assert found[0]["fd"] < 1 < 100 < found[1]["fd"] and found[1]["precision"] == 0
    assert "inception_score" not in found[0]  # says nothing within a class
    few = figures_by_class(
        Compared(ours[50:70], _reference(real, labels), scores[50:70], scores[50:70], labels[50:70]), FIGURES
    )
    assert set(few[0]) == {"accuracy", "fd"}  # ten samples of four features
    without = figures_by_class(Compared(ours, _reference(real), scores, scores, labels), FIGURES)
    assert set(without[0]) == {"accuracy"}  # the reference has no classes


def test_names_of_figures() -> None:
    from latentc.diagnostics import DiagnosticError

    assert figures_from_text(["fid,recall", "fid", "fd_digits,fd"]) == ["fid", "recall", "fd_digits", "fd"]
    assert figures_from_text(["all"]) == list(FIGURES)
    with pytest.raises(DiagnosticError, match="did you mean `recall`"):
        figures_from_text(["recal"])


def test_the_whole_way_is_torch_fidelitys(tmp_path: Path) -> None:
    """Images to figures, with Inception of random weights: `calculate_metrics` and ours, on the same arrays."""
    from torch_fidelity import calculate_metrics

    from latentc import api

    weights = random_inception(tmp_path / "inception.pth")
    rng = np.random.default_rng(0)
    sets = {name: rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8) // (1 + i) for i, name in enumerate("ab")}
    for name, pictures in sets.items():
        np.savez(tmp_path / f"{name}.npz", arr_0=pictures)

    class Pictures(torch.utils.data.Dataset):  # type: ignore[misc]
        def __init__(self, array: np.ndarray) -> None:
            self.array = torch.from_numpy(array).permute(0, 3, 1, 2)

        def __len__(self) -> int:
            return len(self.array)

        def __getitem__(self, i: int) -> Any:
            return self.array[i]

    wanted = calculate_metrics(
        input1=Pictures(sets["a"]),
        input2=Pictures(sets["b"]),
        feature_extractor="inception-v3-compat",
        feature_layer_prc="2048",
        feature_extractor_weights_path=str(weights),
        **dict.fromkeys(["isc", "kid", "prc"], True),
        **{"cuda": False, "cache": False, "verbose": False, "kid_subset_size": 8, "isc_splits": 8},
    )
    stats = tmp_path / "stats.npz"
    names = ["kid,inception_score,precision,recall"]
    inception = [f"inception={weights}"]
    found = api.evaluate(tmp_path / "a.npz", tmp_path / "b.npz", names, inception, statistics=stats)
    pairs = {
        "kid": "kernel_inception_distance_mean",
        "inception_score": "inception_score_mean",
        "precision": "precision",
        "recall": "recall",
    }
    figures = found.runs[0].result.figures
    for ours, theirs in pairs.items():
        assert figures[ours] == pytest.approx(wanted[theirs], rel=2e-4, abs=1e-6), ours
    # The statistics have the names and sizes of ADM's, sFID's among them.
    with np.load(stats) as held:
        shapes = {name: held[name].shape for name in held.files}
    assert shapes == {"mu": (2048,), "sigma": (2048, 2048), "mu_s": (2023,), "sigma_s": (2023, 2023)}


def test_only_published_weights_of_inception_give_a_fid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others give a distance of another name, which says that it cannot be compared, and `fid` is refused."""
    from latentc import api
    from latentc.diagnostics import DiagnosticError
    from latentc.evaluate.extractors import inception
    from latentc.evaluate.metrics import frechet

    monkeypatch.setattr(frechet, "frechet_of_moments", lambda *moments: 0.0)  # of 2048 features, it takes seconds
    weights = random_inception(tmp_path / "inception.pth")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", arr_0=pictures)
    place, own = tmp_path / "a.npz", [f"inception={weights}"]
    found = api.evaluate(place, place, ["fd"], own)
    assert (
        set(found.runs[0].result.figures) == {"fd_inception"} and "other weights than those published" in found.text()
    )
    for features, given in ((own, "fd_inception"), (["principal"], "fd_principal")):
        for asked in ("fid", "fd_clip"):
            with pytest.raises(DiagnosticError, match=f"these features give `{given}`, not `{asked}`"):
                api.evaluate(place, place, [asked], features)
    monkeypatch.setattr(inception, "PUBLISHED", (hashlib.sha256(weights.read_bytes()).hexdigest(),))
    for asked in ("fid", "fd"):
        found = api.evaluate(place, place, [asked], own)
        assert set(found.runs[0].result.figures) == {"fid"} and "comparable" not in found.facts()


def random_inception(file: Path) -> Path:
    """A state dict of torch-fidelity's Inception with random weights, whose activations keep their size."""
    from unittest import mock

    from torch_fidelity import feature_extractor_inceptionv3 as module

    torch.manual_seed(0)
    with (
        mock.patch.object(module, "load_state_dict_from_url", lambda *a, **k: {}),
        mock.patch.object(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None),
    ):
        network = module.FeatureExtractorInceptionV3("inception", ["2048"], verbose=False)
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    torch.save(network.state_dict(), file)
    return file
