"""LPD-L, 256 tokens in 20 groups, against LlamaGen-L, which draws them one by one: engines, batch 1, with guidance.

    python benchmarks/lpd.py [--rounds N] [--threads N] [--set OVERRIDE …]

Random weights of the real sizes (how fast it is does not depend on them), without the decoder that makes pixels of the
tokens. Both have 24 blocks of width 1024. They take turns in one run, so the ratio holds where the seconds do not;
figures are medians. The paper claims a latency at least 3.4 × lower than that of models that draw several tokens at
once, on a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import random_bundle, turns, verdict

from latentc_runtime import load

SYSTEMS = {"lpd": "L-256", "llamagen": "L"}
GOAL = 3.4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], help="as `latentc compile` takes it, for both")
    args = parser.parse_args()
    calls: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, variant in SYSTEMS.items():
            begin = time.perf_counter()
            overrides = ["data.first_stage=null", "target.engine=openvino", *args.set]
            manifest = random_bundle(Path(folder) / name, name, variant, overrides)
            pipe = load(Path(folder) / name, threads=args.threads, verify=False)
            calls[name] = lambda pipe=pipe: pipe.sample([1], seeds=0, guidance=2.0)
            assert np.size(calls[name]()) == 256
            taken = time.perf_counter() - begin
            print(f"{name}: form {manifest.programs[0].form}, {taken:.1f} s until the first sample is done", flush=True)
        seconds = {name: statistics.median(taken) for name, taken in turns(calls, args.rounds).items()}
    for name, taken in seconds.items():
        print(f"  {name:9} {taken:.3f} s")
    print(verdict("LPD-L in 20 groups against LlamaGen-L token by token", seconds["llamagen"] / seconds["lpd"], GOAL))


if __name__ == "__main__":
    main()
