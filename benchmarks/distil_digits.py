"""The digit DiT distilled: 4 evaluations of the student against 50 steps of the guided teacher, 100 evaluations.

    python benchmarks/distil_digits.py [--out out/distil_digits]

Trains digits_dit, digits_guided (guidance distillation) and digits_distilled (progressive distillation, in four rounds
from 64 steps to 4) if their weights are not in the folder, compiles the three samplers, and has the classifier of
examples/digits judge 2000 samples of each. Goal: class accuracy within 2 % of the teacher's. Takes about six minutes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import on_digits
from common import verdict
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
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
    from metrics import judged

    labels, accuracy, teacher = np.arange(SAMPLES) % 10, {}, None
    for spec in STAGES:
        teacher = trained(spec, out / spec / "project", teacher)
        api.compile(spec, teacher, out / spec / "bundle")
        pipe = latentc_runtime.load(out / spec / "bundle", "cpu")
        with tqdm(desc=f"sampling from {spec}") as bar:
            samples = pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES), progress=lambda *at: shown(bar, *at))
        found = judged(samples, labels)
        accuracy[spec] = found["accuracy"][0]
        print(f"{spec}: accuracy {accuracy[spec]:.4f}, Fréchet distance {found['frechet']:.4f}")
    teachers, _, students = accuracy.values()
    line = verdict("class accuracy of 4 evaluations, of the guided teacher's", students / teachers, 0.98)
    print(line)
    return int("MISSED" in line)


def trained(
    spec: str, project: Path, teacher: Path | None, overrides: Sequence[str] = (), role: str = "teacher"
) -> Path:
    """The weights of a spec, trained if they are not there yet; network `role` starts from the file `teacher`."""
    return on_digits.trained(spec, project, teacher, overrides, role=role).weights


def shown(bar: tqdm, done: int, total: int, what: str = "") -> None:
    """Moves a bar."""
    bar.total = total
    bar.update(done - bar.n)


if __name__ == "__main__":
    sys.exit(main())
