"""EEGWave on signals that a generator makes: are class, subject and session in its samples, as in real signals?

    python benchmarks/eeg_erps.py [--out out/eeg_erps] [--seeds 0 1 2]

Trains examples/gallery/erp.yaml on 3000 signals of four electrodes: two classes with and without a bump like the P300,
three subjects, two sessions (`small_data.erps`). Draws 480 signals of all twelve combinations from engines, without
guidance and at a scale of 2, with the same weights. Judges, one per condition, are logistic regressions on signals and
log spectra. Goals, set before the first run: judges of real signals have 0.95 times their balanced accuracy on held-out
real signals on drawn ones; the judge of the class, trained on guided signals instead, has 0.95 times its accuracy on
real ones. Klein et al. compare an EEGNet's balanced accuracies on real and on drawn signals likewise. Takes two minutes
of training per seed on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import trained
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import latentc_runtime
from latentc import api

GALLERY = Path(__file__).parents[1] / "examples" / "gallery"
sys.path.insert(0, str(GALLERY))
from small_data import erps  # noqa: E402

CONDITIONS = {"class": "y", "subject": "subject", "session": "session"}
SCALES = (1.0, 2.0)  # of guidance; 1: none
COMBINATIONS = np.stack(np.meshgrid(np.arange(2), np.arange(3), np.arange(2), indexing="ij"), -1).reshape(-1, 3)


def features(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Signals f32[N, E, L] and their log spectra as one vector per signal."""
    spectra = np.log(np.abs(np.fft.rfft(x, axis=-1)) + 1e-3)
    return np.concatenate([x.reshape(len(x), -1), spectra.reshape(len(x), -1)], axis=1)


def judge(x: NDArray[np.floating], labels: NDArray[np.integer]) -> LogisticRegression:
    """Recognises a condition in signals."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(features(x), labels)


def accuracy(of: LogisticRegression, x: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Balanced accuracy of a judge."""
    return float(balanced_accuracy_score(labels, of.predict(features(x))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/eeg_erps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    data = (flags.out / "erp.npz").resolve()
    seen, unseen = erps(3000, seed=0), erps(1200, seed=1)
    np.savez(data, **seen)
    judges = {name: judge(seen["x"], seen[field]) for name, field in CONDITIONS.items()}
    real = {name: accuracy(judges[name], unseen["x"], unseen[field]) for name, field in CONDITIONS.items()}
    given = dict(zip(CONDITIONS, np.repeat(COMBINATIONS, 40, axis=0).T, strict=True))
    found: dict[str, list[float]] = {}
    for seed in flags.seeds:
        options = [f"data.path={data}"]
        run = trained(str(GALLERY / "erp.yaml"), flags.out / f"project-{seed}", overrides=options, seed=seed)
        print(f"seed {seed}: {run.seconds:.0f} s of training", flush=True)
        for scale in SCALES:
            bundle = flags.out / f"engine-{seed}-{scale:g}"
            how = [*options, f"sampler.guidance.scale={scale}"]
            api.compile(str(GALLERY / "erp.yaml"), str(run.weights), bundle, overrides=how, max_batch=100)
            drawn = latentc_runtime.load(bundle, "cpu").sample(conditions=given, seeds=np.arange(480) + 480 * seed)
            for name in CONDITIONS:
                made = accuracy(judges[name], drawn, given[name]) / real[name]
                found.setdefault(f"{name} at a scale of {scale:g}", []).append(made)
                print(f"  {name} at a scale of {scale:g}: {made:.3f} of the accuracy on real signals", flush=True)
        back = accuracy(judge(drawn, given["class"]), unseen["x"], unseen["y"]) / real["class"]
        found.setdefault("class of real signals, by a judge of drawn ones", []).append(back)
        print(f"  by a judge of drawn signals: {back:.3f} of the accuracy on real signals", flush=True)
    for what, ratios in found.items():
        print(verdict(what, ratios, 0.95, "of the accuracy on real ones"))


if __name__ == "__main__":
    main()
