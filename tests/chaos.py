"""Breaks training and compiling at random moments and checks what is left: `make chaos`, or `python tests/chaos.py`.

    python tests/chaos.py --minutes 5 --seed 0

A small digits model is trained and compiled without a fault once. Then each round picks a fault: a kill (SIGKILL or
SIGTERM) at a random moment, a disk that fills up, a folder without write permission, two compiles at once. After each,
no file may be half-written; training must resume to the same bits, and the bundle must be whole or absent. Prints a
table of counts; the status is 1 if anything was broken.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from latentc_runtime import BundleError, load

SMALL = [f"--set=backbone.{size}" for size in ("width=16", "depth=2", "block.mixer.heads=2")] + [
    "--set=sampler.steps=2"
]
TRAIN = ["--batch_size", "16", "--steps", "30", "--checkpoint_every", "1", "--keep", "2", "--log_every", "10"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LATENTC_CACHE": "off"}
LATENTC = [sys.executable, "-m", "latentc"]
FILES = ("networks.safetensors", "averages.safetensors", "optimizers.safetensors")


def without_space(size: int) -> Callable[[], None]:
    """No file can become larger: what a program sees of a full disk."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def without_permission() -> None:
    """Takes from root the right to write everywhere (PR_CAPBSET_DROP of CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


class Chaos:
    """A project, an unbroken run and its bundle, and faults to compare with them; `counts` by (fault, outcome)."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random, self.number = folder, random.Random(seed), 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.broken: list[str] = []
        self.project = folder / "project"
        self.finish([*LATENTC, "emit", "digits_dit", *SMALL, "-o", str(self.project)])
        self.train_time = self.timed([*self.training(self.project / "whole")])
        self.weights = self.project / "whole" / "weights.safetensors"
        self.compile_time = self.timed(self.compiling(folder / "whole.latentc"))

    def training(self, out: Path) -> list[str]:
        return [sys.executable, "train.py", *TRAIN, "--out", str(out), "--resume", "true"]

    def compiling(self, bundle: Path) -> list[str]:
        return [*LATENTC, "compile", "digits_dit", *SMALL, "-w", str(self.weights), "-o", str(bundle), "--rebuild"]

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.project if self.project.is_dir() else self.folder,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    def finish(self, command: list[str], **options: Any) -> tuple[int, str]:
        """The status of a command and all it said."""
        process = self.start(command, **options)
        said = "".join(process.communicate(timeout=300))
        return process.returncode, said

    def timed(self, command: list[str]) -> float:
        begun = time.monotonic()
        status, said = self.finish(command)
        assert status == 0, said
        return time.monotonic() - begun

    def killed(self, command: list[str], number: signal.Signals, within: float) -> None:
        """Runs a command that a signal stops at a random moment, or that ends before."""
        process = self.start(command)
        try:
            process.wait(self.random.uniform(0, within))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        said = "".join(process.communicate(timeout=300))
        self.expect("Traceback" not in said, said)

    def expect(self, fine: bool, what: str) -> None:
        if not fine:
            self.broken.append(what)

    def fresh(self, name: str) -> Path:
        self.number += 1
        return self.folder / f"{name}{self.number}"

    # ---- training

    def kill_training(self, number: signal.Signals) -> str:
        """Kills a run, resumes and kills it again, and lets it end."""
        out = self.fresh("run")
        for _ in range(self.random.randint(1, 2)):
            self.killed(self.training(out), number, self.train_time)
            self.check_files(out)
        return self.resumed(out)

    def fill_disk_in_training(self) -> str:
        out = self.fresh("run")
        if self.random.random() < 0.5:  # some checkpoints are there already
            self.killed(self.training(out), signal.SIGTERM, self.train_time)
        size = self.random.choice([300, 20_000, 60_000])
        status, said = self.finish(self.training(out), preexec_fn=without_space(size))
        self.refused(status, said, "free some space")
        self.check_files(out)
        return self.resumed(out)

    def forbid_training(self) -> str:
        parent = self.fresh("closed")
        parent.mkdir(mode=0o555)
        status, said = self.finish(self.training(parent / "run"), preexec_fn=without_permission)
        self.refused(status, said, "Permission denied")
        parent.chmod(0o755)
        return self.resumed(parent / "run")

    def refused(self, status: int, said: str, words: str) -> None:
        self.expect(status == 1 and words in said and "Traceback" not in said, f"status {status}: {said}")

    def check_files(self, out: Path) -> None:
        """Whatever has its final name can be read whole."""
        for file in (file for file in out.rglob("*.safetensors") if "unfinished" not in str(file)):
            with safe_open(file, "np") as held:
                self.expect(len(list(held.keys())) > 0, f"{file} is empty")
        for checkpoint in out.glob("checkpoints/step-*"):
            names = {file.name for file in checkpoint.iterdir()}
            self.expect(names == {*FILES, "state.json"}, f"{checkpoint} holds {names}")
        config = out / "config.yaml"
        self.expect(not config.exists() or config.stat().st_size > 300, f"{config} is not whole")

    def resumed(self, out: Path) -> str:
        """Lets a run end; its files must have the bits of the unbroken run's."""
        status, said = self.finish(self.training(out))
        self.expect(status == 0 and "skipped" not in said, said)
        names = ["weights.safetensors", "weights_raw.safetensors"]
        names += [f"checkpoints/step-00000030/{name}" for name in FILES]
        for name in names:
            a, b = (folder / name for folder in (self.project / "whole", out))
            self.expect(b.is_file() and a.read_bytes() == b.read_bytes(), f"{b} differs from an unbroken run's")
        left = [path for path in out.rglob("*") if "unfinished" in path.name]
        self.expect(not left, f"left behind: {left}")
        shutil.rmtree(out, ignore_errors=True)
        return "resumed" if "resumed from" in said else "began anew"

    # ---- compile

    def kill_compile(self, number: signal.Signals) -> str:
        bundle = self.fresh("folder") / "b.latentc"
        bundle.parent.mkdir()
        older = self.random.random() < 0.5
        if older:
            shutil.copytree(self.folder / "whole.latentc", bundle)
        self.killed(self.compiling(bundle), number, self.compile_time)
        self.expect(bundle.exists() or not older, f"{bundle}: the older bundle is gone")
        found = self.whole_or_absent(bundle)
        self.expect(self.finish(self.compiling(bundle))[0] == 0, f"{bundle}: a second compile fails")
        self.whole_or_absent(bundle)
        self.expect([path.name for path in bundle.parent.iterdir()] == ["b.latentc"], f"{bundle.parent}: leftovers")
        shutil.rmtree(bundle.parent)
        return found

    def fill_disk_in_compile(self) -> str:
        bundle = self.fresh("folder") / "b.latentc"
        bundle.parent.mkdir()
        size = self.random.choice([1000, 10_000, 40_000])
        status, said = self.finish(self.compiling(bundle), preexec_fn=without_space(size))
        self.refused(status, said, "error[E")
        self.expect(not list(bundle.parent.iterdir()), f"{bundle.parent}: leftovers")
        return self.whole_or_absent(bundle)

    def forbid_compile(self) -> str:
        parent = self.fresh("closed")
        parent.mkdir(mode=0o555)
        status, said = self.finish(self.compiling(parent / "b.latentc"), preexec_fn=without_permission)
        self.refused(status, said, "error[E")
        return self.whole_or_absent(parent / "b.latentc")

    def compile_twice(self) -> str:
        bundle = self.fresh("folder") / "b.latentc"
        bundle.parent.mkdir()
        both = [self.start(self.compiling(bundle)) for _ in range(2)]
        said = ["".join(process.communicate(timeout=300)) for process in both]
        self.expect(0 in [process.returncode for process in both], "\n".join(said))
        self.expect(not any("Traceback" in text for text in said), "\n".join(said))
        self.expect([path.name for path in bundle.parent.iterdir()] == ["b.latentc"], f"{bundle.parent}: leftovers")
        return self.whole_or_absent(bundle)

    def whole_or_absent(self, bundle: Path) -> str:
        """A bundle that exists must open with all hashes checked, and sample."""
        if not bundle.exists():
            return "absent"
        try:
            load(bundle, verify=True).sample(classes=[3], seeds=[0])
        except BundleError as error:
            self.expect(False, f"{bundle}: {error}")
        return "whole"

    def faults(self) -> dict[str, Callable[[], str]]:
        """Every fault by name: a function that causes it, checks what is left, and returns the outcome."""
        return {
            "SIGKILL while training": lambda: self.kill_training(signal.SIGKILL),
            "SIGTERM while training": lambda: self.kill_training(signal.SIGTERM),
            "full disk while training": self.fill_disk_in_training,
            "no permission to train": self.forbid_training,
            "SIGKILL while compiling": lambda: self.kill_compile(signal.SIGKILL),
            "SIGTERM while compiling": lambda: self.kill_compile(signal.SIGTERM),
            "full disk while compiling": self.fill_disk_in_compile,
            "no permission to compile": self.forbid_compile,
            "two compiles into one folder": self.compile_twice,
        }

    def cause(self, fault: str) -> None:
        self.counts[fault, self.faults()[fault]()] += 1

    def table(self) -> str:
        """Markdown: how often each fault was caused and what was left."""
        lines = ["| fault | times | what was left |", "|---|---|---|"]
        for fault in self.faults():
            found = {outcome: n for (name, outcome), n in self.counts.items() if name == fault}
            left = ", ".join(f"{outcome} {n}" for outcome, n in sorted(found.items()))
            lines.append(f"| {fault} | {sum(found.values())} | {left} |")
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    end = time.monotonic() + 60 * flags.minutes
    with tempfile.TemporaryDirectory(prefix="latentc-chaos-") as folder:
        chaos = Chaos(Path(folder), flags.seed)
        while time.monotonic() < end:
            for fault in chaos.faults():
                chaos.cause(fault)
        print(chaos.table())
    for what in chaos.broken:
        print(f"broken: {what}")
    print(f"{sum(chaos.counts.values())} faults, {len(chaos.broken)} broken promises")
    sys.exit(bool(chaos.broken))


if __name__ == "__main__":
    main()
