"""How well classifiers of digits learn from another one: a class of small students.

    python benchmarks/teachers_digits.py [--only tcn] [--out out/teachers] [--seeds 0 1 2]

tcn   digits_tcn_teacher; digits_tcn, refitted; and the network of digits_tcn trained by labels alone for as many steps.
      Goals: the students reach 0.97 times the accuracy of the teacher with a tenth of its weights, and at least that of
      the same network without a teacher.

Accuracies are of engines, by `latentc classify`, on the 899 digits of the other half. A training takes ten seconds on
one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import Training, images, spread, trained
from safetensors import safe_open

from latentc import api

ALONE = (
    *("objective={kind: classification}", "networks.teacher=null", "networks.main.copy_of=null"),
    *("networks.main.frozen=false", "networks.main.frozen_weights=[]"),
)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("tcn",), default=["tcn"])
    parser.add_argument("--out", type=Path, default=Path("out/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    run = {"tcn": tcn}
    lines = [line for name in flags.only for line in run[name](flags.out.resolve() / name, flags.seeds)]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def accuracy(
    spec: str, run: Training, folder: Path, overrides: Sequence[str] = (), variant: str | None = None
) -> float:
    """Of an engine on the digits that nothing has seen."""
    x, y = images(1)
    api.compile(spec, str(run.weights), folder, variant, overrides=list(overrides), force=True)
    found, _ = api.classify(folder, x, device="cpu")
    return float((found.labels == y).mean())


def weights_in(run: Training) -> int:
    """Number of weights in a file."""
    with safe_open(run.weights, "numpy") as file:
        return int(sum(np.prod(file.get_slice(name).get_shape()) for name in file.keys()))  # noqa: SIM118


def tcn(out: Path, seeds: list[int]) -> list[str]:
    """A teacher, and classes of students that share its features."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for seed in seeds:
        teacher = trained("digits_tcn_teacher", out / f"teacher-{seed}/project", seed=seed)
        right = {"the teacher": accuracy("digits_tcn_teacher", teacher, out / f"teacher-{seed}/engine")}
        folder, files = out / f"students-{seed}", {"teacher": teacher.weights}
        run = trained("digits_tcn", folder / "project", files, seed=seed, variant="students")
        refit = trained("digits_tcn", folder / "refit", {"main": run.weights}, seed=seed, variant="refit")
        right["the students, before refitting"] = accuracy("digits_tcn", run, folder / "before", (), "students")
        right["the students"] = accuracy("digits_tcn", refit, folder / "engine", (), "refit")
        folder = out / f"alone-{seed}"
        alone = trained("digits_tcn", folder / "project", overrides=ALONE, seed=seed, steps=1000)
        right["the students' network without a teacher"] = accuracy("digits_tcn", alone, folder / "engine", ALONE)
        sizes = {"the teacher": weights_in(teacher), "the students": weights_in(refit)}
        for name, value in right.items():
            found.setdefault(name, []).append(value)
        print(f"tcn, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in right.items()), flush=True)
    for name, values in found.items():
        print(f"tcn: accuracy of {name}: {spread(values)}{f', {sizes[name]} weights' if name in sizes else ''}")
    ratios = np.divide(found["the students"], found["the teacher"]).tolist()
    gains = np.subtract(found["the students"], found["the students' network without a teacher"]).tolist()
    return [
        verdict("accuracy of the students", ratios, 0.97, "of the teacher's"),
        verdict("weights of the teacher", sizes["the teacher"] / sizes["the students"], 10, "× those of the students"),
        verdict("accuracy of the students less that without a teacher", gains, 0.0, ""),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
