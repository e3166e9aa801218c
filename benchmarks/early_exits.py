"""What a denoiser loses and gains that is left early (DeeDiff): digits by uncertainty, and engines by a plan.

    python benchmarks/early_exits.py [--out out/early_exits] [--only digits|unet|speed]

Digits: trains digits_dit and from it digits_deediff, whose exits stand behind each of four blocks, if their weights
are not in the folder. 500 samples in 50 steps of DDIM without guidance are decided at run time, at thresholds that are
the 2 %, 5 % and 10 % quantiles of the first exit's uncertainty: class accuracy and Fréchet distance by the classifier
of examples/digits, and the share of the blocks that ran. The plan is the mean exit of each step at the last one, over
other samples; the engine that has it in its loop must keep the class accuracy within 3 % of the whole network's.
U-Net: 800 steps of digits_edm with exits after blocks 1, 3, 5 and 8 of 10; 200 samples in 30 Euler steps at guidance
scale 1.25, decided at run time at the 2 % and 10 % quantiles of the first exit's uncertainty, branches together and
apart.
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
UNET = (0, 1, 3, 5, 8, 10)  # blocks that run until each exit of the U-Net
SMALL = ("target.engine=openvino", "target.form=loop", "target.max_batch=1")


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/early_exits"), help="projects, weights, bundles")
    parser.add_argument("--only", choices=("digits", "unet", "speed"), help="one part of it")
    given = parser.parse_args()
    lines = digits(given.out) if given.only in (None, "digits") else []
    if given.only in (None, "unet"):
        unet(given.out)
    lines += speed(given.out) if given.only in (None, "speed") else []
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
    api.compile("digits_deediff", weights, out / "planned", overrides=[f"programs=[{{kind: exit, after: {plan}}}]"])
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


def unet(out: Path) -> None:
    """Trains a U-Net with exits; samples under guidance, decided at run time."""
    exit_network = f"networks.exits={{kind: early_exits, after: {list(UNET[1:-1])}}}"
    sampler = "sampler={kind: euler, steps: 30, guidance: {scale: 1.25}}"
    programs = "programs=[{kind: exit, dynamic: true}]"
    overrides = (exit_network, "objective.further=[early_exit]", sampler, programs)
    weights = trained("digits_edm", out / "digits-edm", overrides=overrides).weights
    if not (out / "unet").exists():
        api.compile("digits_edm", weights, out / "unet", overrides=[*overrides, "target.form=loop"])
    pipe, labels = latentc_runtime.load(out / "unet", "cpu", threads=1), np.arange(200) % 10
    seeds, blocks = np.arange(FRESH, FRESH + len(labels)), np.array(UNET)
    report("U-Net, whole", judged(pipe.sample(labels, seeds), labels), 1.0)
    first = exits.sample(pipe, labels[:100], np.arange(PLANNED, PLANNED + 100), threshold=1.0).uncertainties
    for quantile in QUANTILES[::2]:
        for apart in (False, True):
            threshold = float(np.quantile(first, quantile))
            made = exits.sample(pipe, labels, seeds, threshold=threshold, apart=apart)
            share = blocks[made.exits].sum() / blocks[-1] / np.count_nonzero(made.exits)
            name = f"U-Net, threshold {threshold:.3f}{', branches apart' if apart else ''}"
            report(name, judged(made.samples, labels), float(share))


def report(name: str, found: Figures, share: float) -> float:
    """Prints a line; returns the class accuracy."""
    print(f"{name}: {found}, blocks run {share:.3f}", flush=True)
    return found.accuracy


def speed(out: Path) -> list[str]:
    """Processor seconds per sample of engines of a larger network, with all of its blocks and with a half."""
    sizes = ("networks.main.width=384", "networks.main.depth=12", "networks.main.block.mixer.heads=6")
    common = (*sizes, "data={kind: npz, classes: 10, shape: [4, 16, 16]}", "sampler.steps=10", *SMALL)
    plans = {"whole": "[]", "half": "[{kind: exit, after: [3, 3, 4, 4, 5, 5, 6, 8, 10, 12]}]"}
    seconds = {}
    for name, plan in plans.items():
        folder = out / "full" / name
        if not folder.exists():
            random_bundle(folder, "digits_deediff", None, (*common, f"programs={plan}"))
        pipe = latentc_runtime.load(folder, "cpu", verify=False, threads=1)
        pipe.sample([0], 0)
        seconds[name] = cpu_seconds(lambda pipe=pipe: pipe.sample([1], 0), 5)
        print(f"{name}: {seconds[name]:.3f} s", flush=True)
    return [verdict("width 384: time of 12 blocks, of 6 on average", seconds["whole"] / seconds["half"], 1.6)]


if __name__ == "__main__":
    sys.exit(main())
