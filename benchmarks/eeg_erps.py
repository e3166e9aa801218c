"""EEGWave on signals that a generator makes: are class, subject and session in its samples, as in real signals?

    python benchmarks/eeg_erps.py [--out out/eeg_erps] [--seeds 0 1 2] [--guided]

Trains examples/gallery/erp.yaml on 3000 signals of four electrodes: two classes with and without a bump like the P300,
three subjects, two sessions (`small_data.erps`). Draws 1200 signals of all twelve combinations from its engine. Judges,
one per condition, are logistic regressions on signals and log spectra. Goals, set before the first run: judges of real
signals have 0.95 times their balanced accuracy on held-out real signals (which are hard enough not to be perfect) on
drawn ones; the judge of the class, trained on drawn signals instead, has 0.95 times its accuracy on real ones. Klein
et al. compare an EEGNet's balanced accuracies on real and on drawn signals likewise. `--guided` adds dropped conditions
and guidance at a scale of 2. Takes two minutes per seed on one core.
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
GUIDED = [f"conditioning.{name}.dropout=0.1" for name in CONDITIONS]
GUIDED += ["sampler.guidance={kind: classifier_free, scale: 2.0}"]
COMBINATIONS = np.stack(np.meshgrid(np.arange(2), np.arange(3), np.arange(2), indexing="ij"), -1).reshape(-1, 3)


def features(x: NDArray[np.floating]) -> NDArray[np.floating]:
    """Signals f32[N, E, L] and their log spectra as one vector per signal."""
    spectra = np.log(np.abs(np.fft.rfft(x, axis=-1)) + 1e-3)
    return np.concatenate([x.reshape(len(x), -1), spectra.reshape(len(x), -1)], axis=1)


def judge(x: NDArray[np.floating], labels: NDArray[np.integer]) -> LogisticRegression:
    """Recognises a condition in signals."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500)).fit(features(x), labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/eeg_erps"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--guided", action="store_true", help="drop conditions in training, and guide the sampler")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    data = (flags.out / "erp.npz").resolve()
    seen, unseen = erps(3000, seed=0), erps(1200, seed=1)
    np.savez(data, **seen)
    options = [f"data.path={data}", *(GUIDED if flags.guided else [])]
    found: dict[str, list[float]] = {}
    for seed in flags.seeds:
        name = f"{'guided-' if flags.guided else ''}{seed}"
        run = trained(str(GALLERY / "erp.yaml"), flags.out / f"project-{name}", overrides=options, seed=seed)
        bundle = flags.out / f"engine-{name}"
        api.compile(str(GALLERY / "erp.yaml"), str(run.weights), bundle, overrides=options, max_batch=100)
        given = dict(zip(CONDITIONS, np.repeat(COMBINATIONS, 100, axis=0).T, strict=True))
        drawn = latentc_runtime.load(bundle, "cpu").sample(conditions=given, seeds=np.arange(1200) + 1200 * seed)
        print(f"seed {seed}: {run.seconds:.0f} s of training, loss falls {run.fall():.2f} ×", flush=True)
        for condition, field in CONDITIONS.items():
            of_real = judge(seen["x"], seen[field])
            real = balanced_accuracy_score(unseen[field], of_real.predict(features(unseen["x"])))
            made = balanced_accuracy_score(given[condition], of_real.predict(features(drawn)))
            print(f"  {condition}: balanced accuracy {made:.3f} on drawn signals, {real:.3f} on real ones", flush=True)
            found.setdefault(f"{condition}, of drawn signals", []).append(made / real)
            if condition == "class":
                of_drawn = judge(drawn, given[condition])
                back = balanced_accuracy_score(unseen[field], of_drawn.predict(features(unseen["x"])))
                print(f"  {condition}: {back:.3f} on real signals if trained on drawn ones", flush=True)
                found.setdefault(f"{condition}, by a judge of drawn signals", []).append(back / real)
    for what, ratios in found.items():
        print(verdict(what, ratios, 0.95, "of the accuracy on real ones"))


if __name__ == "__main__":
    main()
