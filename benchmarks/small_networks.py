"""What samplers gain that leave some of the work to a small network: FlowTurbo and T-Stitch.

    python benchmarks/small_networks.py [--out out/small_networks] [--only digits|speed]

Quality on digits: class accuracy and Fréchet distance (the classifier of examples/digits, 1000 samples) of the digit
SiT by Heun's method and by FlowTurbo, whose refiner of one block is trained for it. Speed at full width: engines of
SiT-XL/2 and its refiner, and of DiT-XL/2 with DiT-S/2 for the first 40 % of the steps, for latents of 16 × 16 and with
random weights, OpenVINO, batch 1 with guidance; processor seconds of one thread, so that other work does not count. An
engine needs 7 GB of memory at a time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from common import cpu_seconds, random_bundle, verdict
from distil_digits import trained
from reduce_digits import METRICS

import latentc_runtime
from latentc import api

COUNT, FRESH = 1000, 11_000_000
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
    given = parser.parse_args()
    lines = [] if given.only == "speed" else quality(given.out)
    lines += [] if given.only == "digits" else speed(given.out)
    print("\n".join(lines))
    return int(any("MISSED" in line for line in lines))


def quality(out: Path) -> list[str]:
    """Trains both networks where they are not there yet, and judges the samplers."""
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged

    # Projects lie side by side, as the refiner's starts from the other's weights.
    main_weights = trained("digits_sit", out / "digits-sit", None)
    refiner = trained("digits_flowturbo", out / "digits-flowturbo", None)
    labels, figures = np.arange(COUNT) % 10, {}
    for name, (spec, overrides) in SAMPLERS.items():
        files = main_weights if spec == "digits_sit" else refiner
        folder = out / "bundles" / name.split(" (")[0].replace(" ", "_").replace(",", "")
        api.compile(spec, files, folder, overrides=overrides)
        samples = latentc_runtime.load(folder, "cpu").sample(labels, np.arange(FRESH, FRESH + COUNT))
        found = judged(samples, labels)
        figures[name] = found["accuracy"][0], found["frechet"]
        print(f"{name}: accuracy {figures[name][0]:.4f}, Fréchet distance {figures[name][1]:.4f}")
    heun, turbo = (figures[name] for name in list(SAMPLERS)[1:4:2])
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
