"""What samplers gain that leave some of the work to a small network: FlowTurbo and T-Stitch.

    python benchmarks/small_networks.py [--out out/small_networks] [--only digits|speed] [--seeds 0 1 2]

Quality on digits: class accuracy and Fréchet distance (the classifier of examples/digits, 1000 samples) of the digit
SiT by Heun's method and by FlowTurbo, whose refiner of one block is trained for it, with every seed. Speed at full
width: engines of SiT-XL/2 and its refiner, and of DiT-XL/2 with DiT-S/2 for the first 40 % of the steps, for latents of
16 × 16 and with random weights, OpenVINO, batch 1 with guidance; processor seconds of one thread, so that other work
does not count. An engine needs 7 GB of memory at a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import cpu_seconds, random_bundle, verdict
from on_digits import Figures, figures, of_seed, spread, trained

import latentc_runtime

COUNT, FRESH = 1000, 11_000_000
SPECS = ("digits_sit", "digits_flowturbo")
SAMPLERS = {
    "heun 25 steps (50 evaluations)": ("digits_sit", ("sampler.steps=25",)),
    "heun 9 steps (18)": ("digits_sit", ("sampler.steps=9",)),
    "heun 5 steps (10)": ("digits_sit", ("sampler.steps=5",)),
    "flowturbo 1, 5, 3 (7, and 6 of the refiner)": ("digits_flowturbo", ()),
    "flowturbo 2, 4, 3 (8, and 6)": ("digits_flowturbo", ("sampler.heun=2", "sampler.pseudo=4")),
}
ENGINE = ("target.engine=openvino", "target.form=loop", "target.max_batch=1", "data.shape=[4, 16, 16]")
FULL = {
    "heun 9 steps": ("sit", ("sampler.steps=9",)),
    "flowturbo 1, 5, 3": ("flowturbo", ()),
    "dit 10 steps": ("dit", ("sampler={kind: ddim, steps: 10, guidance: {scale: 1.5, channels: 3}}",)),
    "t-stitch 4 of 10 steps": ("t_stitch", ("sampler.steps=10",)),
}


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/small_networks"), help="projects, weights, bundles")
    parser.add_argument("--only", choices=("digits", "speed"), help="one half of it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the trainings")
    given = parser.parse_args()
    lines = [] if given.only == "speed" else quality(given.out, given.seeds)
    lines += [] if given.only == "digits" else speed(given.out)
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def quality(out: Path, seeds: Sequence[int]) -> list[str]:
    """Trains both networks where they are not there yet, and judges the samplers."""
    found: dict[str, list[Figures]] = {name: [] for name in SAMPLERS}
    for seed in seeds:
        weights: dict[str, Path] = {}
        main: dict[str, Path] = {}
        for spec in SPECS:  # the second has the first's network as its `main`
            weights[spec] = trained(spec, of_seed(out, spec, seed), main, seed=seed).weights
            main = {"main": weights[spec]}
        for name, (spec, overrides) in SAMPLERS.items():
            bundle = out / f"seed{seed}" / name.split(" (")[0].replace(" ", "_").replace(",", "")
            found[name].append(figures(spec, weights[spec], bundle, overrides, COUNT, FRESH))
    for name, each in found.items():
        accuracy, distance = (spread(f[i] for f in each) for i in (0, 1))
        print(f"{name}: accuracy {accuracy}, Fréchet distance {distance}", flush=True)
    heun, turbo = (np.mean(found[name], axis=0) for name in list(SAMPLERS)[1:4:2])
    return [
        verdict("class accuracy of FlowTurbo, of Heun's in as many steps", turbo[0] / heun[0], 0.98),
        verdict("Fréchet distance of FlowTurbo, of Heun's in as many steps", turbo[1] / heun[1], 1.1, least=False),
    ]


def speed(out: Path) -> list[str]:
    """Processor seconds per sample of engines of the published sizes, one after the other."""
    seconds = {}
    for name, (spec, overrides) in FULL.items():
        folder = out / "full" / name.replace(" ", "_").replace(",", "")
        if not folder.exists():
            random_bundle(folder, spec, "XL/2" if spec == "dit" else None, (*overrides, *ENGINE))
        pipe = latentc_runtime.load(folder, "cpu", verify=False, threads=1)
        pipe.sample([0], 0)
        seconds[name] = cpu_seconds(lambda pipe=pipe: pipe.sample([1], 0), 2)
        print(f"{name}: {seconds[name]:.2f} s", flush=True)
    heun, turbo, large, stitched = seconds.values()
    return [
        verdict("FlowTurbo, against Heun's method in as many steps", heun / turbo, 1.5),
        verdict("T-Stitch of 40 % of the steps, against DiT-XL/2 alone", large / stitched, 1.3),
    ]


if __name__ == "__main__":
    sys.exit(main())
