"""Compiles a quantised spec: calibrate, choose the layers, build, measure, and keep or refuse the bundle."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from latentc.checkpoint import network_weights
from latentc.components.contract import Lowered
from latentc.diagnostics import DiagnosticError
from latentc.export.bundle import bundle_from_lowered
from latentc.files.named import write_text
from latentc.measure.first_run import check_runs
from latentc.measure.tables import csv_text, finite
from latentc.pipeline import optimised
from latentc.quantize.calibrate import calibrate
from latentc.quantize.calibration import Calibration, check_fits, read_calibration, write_calibration
from latentc.quantize.gate import gate_of
from latentc.quantize.judge import REFERENCE, Verdict, measured, refusal
from latentc.quantize.model import Model
from latentc.quantize.plan import Choice, choice
from latentc.quantize.precision import check_range
from latentc.quantize.report import page_of, rows_of
from latentc.quantize.trajectories import recorded
from latentc.spec import Spec
from latentc.weights import Expr, by_path
from latentc_runtime.manifest import Manifest, Quantization

FOLDER = "quantization"
PLAN = f"{FOLDER}/plan.json"
CALIBRATION = f"{FOLDER}/calibration.npz"

Stage = Callable[[str], None]
Warn = Callable[[str], None]


def quantised_bundle(
    lowered: Lowered,
    spec: Spec,
    weights: Mapping[str, Mapping[str, Expr]],
    folder: Path,
    *,
    calibration: Path | None = None,
    scales: Mapping[str, np.ndarray[Any, Any]] | None = None,
    force: bool = False,
    tell: Stage = lambda stage: None,
    warn: Warn = lambda text: None,
    **options: Any,
) -> Manifest:
    """Compile a spec with `optimize.quantize` into the bundle `folder`; `lowered` as the spec was lowered.

    `calibration`: a file written by `latentc calibrate`; by default the networks are calibrated here. `scales`: those
    that the weights were trained with, by path. `force`: keep a bundle that exceeds the spec's limits, and `warn` about
    it. `options`: those of `bundle_from_lowered`. Raises DiagnosticError: E0801 to E0806, and those of reading a
    calibration and writing a bundle.
    """
    model = Model(lowered, spec, by_path(weights))
    # Checked first, so that a metric that cannot be measured is reported before the work begins.
    gate = gate_of(lowered, spec, model.settings.budget, model.settings.calibration.seed)

    def stages(done: int, total: int, stage: str) -> None:
        tell(f"{stage} {done + 1}/{total}" if 1 < total > done else stage)

    if calibration is None:
        seen = calibrate(model, stages)
    else:
        tell("reading the calibration")
        seen = read_calibration(calibration)
        check_fits(seen, calibration, model)
    exact = _compared(model, seen, tell)
    found = choice(model, exact, stages, scales=scales)
    final = optimised(lowered, spec, quantization=found.quantization)
    check_range(replace(model, weights=model.with_tensors(found.quantization)), final, tell, warn, seen.feeds)
    if not force and not found.quality.within(model.settings.budget):
        raise refusal(Verdict(found.quality), model, found, exact)

    def finish(target: Path, manifest: Manifest) -> Manifest:
        trial = options | {"by_reference": not manifest.plans, "made_from": "", "progress": None}

        def in_form(form: str, path: Path) -> Manifest:
            tensors = found.quantization.tensors
            return bundle_from_lowered(final, spec, weights, path, measured=tensors, **trial | {"form": form})

        check_runs(target, manifest, final, in_form, tell, warn)
        with tempfile.TemporaryDirectory(prefix="latentc-") as beside:

            def baseline() -> Path:
                plain = Path(beside) / "unquantised"
                bundle_from_lowered(optimised(lowered, spec), spec, weights, plain, **trial)
                return plain

            verdict = measured(target, model, exact, found, baseline, tell, gate)
        if not verdict.holds(model.settings):
            error = refusal(verdict, model, found, exact)
            if not force:
                raise error
            warn(f"{error.diagnostics[0].message}: {verdict.text(model.settings)}")
        for note in verdict.notes:
            warn(note)
        _write_files(target, model, seen, found, verdict)
        return replace(manifest, quantization=_section(model, found, verdict))

    return bundle_from_lowered(
        final, spec, weights, folder, progress=tell, measured=found.quantization.tensors, finish=finish, **options
    )


def _compared(model: Model, seen: Calibration, tell: Stage) -> Calibration:
    """The calibration with the samples that PSNR compares with: those of `budget.weights`, if it names a file.

    Raises DiagnosticError: E0310 if samples are not compared, and as reading weights.
    """
    file = model.settings.budget.weights
    if file is None:
        return seen
    if any(model.lowered.networks[entry.split(".")[0]].discrete for entry in seen.feeds):
        message = "`budget.weights` is for the PSNR of samples, but networks that score tokens are judged by perplexity"
        span = model.spec.span("optimize", "quantize", "budget", "weights")
        raise DiagnosticError.of("E0310", message, span, help="leave `budget.weights` out")
    tell("sampling with the weights of the budget")
    own = network_weights(model.spec, model.lowered, [f"main={file}"], networks=["main"])
    others = replace(model, weights={**model.weights, **by_path(own)})
    settings = model.settings.calibration
    return replace(seen, samples=recorded(others, model.classes(), settings.seed, settings.steps).samples)


def _write_files(target: Path, model: Model, seen: Calibration, found: Choice, verdict: Verdict) -> None:
    """Write the files a bundle keeps beside its engines: plan, calibration and report."""
    layers = {path: asdict(how) for path, how in found.quantization.plan.items()}
    write_text(target / PLAN, json.dumps({"layers": layers}, indent=1) + "\n")
    write_calibration(target / CALIBRATION, seen)
    rows = rows_of(model, found, seen)
    write_text(target / FOLDER / "report.csv", csv_text([asdict(row) for row in rows]))
    facts = _facts(model, seen, found, verdict)
    write_text(target / FOLDER / "report.html", page_of(rows, model, found, seen, facts))


def _facts(model: Model, seen: Calibration, found: Choice, verdict: Verdict) -> dict[str, str]:
    """The figures at the top of the report."""
    about, settings = seen.about, model.settings
    smooth = "" if settings.smooth is None else f", SmoothQuant with alpha {settings.smooth:g}"
    facts = {
        "layers quantised": f"{len(found.quantization.plan)} of {len(found.layers)}{smooth}",
        "quality": verdict.quality_text(settings),
        "every layer quantised": f"{found.everything.text()}, by {REFERENCE}",
        "speed": verdict.speed_text(settings),
        "calibration": f"{about['samples']} samples of up to {about['classes']} classes from seed {about['seed']}, "
        f"{about['steps']} calls of each method; scales by {settings.calibration.range}",
        "weights": f"sha256 {about['weights']}",
    }
    return facts | ({"notes": "; ".join(verdict.notes)} if verdict.notes else {})


def _section(model: Model, found: Choice, verdict: Verdict) -> Quantization:
    """The manifest's section on quantisation."""
    return Quantization(
        scheme=model.settings.scheme,
        layers=len(found.quantization.plan),
        of=len(found.layers),
        plan=PLAN,
        **finite(asdict(verdict.quality)),
        judged=verdict.judged,
        metrics={judged.bound.name: judged.figure for judged in verdict.metrics if math.isfinite(judged.figure)},
        speedup=finite(verdict.speedup),
        batch=verdict.batch,
        forced=not verdict.holds(model.settings),
        notes=verdict.notes,
    )
