"""The digit DiT distilled: 4 evaluations of the student against 50 steps of the guided teacher, 100 evaluations.

    python benchmarks/distil_digits.py [--out out/distil_digits]

Trains digits_dit, digits_guided (guidance distillation) and digits_distilled (progressive distillation, in four rounds
from 64 steps to 4) if their weights are not in the folder, compiles the three samplers, and has the classifier of
examples/digits judge 2000 samples of each. Goal: class accuracy within 2 % of the teacher's. Takes about six minutes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import judged, trained
from tqdm import tqdm

import latentc_runtime
from latentc import api

SAMPLES = 2000
FIRST = 7_000_000  # seed of the first sample
STAGES = ("digits_dit", "digits_guided", "digits_distilled")  # each teaches the next


def main() -> int:
    """Runs the benchmark; 1 if the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/distil_digits"), help="folder for projects and bundles")
    out: Path = parser.parse_args().out
    labels, accuracy, teacher = np.arange(SAMPLES) % 10, {}, {}
    for spec in STAGES:
        weights = trained(spec, out / spec / "project", teacher).weights
        teacher = {"teacher": weights}
        api.compile(spec, weights, out / spec / "bundle")
        pipe = latentc_runtime.load(out / spec / "bundle", "cpu")
        with tqdm(desc=f"sampling from {spec}") as bar:
            samples = pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES), progress=lambda *at: shown(bar, *at))
        found = judged(samples, labels)
        accuracy[spec] = found.accuracy
        print(f"{spec}: {found}")
    teachers, _, students = accuracy.values()
    line = verdict("class accuracy of 4 evaluations, of the guided teacher's", students / teachers, 0.98)
    print(line)
    return int("MISSED" in line)


def shown(bar: tqdm, done: int, total: int, what: str = "") -> None:
    """Moves a bar."""
    bar.total = total
    bar.update(done - bar.n)


if __name__ == "__main__":
    sys.exit(main())
