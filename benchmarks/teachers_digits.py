"""How well classifiers of digits learn from another one: classes of small students.

    python benchmarks/teachers_digits.py [--only tcn] [--out out/teachers] [--seeds 0 1 2]

tcn   digits_tcn_teacher, and digits_tcn with 1, 2, 4 and 8 students, each refitted; 4 students trained by labels alone
      for as many steps. Goals: 4 students reach 0.97 times the accuracy of the teacher with a tenth of its weights,
      and at least that of the same network without a teacher.

Accuracies are of engines, by `latentc classify`, on the 899 digits of the other half. A training takes half a minute
on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import verdict
from on_digits import Training, images, spread, trained
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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


def main_of(run: Training) -> Path:
    """A file of the network `main` alone."""
    tensors, alone = load_file(run.weights), run.weights.with_name("main.safetensors")
    own = {name.removeprefix("main."): array for name, array in tensors.items() if name.startswith("main.")}
    save_file(own or tensors, alone)
    return alone


def weights_in(run: Training, network: str) -> int:
    """Number of weights of a network in a file."""
    with safe_open(run.weights, "numpy") as file:
        names = [name for name in file.keys() if name.startswith(f"{network}.")] or list(file.keys())  # noqa: SIM118
        return int(sum(np.prod(file.get_slice(name).get_shape()) for name in names))


def tcn(out: Path, seeds: list[int]) -> list[str]:
    """A teacher, and classes of students that share its features."""
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for seed in seeds:
        teacher = trained("digits_tcn_teacher", out / f"teacher-{seed}/project", seed=seed)
        sizes["teacher"] = weights_in(teacher, "main")
        right = {"teacher": accuracy("digits_tcn_teacher", teacher, out / f"teacher-{seed}/engine")}
        for count in (1, 2, 4, 8):
            folder, own = out / f"{count}-{seed}", (f"networks.main.students={count}",)
            files = {"teacher": teacher.weights}
            run = trained("digits_tcn", folder / "project", files, own, seed=seed, variant="students")
            refit = trained("digits_tcn", folder / "refit", {"main": main_of(run)}, own, seed=seed, variant="refit")
            sizes[f"{count} students"] = weights_in(refit, "main")
            right[f"{count} students, before"] = accuracy("digits_tcn", run, folder / "before", own, "students")
            right[f"{count} students"] = accuracy("digits_tcn", refit, folder / "engine", own, "refit")
        folder = out / f"alone-{seed}"
        alone = trained("digits_tcn", folder / "project", overrides=ALONE, seed=seed, steps=1300)
        right["4 students without a teacher"] = accuracy("digits_tcn", alone, folder / "engine", ALONE)
        for name, value in right.items():
            found.setdefault(name, []).append(value)
        print(f"tcn, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in right.items()), flush=True)
    for name, values in found.items():
        weights = f", {sizes[name]} weights" if name in sizes else ""
        print(f"tcn: accuracy of {name}: {spread(values)}{weights}")
    ratios = np.divide(found["4 students"], found["teacher"]).tolist()
    gains = np.subtract(found["4 students"], found["4 students without a teacher"]).tolist()
    return [
        verdict("accuracy of 4 students", ratios, 0.97, "of the teacher's"),
        verdict("weights of the teacher", sizes["teacher"] / sizes["4 students"], 10, "× those of 4 students"),
        verdict("accuracy of 4 students less that without a teacher", gains, 0.0, ""),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
