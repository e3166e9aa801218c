"""How well classifiers of digits learn from another one: a class of small students, and students of MCMI's teacher.

    python benchmarks/teachers_digits.py [--only mcmi tcn] [--out out/teachers] [--seeds 0 1 2]

mcmi  digits_mcmi without its term, and with it, which continues from the former; digits_mcmi_student of both on 5
      digits of each class, and on all digits but those of one class. Goals: at least the accuracy of the plain
      teacher's student with few digits, and 0.05 more in the omitted class.
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
from typing import Any

import numpy as np
from common import verdict
from numpy.typing import NDArray
from on_digits import Training, images, spread, trained
from safetensors import safe_open

from latentc import api

PLAIN = ("objective={kind: classification}", "networks.centroids=null")
FEW = 5  # digits of each class
BATCH = "train.batch_size=32"  # of students, since these are fewer than 64
ALONE = (
    *("objective={kind: classification}", "networks.teacher=null", "networks.main.copy_of=null"),
    *("networks.main.frozen=false", "networks.main.frozen_weights=[]"),
)


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("mcmi", "tcn"), default=["mcmi", "tcn"])
    parser.add_argument("--out", type=Path, default=Path("out/teachers"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    flags = parser.parse_args()
    run = {"mcmi": mcmi, "tcn": tcn}
    lines = [line for name in flags.only for line in run[name](flags.out.resolve() / name, flags.seeds)]
    print(*lines, sep="\n")
    return int(any("MISSED" in line for line in lines))


def correct(
    spec: str, run: Training, folder: Path, overrides: Sequence[str] = (), variant: str | None = None
) -> tuple[NDArray[np.bool_], NDArray[np.integer]]:
    """Which of the held-out digits an engine classifies correctly, and their classes."""
    x, y = images(1)
    api.compile(spec, str(run.weights), folder, variant, overrides=list(overrides), force=True)
    found, _ = api.classify(folder, x, device="cpu")
    return found.labels == y, y


def accuracy(
    spec: str, run: Training, folder: Path, overrides: Sequence[str] = (), variant: str | None = None
) -> float:
    """Accuracy of an engine on the held-out digits."""
    return float(correct(spec, run, folder, overrides, variant)[0].mean())


def data_of(chosen: NDArray[Any], file: Path) -> str:
    """The section `data` of training digits with these places, which are written to a file."""
    x, y = images(0)
    np.savez(file, x=x[chosen], y=y[chosen])
    return f"data={{kind: npz, path: {file}, classes: 10, shape: [1, 8, 8]}}"


def mcmi(out: Path, seeds: list[int]) -> list[str]:
    """Students of a plain teacher and of MCMI's."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    _, y = images(0)
    few, omitted = f"{FEW} digits of each class", "the omitted class"
    for seed in seeds:
        rng = np.random.default_rng(seed)
        places = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:FEW] for c in range(10)])
        data = {
            few: data_of(places, out / f"few-{seed}.npz"),
            omitted: data_of(np.flatnonzero(y != seed), out / f"omitted-{seed}.npz"),
        }
        plain = trained("digits_mcmi", out / f"plain-{seed}/project", overrides=PLAIN, seed=seed)
        given = (f"networks.main.pretrained={plain.weights}", "networks.main.frozen=false")
        moved = trained("digits_mcmi", out / f"mcmi-{seed}/project", overrides=given, seed=seed)
        for name, teacher, options in (("plain", plain, PLAIN), ("mcmi", moved, given)):
            right = {"teacher": accuracy("digits_mcmi", teacher, out / f"{name}-{seed}/engine", options)}
            for what, section in data.items():
                folder = out / f"{name}-{seed}/{'few' if what == few else 'omitted'}"
                files = {"teacher": teacher.weights}
                own = (section, BATCH)
                run = trained("digits_mcmi_student", folder / "project", files, own, seed=seed)
                good, classes = correct("digits_mcmi_student", run, folder / "engine", own)
                right[what] = float((good if what == few else good[classes == seed]).mean())
            for what, value in right.items():
                found.setdefault(f"{name}, {what}", []).append(value)
            print(f"mcmi, seed {seed}, {name}: " + ", ".join(f"{k} {v:.4f}" for k, v in right.items()), flush=True)
    for what, values in found.items():
        print(f"mcmi: accuracy of {what}: {spread(values)}")
    gains = {what: np.subtract(found[f"mcmi, {what}"], found[f"plain, {what}"]).tolist() for what in (few, omitted)}
    return [verdict(f"gain by MCMI, {what}", gains[what], goal, "") for what, goal in ((few, 0.0), (omitted, 0.05))]


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
