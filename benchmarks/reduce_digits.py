"""The fewest network evaluations of the digit DiT that are as good as 250 steps of DDPM, found by `latentc tune`.

    python benchmarks/reduce_digits.py [--out out/reduce_digits]

As good: class accuracy within 2 % and Fréchet distance within 10 %, both of the classifier of examples/digits, on 2000
samples whose seeds neither the search nor the choice has seen. A guided evaluation counts one. Goal: at most 10. The
weights are trained once and kept in the folder; all of it takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import judged, trained
from tqdm import tqdm

import latentc_runtime
from latentc import api

SPEC = "digits_dit"
REFERENCE = ("sampler={kind: ddpm, steps: 250, guidance: {scale: 1.25}}",)
BUDGET = ("accuracy=0.98x", "fd=1.1x")
CHOSEN_ON, JUDGED_ON = 1000, 2000
FRESH = 7_000_000  # the first seed of the judgement


def main() -> int:
    """Runs the benchmark; 1 where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/reduce_digits"), help="weights, bundles, tuning results")
    out: Path = parser.parse_args().out
    weights = trained(SPEC, out / "project").weights
    with tqdm(desc="tuning") as bar:
        tuned = api.tune(
            SPEC,
            weights,
            out / "tuned",
            BUDGET,
            overrides=REFERENCE,
            evaluations=(2, 3, 4, 5, 6, 7, 8, 10),
            samples=CHOSEN_ON,
            progress=shown_in(bar),
        )
    print(tuned.text())
    api.compile(SPEC, weights, out / "ddpm250", overrides=REFERENCE)
    api.compile(out / "tuned" / "tuned.yaml", weights, out / "few")
    labels = np.arange(JUDGED_ON) % 10
    figures = {}
    for name in ("ddpm250", "few"):
        with tqdm(desc=f"sampling from {name}") as bar:
            pipe = latentc_runtime.load(out / name, "cpu")
            samples = pipe.sample(labels, np.arange(FRESH, FRESH + JUDGED_ON), progress=shown_in(bar))
        figures[name] = judged(samples, labels)
        print(f"{name}: {figures[name]}")
    assert tuned.chosen is not None  # tune raises where nothing fits
    evaluations = tuned.chosen.evaluations
    (accuracy, distance), (own_accuracy, own_distance) = figures["few"], figures["ddpm250"]
    lines = [
        verdict("class accuracy, of DDPM's", accuracy / own_accuracy, 0.98),
        verdict("Fréchet distance, of DDPM's", distance / own_distance, 1.10, least=False),
        verdict("network evaluations", evaluations, 10, "", least=False),
    ]
    print("\n".join(lines), f"\n{250 / evaluations:.3g} × fewer evaluations than DDPM with 250 steps")
    return int(any("MISSED" in line for line in lines))


def shown_in(bar: tqdm) -> Callable[..., None]:
    """A progress function that moves a bar."""

    def progress(done: int, total: int, what: str = "") -> None:
        bar.total = total
        bar.set_postfix_str(what, refresh=False)
        bar.update(done - bar.n)

    return progress


if __name__ == "__main__":
    sys.exit(main())
