"""Digits in 1 and 4 evaluations by models that take a second time, against a flow with the same layers and steps.

    python benchmarks/few_step_digits.py [--out out/few_step_digits] [--only shortcut …] [--seeds 0 1 2]

Trains the flow and the others with every seed if their weights are not in the folder; the classifier of
examples/digits judges 1000 samples, all without guidance. Goals, chosen before anything was trained: a Fréchet distance
of at most half the flow's in one evaluation, and of at most the flow's in four. A training takes one and a
half to two minutes of a core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import verdict
from on_digits import Figures, figures, spread, trained

SHARED = ("train.steps=1000",)
FLOW = ("objective.process={kind: interpolant}", "sampler={kind: euler, steps: 1, guidance: null}")
EVALUATIONS = (1, 4)
SYSTEMS = {"shortcut": "digits_shortcut", "soflow": "digits_soflow", "imm": "digits_imm", "tim": "digits_tim"}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/few_step_digits"), help="folder of projects and bundles")
    parser.add_argument("--only", choices=SYSTEMS, nargs="+", default=list(SYSTEMS), help="some of the systems")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    flow = judged("flow", "digits_sit", FLOW, given.out, given.seeds)
    lines = []
    for name in given.only:
        found = judged(name, SYSTEMS[name], (), given.out, given.seeds)
        for count, bound in zip(EVALUATIONS, (0.5, 1.0), strict=True):
            ratios = [own.frechet / other.frechet for own, other in zip(found[count], flow[count], strict=True)]
            what = f"{name}: Fréchet distance in {count} evaluations, of the flow's"
            lines.append(verdict(what, ratios, bound, "", least=False))
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def judged(name: str, spec: str, own: tuple[str, ...], out: Path, seeds: list[int]) -> dict[int, list[Figures]]:
    """Trains a system with every seed; its figures by the number of evaluations."""
    found: dict[int, list[Figures]] = {count: [] for count in EVALUATIONS}
    for seed in seeds:
        run = trained(spec, out / f"{name}{seed}", overrides=(*own, *SHARED), seed=seed)
        for count in EVALUATIONS:
            overrides = (*own, *SHARED, f"sampler.steps={count}")
            found[count].append(figures(spec, run.weights, out / f"{name}{seed}-{count}", overrides=overrides))
        print(f"{name}, seed {seed}: {run.seconds:.0f} s of a processor", flush=True)
    for count, each in found.items():
        accuracy, distance = (spread(f[i] for f in each) for i in (0, 1))
        print(f"{name} in {count}: class accuracy {accuracy}, Fréchet distance {distance}", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
