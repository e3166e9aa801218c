"""Measures everything that needs a GPU, what is most worth knowing first (make gpu).

    python benchmarks/gpu.py [--out out/gpu] [--only STEP,…] [--minutes 45] [--again] [--stand-in]

Each step runs in a process of its own for at most eight minutes and leaves OUT/STEP.json and OUT/STEP.log; a step whose
result is there is not run again (`--again` does), so a second call goes on where the first was cut off. At the end
OUT/report.md shows all results. `--stand-in` runs every step with tiny systems on the CPU, which shows that the script
works and measures nothing. `--only plans` builds the plans that the other steps need, for which TensorRT-RTX needs no
GPU. docs/gpu.md says what to install.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STEP_MINUTES = 8
LEAST_MINUTES = 1  # a step is not begun with less time left
STEPS = ("tests", "forward", "samplers", "tokens", "systems", "quantised", "training")
WITHOUT_GPU = "plans"  # builds the plans of the other steps; only if asked for
UNITS = {
    "count": ("tests", str),
    "seconds": ("ms", lambda v: f"{1e3 * v:.3g}"),
    "share": ("of the product rate", lambda v: f"{v:.0%}"),
    "samples_per_second": ("samples/s", lambda v: f"{v:.4g}"),
    "tokens_per_second": ("tokens/s", lambda v: f"{v:.4g}"),
    "plans": ("plans", str),
    "fused": ("fused attentions", str),
    "error": ("error", lambda v: f"{v:.1e}"),
    "peak": ("peak GB", lambda v: f"{v / 1e9:.2f}"),
    "first": ("first s", lambda v: f"{v:.1f}"),
}
"""{figure: (heading, how it is written)}; `seconds` is shown as ms."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"))
    parser.add_argument("--only", help="steps, separated by commas")
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--stand-in", action="store_true")
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else list(STEPS)
    if unknown := [step for step in chosen if step not in (*STEPS, WITHOUT_GPU)]:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * args.minutes
    states = {}
    for step in chosen:
        states[step] = run(step, args.out, end, args.again, args.stand_in)
        print(f"{step}: {states[step]}", flush=True)
    text = report(args.out)
    (args.out / "report.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\n{args.out / 'report.md'}")
    return 0 if all(state in ("done", "was there") for state in states.values()) else 1


def run(step: str, out: Path, end: float, again: bool, stand_in: bool) -> str:
    """Runs a step unless its result is there or time is short; returns what became of it."""
    result = out / f"{step}.json"
    if result.exists() and not again:
        return "was there"
    left = min(60 * STEP_MINUTES, end - time.monotonic())
    if left < 60 * LEAST_MINUTES:
        return "left for the next call: the time is up"
    command = [sys.executable, str(Path(__file__).with_name("gpu_steps.py")), step, str(result)]
    result.unlink(missing_ok=True)
    with (out / f"{step}.log").open("w", encoding="utf-8") as log:
        try:
            done = subprocess.run(
                [*command, *(["--stand-in"] if stand_in else [])], stdout=log, stderr=subprocess.STDOUT, timeout=left
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {left:.0f} s; see {log.name}"
    return "done" if done.returncode == 0 else f"failed; see {log.name}"


def report(out: Path) -> str:
    """The results in a folder as Markdown: a table per case, a row per path."""
    found = [
        json.loads(file.read_text(encoding="utf-8"))
        for step in (*STEPS, WITHOUT_GPU)
        if (file := out / f"{step}.json").exists()
    ]
    lines = ["# Measured on the GPU", ""]
    machines = list(
        dict.fromkeys(
            ", ".join(v if k == "name" else f"{k} {v}" for k, v in result["machine"].items()) for result in found
        )
    )
    lines += [*machines, ""]
    for result in found:
        lines += [f"## {result['step']} ({result['wall']:.0f} s)", ""]
        lines += [f"Not measured, {what}: {why}" for what, why in result["missing"].items()]
        lines += [""] * bool(result["missing"])
        for case, paths in result["cases"].items():
            lines += [*table(case, paths), ""]
    return "\n".join(lines)


def _described(machine: dict[str, str]) -> str:
    """The GPU's name, then versions."""
    return ", ".join(value if key == "name" else f"{key} {value}" for key, value in machine.items())


def table(case: str, paths: dict[str, dict[str, Any]]) -> list[str]:
    """One case: its paths' figures, and of those that failed why."""
    columns = [name for name in UNITS if any(name in values for values in paths.values())]
    rows = [f"| {case} | {' | '.join(UNITS[name][0] for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for path, values in paths.items():
        if why := values.get("failed"):
            rows.append(f"| {path} | failed: {why.replace('|', '/')} |" + " |" * (len(columns) - 1))
        else:
            shown = (UNITS[name][1](values[name]) if name in values else "" for name in columns)
            rows.append(f"| {path} | {' | '.join(shown)} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
