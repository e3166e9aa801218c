"""Users that sample from a server of 127.0.0.1 at once, every answer compared with direct sampling.

    python benchmarks/serve_load.py [--bundle FOLDER] [--users 64] [--seconds 120] [--batch 16] [--compare]

Goals: no wrong sample, and memory that does not grow after the first quarter. A user asks for one to four samples of
random classes, seeds, guidance and steps, waits for the answer, and asks again; if the queue is full, after the time
that the server says. `--compare` also serves without batching (`--batch 1`) for a quarter of the time. Without a bundle
the digit DiT is compiled with random weights.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import latentc_runtime

SAME = 1e-4
"""Largest difference of a value in [-1, 1] from direct sampling: a batch of another size sums in another order."""


@dataclass(frozen=True)
class Case:
    """A request and what direct sampling gives for it."""

    request: dict[str, Any]
    samples: np.ndarray


@dataclass
class Load:
    """What the users saw. seconds: of each answered request. largest: difference from direct sampling.

    exact: answers equal to the last bit. memory: (time, bytes) of the server.
    """

    seconds: list[float] = field(default_factory=list)
    samples: int = 0
    exact: int = 0
    wrong: int = 0
    largest: float = 0.0
    refused: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)
    wall: float = 0.0
    batch: float = 0.0

    def growth(self) -> float:
        """Peak memory of the last quarter over that of the second, as a ratio."""
        at = [t / self.wall for t, _ in self.memory]
        second = [m for t, (_, m) in zip(at, self.memory, strict=True) if 0.25 <= t < 0.5]
        last = [m for t, (_, m) in zip(at, self.memory, strict=True) if t >= 0.75]
        return max(last) / max(second)

    def text(self) -> str:
        """One line of figures."""
        p50, p95, p99 = np.percentile(self.seconds, [50, 95, 99])
        shown = (
            f"{len(self.seconds)} answers, {self.samples / self.wall:.1f} samples/s, {self.batch:.1f} per engine call"
        )
        times = f"p50 {p50:.2f} s, p95 {p95:.2f} s, p99 {p99:.2f} s, longest {max(self.seconds):.2f} s"
        same = f"{self.wrong} wrong, {self.exact} equal to the bit, largest difference {self.largest:.1g}"
        return f"{shown}; {times}; {same}; {self.refused} refusals"


def cases_of(bundle: Path, count: int, seed: int = 0) -> list[Case]:
    """Requests of one to four samples, and their samples by direct sampling."""
    pipe = latentc_runtime.load(bundle, "cpu")
    rng = np.random.default_rng(seed)
    cases = []
    for _ in range(count):
        size = int(rng.integers(1, 5))
        request = {
            "classes": rng.integers(0, 10, size).tolist(),
            "seeds": rng.integers(0, 1 << 53, size).tolist(),
            "guidance": round(float(rng.uniform(0, 4)), 3),
            "steps": int(rng.choice(pipe.steps)),
        }
        cases.append(Case(request, pipe.sample(**request)))
    return cases


@contextlib.contextmanager
def server(bundle: Path, *options: object) -> Iterator[tuple[str, int]]:
    """The address of a server process of its own, and its id."""
    line = [sys.executable, "-m", "latentc_runtime.serve", f"model={bundle}", "--port", "0", *map(str, options)]
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert child.stdout is not None
            yield child.stdout.readline().split()[-1], child.pid
        finally:
            child.terminate()
            child.wait(60)


async def load(address: str, pid: int, cases: Sequence[Case], users: int, seconds: float) -> Load:
    """Let users ask for `seconds`."""
    found = Load()
    limits = httpx.Limits(max_connections=users + 1, max_keepalive_connections=users + 1)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    break
            await asyncio.sleep(0.05)
        begin = time.monotonic()
        watching = asyncio.create_task(_watch(found, pid, begin))
        await asyncio.gather(*(_user(client, found, cases, number, begin + seconds) for number in range(users)))
        found.wall = time.monotonic() - begin
        watching.cancel()
        metrics = dict(
            line.rsplit(" ", 1) for line in (await client.get("/metrics")).text.splitlines() if line[0] != "#"
        )
        name = 'latentc_batch_samples_{}{{model="model"}}'
        found.batch = float(metrics[name.format("sum")]) / float(metrics[name.format("count")])
    return found


async def _user(client: httpx.AsyncClient, found: Load, cases: Sequence[Case], number: int, until: float) -> None:
    rng = np.random.default_rng(number)
    while time.monotonic() < until:
        case = cases[int(rng.integers(len(cases)))]
        begin = time.monotonic()
        answer = await client.post("/v1/models/model/sample", json={**case.request, "format": "npz"})
        if answer.status_code == 429:
            found.refused += 1
            await asyncio.sleep(float(answer.headers["retry-after"]))
            continue
        answer.raise_for_status()
        found.seconds.append(time.monotonic() - begin)
        samples = np.load(io.BytesIO(answer.content))["samples"]
        difference = np.inf if samples.shape != case.samples.shape else float(np.abs(samples - case.samples).max())
        found.samples += len(samples)
        found.exact += difference == 0
        found.wrong += not difference <= SAME
        found.largest = max(found.largest, difference)


async def _watch(found: Load, pid: int, begin: float) -> None:
    while True:
        found.memory.append((time.monotonic() - begin, _resident(pid)))
        await asyncio.sleep(0.2)


def _resident(pid: int) -> int:
    """Bytes of memory of a process (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--compare", action="store_true")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if (bundle := flags.bundle) is None:
            from digits_engine import compiled

            bundle = compiled(Path(name, "bundle"))
        cases = cases_of(bundle, 256)
        runs = [(flags.batch, flags.seconds), *([(1, flags.seconds / 4)] if flags.compare else [])]
        rates = []
        for batch, seconds in runs:
            with server(bundle, "--batch", batch) as (address, pid):
                found = asyncio.run(load(address, pid, cases, flags.users, seconds))
            rates.append(found.samples / found.wall)
            print(f"{flags.users} users, {found.wall:.0f} s, batch {batch}: {found.text()}")
            peak = max(memory for _, memory in found.memory) / 1e6
            print(f"memory {found.memory[0][1] / 1e6:.0f} MB at the start, at most {peak:.0f} MB")
            print(json.dumps({"wrong": found.wrong, "growth": round(found.growth(), 3)}))
            assert found.wrong == 0
    if flags.compare:
        print(f"batching against one sample per call: {rates[0] / rates[1]:.2f} ×")


if __name__ == "__main__":
    main()
