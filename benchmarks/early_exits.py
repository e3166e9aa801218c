"""What a denoiser loses and gains that is left early (DeeDiff): digits by uncertainty, and engines by a plan.

    python benchmarks/early_exits.py [--out out/early_exits] [--only digits|speed]

Digits: trains digits_dit and from it digits_deediff, whose exits stand behind each of four blocks, if their weights
are not in the folder. 500 samples in 50 steps of DDIM without guidance are decided at run time, at thresholds that are
the 2 %, 5 % and 10 % quantiles of the first exit's uncertainty: class accuracy and Fréchet distance by the classifier
of examples/digits, and the share of the blocks that ran. The plan is the mean exit of each step at the last one, over
other samples; the engine that has it in its loop must keep the class accuracy within 3 % of the whole network's.
Speed: processor seconds of one thread of engines with and without that plan, and of a DiT of width 384 with 12 blocks
(DiT-S/2, random weights, 16 × 16 latents, 10 steps) that runs a half of its blocks on average.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import cpu_seconds, random_bundle, verdict
from on_digits import Figures, judged, trained

import latentc_runtime
from latentc import api
from latentc_runtime import exits

COUNT, FRESH, PLANNED = 500, 13_000_000, 14_000_000
QUANTILES, BLOCKS = (0.02, 0.05, 0.1), 4
SMALL = ("target.engine=openvino", "target.form=loop", "target.max_batch=1")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/early_exits"), help="projects, weights, bundles")
    parser.add_argument("--only", choices=("digits", "speed"), help="one half of it")
    given = parser.parse_args()
    lines = [] if given.only == "speed" else digits(given.out)
    lines += [] if given.only == "digits" else speed(given.out)
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def digits(out: Path) -> list[str]:
    """Trains the digits where they are not there yet; thresholds, and the plan."""
    before = trained("digits_dit", out / "digits-dit").weights
    weights = trained("digits_deediff", out / "digits-deediff", {"main": before}).weights
    api.compile("digits_deediff", weights, out / "dynamic", overrides=["target.form=loop"])
    pipe, labels = latentc_runtime.load(out / "dynamic", "cpu", threads=1), np.arange(COUNT) % 10
    others = labels[:100], np.arange(PLANNED, PLANNED + 100)
    levels = np.quantile(exits.sample(pipe, *others, threshold=1.0).uncertainties, QUANTILES)
    for threshold in map(float, levels):
        made = exits.sample(pipe, labels, np.arange(FRESH, FRESH + COUNT), threshold=threshold)
        report(f"threshold {threshold:.3f}", judged(made.samples, labels), made.exits.mean() / BLOCKS)
    seen = exits.sample(pipe, *others, threshold=float(levels[-1]))
    plan = np.ceil(seen.exits.mean(axis=1)).astype(int).tolist()
    api.compile("digits_deediff", weights, out / "planned", overrides=[f"sampler.exit={{after: {plan}}}"])
    planned, found = latentc_runtime.load(out / "planned", "cpu", threads=1), []
    for name, one in (("whole", pipe), ("plan", planned)):
        samples = one.sample(labels, np.arange(FRESH, FRESH + COUNT))
        accuracy = report(name, judged(samples, labels), np.mean(plan) / BLOCKS if name == "plan" else 1.0)
        found.append((accuracy, cpu_seconds(lambda one=one: one.sample(labels[:100], 0), 3)))
    print(f"plan: {plan}")
    (whole, long), (kept, short) = found
    return [
        verdict("class accuracy by the plan, of the whole network's", kept / whole, 0.97),
        verdict("digits: time of the whole network, of that by the plan", long / short, 1.2),
    ]


def report(name: str, found: Figures, share: float) -> float:
    """Prints a line; returns the class accuracy."""
    print(f"{name}: {found}, blocks run {share:.3f}", flush=True)
    return found.accuracy


def speed(out: Path) -> list[str]:
    """Processor seconds per sample of engines of a larger network, with all of its blocks and with a half."""
    sizes = ("networks.main.width=384", "networks.main.depth=12", "networks.main.block.mixer.heads=6")
    common = (*sizes, "data={kind: npz, classes: 10, shape: [4, 16, 16]}", "sampler.steps=10", *SMALL)
    plans = {"whole": "null", "half": "{after: [3, 3, 4, 4, 5, 5, 6, 8, 10, 12]}"}
    seconds = {}
    for name, plan in plans.items():
        folder = out / "full" / name
        if not folder.exists():
            random_bundle(folder, "digits_deediff", None, (*common, f"sampler.exit={plan}"))
        pipe = latentc_runtime.load(folder, "cpu", verify=False, threads=1)
        pipe.sample([0], 0)
        seconds[name] = cpu_seconds(lambda pipe=pipe: pipe.sample([1], 0), 5)
        print(f"{name}: {seconds[name]:.3f} s", flush=True)
    return [verdict("width 384: time of 12 blocks, of 6 on average", seconds["whole"] / seconds["half"], 1.6)]


if __name__ == "__main__":
    sys.exit(main())
