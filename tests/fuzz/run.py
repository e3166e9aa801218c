"""Runs cases of a fuzzer in processes of their own, which a time and a memory limit end: `make fuzz N=20000`."""

from __future__ import annotations

import argparse
import collections
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

SLOWEST = 20  # seconds of processor time that a case may take, if its fuzzer sets no limit of its own
FUZZERS = ("specs", "crossed", "files", "twins", "data", "end_to_end")  # the last takes seconds per case
MEMORY = 6 << 30  # bytes of address space beyond what a process has once everything is imported


def case(fuzzer: str, seed: int) -> tuple[int, str, float]:
    """(seed, outcome, seconds); an outcome that begins with `FAILED` is a finding."""
    begun = time.perf_counter()
    module = importlib.import_module(fuzzer)
    # Of processor time, which does not depend on what else the machine does.
    signal.signal(signal.SIGPROF, _too_slow)
    signal.setitimer(signal.ITIMER_PROF, slowest(fuzzer))
    try:
        outcome = module.run(seed)
        if Path("pwned").exists():
            outcome = "FAILED: code of the input was executed"
    except BaseException:
        outcome = "FAILED: " + traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return seed, outcome, time.perf_counter() - begun


def slowest(fuzzer: str) -> int:
    """Seconds of processor time that a case of a fuzzer may take."""
    return int(getattr(importlib.import_module(fuzzer), "SLOWEST", SLOWEST))


def _too_slow(*_: Any) -> None:
    raise TimeoutError("the case takes too long")


def _prepare(fuzzer: str, folder: str) -> None:
    os.chdir(folder)
    importlib.import_module(fuzzer)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def fuzz(fuzzer: str, seeds: range, seconds: float, workers: int = 2) -> tuple[dict[str, list[int]], list[str]]:
    """Runs cases until there are no more, or the time is over: (seeds of each outcome, findings)."""
    outcomes: dict[str, list[int]] = collections.defaultdict(list)
    findings: list[str] = []
    end = time.perf_counter() + seconds
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crossed"])  # imports most of latentc, once for all processes
    with tempfile.TemporaryDirectory() as folder, context.Pool(workers, _prepare, (fuzzer, folder)) as pool:
        waiting = iter(seeds)
        running = [pool.apply_async(case, (fuzzer, seed)) for _, seed in zip(range(2 * workers), waiting, strict=False)]
        while running:
            seed, outcome, took = running.pop(0).get(timeout=60 * slowest(fuzzer))
            outcomes[outcome if not outcome.startswith("FAILED") else "FAILED"].append(seed)
            if outcome.startswith("FAILED"):
                findings.append(f"{fuzzer} seed {seed} ({took:.1f} s): {outcome}")
                print(findings[-1], file=sys.stderr, flush=True)  # long runs are read while they go on
            if (done := sum(map(len, outcomes.values()))) % 500 == 0:
                print(f"{fuzzer}: {done} cases, {len(findings)} findings", file=sys.stderr, flush=True)
            if time.perf_counter() < end and (seed := next(waiting, -1)) >= 0:
                running.append(pool.apply_async(case, (fuzzer, seed)))
    return outcomes, findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fuzzers", nargs="*", default=FUZZERS[:-1], help=", ".join(FUZZERS))
    parser.add_argument("--count", type=int, default=2000, help="cases of each")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--seed", type=int, default=int(time.time()) * 100_000, help="of the first case")
    flags = parser.parse_args()
    failed = False
    for fuzzer in flags.fuzzers:
        outcomes, findings = fuzz(fuzzer, range(flags.seed, flags.seed + flags.count), float("inf"), flags.workers)
        done = sum(map(len, outcomes.values()))
        print(f"{fuzzer}: {done} cases from seed {flags.seed}, {len(findings)} findings")
        for outcome, found in sorted(outcomes.items(), key=lambda item: -len(item[1]))[:30]:
            print(f"  {len(found):7}  {outcome} (the first: seed {found[0]})")
        failed |= bool(findings)
    sys.exit(failed)


if __name__ == "__main__":
    main()
