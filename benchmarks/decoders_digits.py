"""Digits of decoders that see every pixel against one as narrow as its encoder, on patches of 64 pixels.

    python benchmarks/decoders_digits.py [--only rae pixnerd deco] [--out out/decoders_digits] [--seeds 0 1 2]
                                         [--steps 1500] [--set sampler.steps=5]

A digit is one patch, and the encoder has 48 channels, so some of the noise is lost there. RAE's head of 128 channels
lets all of it through, PixNerd's and DeCo's decoders read each pixel; the narrow one is RAE's with 48. Trains a network
per seed if its weights are not in the folder; the classifier of examples/digits judges 1000 samples. The goals were
chosen before anything was trained.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from on_digits import Figures, compared, figures, trained

SPECS = {"rae": "digits_rae", "pixnerd": "digits_pixnerd", "deco": "digits_deco"}
NARROW = ("backbone.decoder_width=48",)


def measured(
    spec: str, folder: Path, seed: int, steps: int, sampling: Sequence[str], overrides: tuple[str, ...] = ()
) -> Figures:
    """Trains a spec with a seed, and judges the samples of its bundle, which `sampling` may change."""
    run = trained(spec, folder, overrides=overrides, seed=seed, steps=steps)
    found = figures(spec, run.weights, folder.with_name(f"{folder.name}-bundle"), [*overrides, *sampling])
    loss = sum(run.losses["loss"][-5:]) / 5
    print(f"{folder.name}: {run.seconds:.0f} s of a processor, loss {loss:.3f}, {found}", flush=True)
    return found


def main() -> int:
    """Runs the benchmark; 1 if a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SPECS, default=list(SPECS), help="decoders to compare")
    parser.add_argument("--out", type=Path, default=Path("out/decoders_digits"), help="folder of projects and bundles")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the trainings")
    parser.add_argument("--steps", type=int, default=1500, help="steps of each training")
    parser.add_argument("--set", nargs="+", default=[], help="overrides of the trained specs, for sampling alone")
    given = parser.parse_args()
    own: dict[str, list[Figures]] = {name: [] for name in given.only}
    narrow = []
    for seed in given.seeds:
        narrow.append(measured("digits_rae", given.out / f"narrow{seed}", seed, given.steps, given.set, NARROW))
        for name in given.only:
            own[name].append(measured(SPECS[name], given.out / f"{name}{seed}", seed, given.steps, given.set))
    missed = [compared({name: found, "narrow": narrow}, accuracy=0.9, frechet=0.8) for name, found in own.items()]
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
