"""Reconstructs an average of the weights from those stored by train.py (post-hoc EMA).

python -m latentc_support.reconstruct --sigma-rel 0.13                        # over all steps
python -m latentc_support.reconstruct --sigma-rel 0.2 --step 65536 --out early.safetensors
"""

from . import plain_errors  # noqa: F401

# isort: split

import argparse
from functools import partial
from pathlib import Path

from .ema import reconstructed
from .storage import save_tensors, write_whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--sigma-rel", type=float, required=True, help="width of the average, over the steps")
    parser.add_argument("--step", type=int, help="the last step it covers, one of those stored; default: the last")
    parser.add_argument("--snapshots", type=Path, default=Path("runs/train/snapshots"), help="the stored averages")
    parser.add_argument("--out", type=Path, default=Path("reconstructed.safetensors"), help="the file to write")
    given = parser.parse_args()
    if not 0 < given.sigma_rel <= 0.25:
        raise SystemExit(f"--sigma-rel: {given.sigma_rel} is not between 0 and 0.25")
    weights = reconstructed(given.snapshots, given.sigma_rel, given.step)
    write_whole(given.out, partial(save_tensors, weights))
    print(f"weights: {given.out}")


if __name__ == "__main__":
    main()
