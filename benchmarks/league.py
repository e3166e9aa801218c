"""The league of docs/league.md: every system of `latentc league` on Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python benchmarks/league.py --budget 5m --seeds 1 --int8

The data are 60,000 images of 28 × 28 pixels (Xiao et al. 2017, arXiv:1708.07747). Run again, it goes on; `--only` takes
names of systems.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package
HEADS = {"images": 16, "labels": 8}  # bytes before the values


def values(name: str) -> np.ndarray:
    """The bytes of one of the data set's files."""
    kind = name.split("-")[1]
    with gzip.open(FOLDER / f"{name}.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=HEADS[kind])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/league"))
    parser.add_argument("--only", metavar="NAME,NAME")
    parser.add_argument("--budget", default="5m")
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--count", default="1000")
    parser.add_argument("--int8", action="store_true")
    given = parser.parse_args()
    if not FOLDER.is_dir():
        sys.exit("Fashion-MNIST is not there: apt-get install dataset-fashion-mnist")
    data = given.out.with_name("fashion-mnist.npz")
    if not data.is_file():
        data.parent.mkdir(parents=True, exist_ok=True)
        pictures = values("train-images-idx3-ubyte").reshape(-1, 28, 28, 1)
        labels = values("train-labels-idx1-ubyte").astype(np.int64)
        np.savez_compressed(data, images=pictures, labels=labels)
    words = [str(data), "-o", str(given.out), "--budget", given.budget, "--seeds", given.seeds, "--count", given.count]
    words += ["--systems", given.only] if given.only else []
    sys.exit(subprocess.call([sys.executable, "-m", "latentc", "league", *words, *["--int8"] * given.int8]))


if __name__ == "__main__":
    main()
