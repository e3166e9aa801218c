"""The forms of a sampler's loop against each other: seconds, memory beyond the weights file, time outside the engine.

    python benchmarks/modes.py [--systems digits,dit,tokens,llamagen] [--engines onnxruntime,openvino] [--batches 1,8]
                               [--rounds N] [--threads N]

Each system is compiled with random weights of its real sizes: the digit DiT (8 steps), DiT-S/2 (8 steps), the digit
LlamaGen (64 tokens), LlamaGen-B (256 tokens, which nobody writes out). ONNX Runtime computes in fp32, OpenVINO in bf16.
Every case is a process of its own; memory is the peak of its anonymous memory less what importing the engine took, and
what `auto` takes is marked with *. Cases of one system follow each other, so compare their ratios.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import anonymous_memory, random_bundle, watched

SAMPLER = "sampler={kind: ddim, steps: 8, guidance: {scale: 4.0, channels: %d}}"
SYSTEMS: dict[str, tuple[str, str | None, list[str], tuple[str, ...]]] = {
    "digits": ("digits_dit", None, [SAMPLER % 1], ("unroll", "loop", "host")),
    "dit": ("dit", "S/2", [SAMPLER % 3], ("unroll", "loop", "host")),
    "tokens": ("digits_llamagen", None, [], ("unroll", "loop", "host")),
    "llamagen": ("llamagen", "B", [], ("loop", "host")),
}
TARGETS = {"onnxruntime": [], "openvino": ["target.engine=openvino", "target.precision=bf16"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="digits,dit,tokens,llamagen")
    parser.add_argument("--engines", default="onnxruntime,openvino")
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    print(f"{'system':9} {'engine':12} {'form':7} batch  open s  ms a step  against loop  memory MB  outside engine")
    for system in args.systems.split(","):
        name, variant, overrides, forms = SYSTEMS[system]
        for engine in args.engines.split(","):
            with tempfile.TemporaryDirectory() as folder:
                settings = [*overrides, f"target.engine={engine}", *TARGETS[engine]]
                auto = random_bundle(Path(folder, "auto"), name, variant, settings).programs[0]
                for form in forms:
                    random_bundle(Path(folder, form), name, variant, [*settings, f"target.form={form}"])
                for batch in args.batches.split(","):
                    found = {}
                    for form in forms:
                        case = [__file__, "--case", str(Path(folder, form)), batch, str(args.rounds), str(args.threads)]
                        found[form], peak = watched(case)
                        found[form]["memory"] = (peak - found[form]["before"]) / 1e6
                    for form, case in found.items():
                        mark = "*" if form == auto.form else " "
                        against = case["step"] / found["loop"]["step"]
                        print(
                            f"{system:9} {engine:12} {form + mark:7} {batch:>5}{case['open']:8.2f}{case['step']:11.2f}"
                            f" {against:12.2f} × {case['memory']:10.0f} {case['outside']:14.1%}",
                            flush=True,
                        )
            print(f"  auto: {auto.form}, {auto.why}", flush=True)


def case(folder: str, batch: int, rounds: int, threads: int) -> None:
    """One bundle in this process; prints what it took as JSON."""
    from latentc_runtime import load
    from latentc_runtime.bundle import open_bundle

    engine = open_bundle(folder, verify=False).manifest.engine
    importlib.import_module(engine)
    before = anonymous_memory(os.getpid())
    begin = time.perf_counter()
    pipe = load(folder, threads=threads, verify=False)
    pipe.sample(np.zeros(batch, np.int64), 0)
    opened = time.perf_counter() - begin
    taken, inside = [], pipe.backend.spent
    for _ in range(rounds):
        begin = time.perf_counter()
        pipe.sample(np.zeros(batch, np.int64), 0)
        taken.append(time.perf_counter() - begin)
    outside = 1 - (pipe.backend.spent - inside) / sum(taken)
    step = 1e3 * statistics.median(taken) / pipe.steps[0]
    print(json.dumps({"open": opened, "step": step, "outside": outside, "before": before}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        case(sys.argv[2], *(int(text) for text in sys.argv[3:6]))
    else:
        main()
