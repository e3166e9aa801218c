"""Flows of equal depth against a deep flow behind shallow ones, and guidance of scale and shift against guidance of
densities: TarFlow and STARFlow on the digits, each with eight blocks of the same width.

    python benchmarks/flows_digits.py [--out out/flows_digits]

Trains both if their weights are not in the folder, compiles their samplers at three guidance scales under both rules,
and has the classifier of examples/digits judge 1000 samples of each. Takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from distil_digits import FIRST, trained
from reduce_digits import METRICS

import latentc_runtime
from latentc import api

SAMPLES = 1000
SCALES = (1.5, 3.0, 6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/flows_digits"), help="folder of projects and bundles")
    arguments = parser.parse_args()
    sys.path.insert(0, str(METRICS.parent))
    from metrics import judged

    labels = np.arange(SAMPLES) % 10
    for spec in ("digits_tarflow", "digits_starflow"):
        weights = trained(spec, arguments.out / spec / "project", None)
        for rule in ("linear", "density"):
            bundle = arguments.out / spec / rule
            sizes = [f"backbone.guidance={rule}", "sampler.annealed=false"]
            if not bundle.exists():
                api.compile(spec, weights, bundle, overrides=sizes)
            pipe = latentc_runtime.load(bundle, "cpu")
            for scale in SCALES:
                found = judged(pipe.sample(labels, np.arange(FIRST, FIRST + SAMPLES), guidance=scale), labels)
                print(
                    f"{spec}, {rule} guidance at {scale}: accuracy {found['accuracy'][0]:.4f}, "
                    f"Fréchet distance {found['frechet']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
