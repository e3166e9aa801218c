"""The process of one trial of a sweep; `latentc.sweep.trials` starts it with the job on standard input.

It is a process of its own because training may exhaust memory or crash. Its output is the trial's log.
"""

from __future__ import annotations

import math
import signal
import sys
import tempfile
import time
from pathlib import Path

from latentc import api
from latentc.diagnostics import Diagnostic, render
from latentc.diagnostics.faults import INTERRUPTED, exit_status
from latentc.sweep.trials import DIVERGED, DONE, FAILED, LOG, MEMORY, REFUSED, Job, Outcome

OF_SPECS = ("E01", "E02", "E03")  # how codes of mistakes in specs begin


def main() -> None:
    """Run the job on standard input and write its outcome; none if it is interrupted."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a script
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    job = Job.from_text(sys.stdin.read())
    begun = time.monotonic()
    try:
        figures = judged(job)
    except BaseException as error:
        status, diagnostics = exit_status(error, debug=False)
        if status == INTERRUPTED:
            sys.exit(INTERRUPTED)
        found, message = fault_of(diagnostics[0], Path(job.folder, LOG))
        sys.stderr.write(render(diagnostics))
        Outcome(found, {}, message, time.monotonic() - begun).write(Path(job.folder))
        return
    outcome = Outcome(DONE, figures, "", time.monotonic() - begun)
    if not all(map(math.isfinite, figures.values())):
        outcome = Outcome(DIVERGED, {}, "figures of the samples are not finite", outcome.seconds)
    outcome.write(Path(job.folder))


def judged(job: Job) -> dict[str, float]:
    """Trains unless another trial has, compiles, and judges samples. DiagnosticError."""
    from latentc.engines import ENGINES
    from latentc.export.folder import locked
    from latentc.spec import load_spec

    for folder in job.components:
        api.use_components(folder)
    engine = ENGINES[load_spec(job.source, None, job.overrides).target.engine]
    training, judging = Path(job.training), job.judging
    lock = training.with_name(f".{training.name}")
    lock.mkdir(parents=True, exist_ok=True)
    with locked(lock, wait=True):
        if not job.weights.is_file():
            api.train(job.source, training, ["--resume", "true"], None, job.training_overrides)
    with tempfile.TemporaryDirectory(prefix="latentc-") as temporary:
        bundle = Path(temporary, "bundle")
        by_reference = engine.plans is None  # plans hold their weights
        given = {"by_reference": by_reference, "force": True, "run": False}
        api.compile(job.source, job.weights, bundle, None, job.overrides, **given)  # type: ignore[arg-type]
        print("compiled", flush=True)
        found = api.evaluate(
            bundle,
            judging.reference,
            judging.metrics,
            judging.features,
            count=judging.count,
            seed=judging.seed,
            device=judging.device,
            output=Path(job.folder, "report"),
        )
    print(found.text(), flush=True)
    return dict(found.runs[0].result.figures)


def fault_of(diagnostic: Diagnostic, log: Path) -> tuple[str, str]:
    """The status of a trial that ended with a diagnostic, and why; of training its last line says it."""
    message = diagnostic.message
    if diagnostic.code == "E0705":
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
        message = next((line.strip() for line in reversed(lines) if line.strip()), message)
    words = message.lower()
    if diagnostic.code == "E0710" or "out of memory" in words or "outofmemory" in words or "signal 9" in words:
        return MEMORY, message
    if "not finite" in words or ("loss is" in words and ("nan" in words or "inf" in words)):
        return DIVERGED, message
    return (REFUSED if diagnostic.code.startswith(OF_SPECS) else FAILED), f"{message} [{diagnostic.code}]"


if __name__ == "__main__":
    main()
