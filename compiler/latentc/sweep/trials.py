"""A trial: one combination of settings, trained, compiled and judged in a process of its own.

What a trial is made from names its folder, so a sweep that is run again, with more values or after an interruption,
finds finished trials and trainings. Trials that differ only in what follows training share one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from latentc.diagnostics.faults import INTERRUPTED
from latentc.sweep.axes import AFTER_TRAINING
from latentc_runtime.codec import decode, encode, parse
from latentc_runtime.hashes import write_whole

MODULE = "latentc.api.sweep_trial"
RESULT, LOG = "result.json", "log.txt"
DONE, DIVERGED, MEMORY, REFUSED, FAILED = "done", "diverged", "out of memory", "refused", "failed"


@dataclass(frozen=True)
class Judging:
    """How samples are judged, as `latentc evaluate` takes it; the first of `metrics` ranks trials."""

    metrics: tuple[str, ...] = ("fd",)
    features: tuple[str, ...] = ()
    reference: str | None = None
    count: int | None = None
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class Job:
    """All that a trial's process needs; folders are absolute.

    `source`: a spec, `overrides` its settings. `training`: those that training depends on, and the folder of the
    project, which other trials may share. `components`: packages of the user.
    """

    source: str
    overrides: tuple[str, ...]
    training_overrides: tuple[str, ...]
    training: str
    folder: str
    judging: Judging
    components: tuple[str, ...]

    @property
    def weights(self) -> Path:
        return Path(self.training, "runs", "train", "weights.safetensors")

    def text(self) -> str:
        return json.dumps(encode(self), indent=1)

    @staticmethod
    def from_text(text: str) -> Job:
        return decode(Job, parse(text.encode()))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial: figures by name if it is `done`, else why there are none."""

    status: str
    figures: dict[str, float]
    message: str = ""
    seconds: float = 0.0

    def write(self, folder: Path) -> None:
        write_whole(folder / RESULT, json.dumps(encode(self)).encode())


def job_of(
    root: Path,
    source: str,
    text: str,
    fixed: Sequence[str],
    chosen: Mapping[str, str],
    judging: Judging,
    components: Sequence[str],
    always_train: bool,
) -> Job:
    """The job of a combination `chosen`. `text` is the spec with all defaults, which the folders' names depend on.

    `always_train`: training depends on every setting, as it draws samples itself.
    """
    own = {path: f"{path}={value}" for path, value in chosen.items()}
    trains = {p: t for p, t in own.items() if always_train or p.partition(".")[0] not in AFTER_TRAINING}
    overrides, training = (*fixed, *own.values()), (*fixed, *trains.values())
    names = (_name(chosen, f"{text}{overrides}{judging}"), _name({p: chosen[p] for p in trains}, f"{text}{training}"))
    folders = (str(root / "trainings" / names[1]), str(root / "trials" / names[0]))
    return Job(source, overrides, training, *folders, judging, tuple(components))


def _name(chosen: Mapping[str, str], text: str) -> str:
    """A folder's name for people, and a hash for what it does not say."""
    words = ",".join(f"{path.rpartition('.')[2]}={value}" for path, value in chosen.items())
    words = re.sub(r"[^A-Za-z0-9.=,_+-]+", "_", words)[:60]
    return f"{words or 'spec'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def outcome_in(folder: Path) -> Outcome | None:
    """The outcome of a finished trial; None if it has not finished."""
    try:
        return decode(Outcome, parse((folder / RESULT).read_bytes()))
    except (OSError, ValueError):
        return None


def run_trial(text: str, environment: Mapping[str, str], stop: threading.Event | None = None) -> None:
    """Runs the trial of a job's text in a process that writes its outcome; what it prints goes to the trial's log.

    An interruption, or `stop`, is passed on once, so that training saves a checkpoint; then there is no outcome.
    """
    folder, stop = Path(Job.from_text(text).folder), stop or threading.Event()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # the terminal's Ctrl-C would reach training a second time
        )
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(text.encode())
            while process.poll() is None and not stop.wait(0.1):
                pass
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait()
    if outcome_in(folder) is None and not stop.is_set() and process.returncode != INTERRUPTED:
        killed = process.returncode == -signal.SIGKILL
        how = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
        why = ", as the system sends it when memory runs out" if killed else f"; see {folder / LOG}"
        Outcome(MEMORY if killed else FAILED, {}, f"its process ended with {how}{why}").write(folder)
