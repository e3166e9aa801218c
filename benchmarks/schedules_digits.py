"""AutoNAT's search on digits: schedules of few steps against the spec's own and the cosine (arXiv:2406.05478).

    python benchmarks/schedules_digits.py [--out out/schedules_digits] [--steps 4 6] [--search 400] [--small]

Trains `digits_maskgit` if its weights are not in the folder (with `--small` at a width of 32, three blocks and 1000
steps), searches schedules by `latentc tune` on the Fréchet distance of `--search` samples, and judges 2000 others of
the searched sampler, the spec's own of as many steps, and one whose tokens follow the cosine. The goal is a smaller
distance than both.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common import verdict
from on_digits import figures, trained

from latentc import api

SMALL = ("backbone.width=32", "backbone.depth=3", "backbone.block.mixer.heads=2")
TRAINING = ("train.steps=1000", "train.optimizer.lr=4e-3")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/schedules_digits"), help="folder of projects and bundles")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 6], help="numbers of steps to search for")
    parser.add_argument("--search", type=int, default=400, help="samples of the search")
    parser.add_argument("--small", action="store_true", help="a smaller model, trained for less long")
    given = parser.parse_args()
    out = given.out.resolve()
    sizes = SMALL if given.small else ()
    model = trained("digits_maskgit", out / "model", overrides=[*sizes, *(TRAINING if given.small else ())])
    lines: list[str] = []
    for steps in given.steps:
        tuned = out / f"tuned-{steps}"
        budget = [f"evaluations={steps}", "fd=1000"]
        options = {"evaluations": (steps,), "samples": given.search, "overrides": list(sizes)}
        found = api.tune("digits_maskgit", model.weights, tuned, budget, **options)
        (one,) = (m.candidate for m in found.measured if m.candidate.found == "schedules")
        file = tuned / "searched.yaml"
        one.write(file, "base.yaml" if sizes else "digits_maskgit", found.own.candidate.sampler)
        judged = {
            "searched": figures(str(file), model.weights, out / f"searched-{steps}", samples=2000),
            "own": figures(
                "digits_maskgit", model.weights, out / f"own-{steps}", (*sizes, f"sampler.steps={steps}"), 2000
            ),
            "cosine": figures(
                "digits_maskgit",
                model.weights,
                out / f"cosine-{steps}",
                (*sizes, f"sampler.steps={steps}", "sampler.schedule=cosine", "sampler.progress=end"),
                2000,
            ),
        }
        for name, figure in judged.items():
            print(f"{steps} steps, {name}: {figure}")
        best = min(judged["own"].frechet, judged["cosine"].frechet)
        lines.append(verdict(f"{steps} steps: Fréchet distance", judged["searched"].frechet, best, "", False))
    print(*lines, sep="\n", flush=True)
    return int(any("MISSED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
