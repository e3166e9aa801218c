"""Compiles a quantised spec: calibrate, choose the layers, build, measure, and keep or refuse the bundle."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from latentc.components.contract import Lowered
from latentc.export.bundle import bundle_from_lowered
from latentc.files import write_text
from latentc.measure.first_run import check_runs
from latentc.pipeline import optimised
from latentc.quantize.calibrate import calibrate
from latentc.quantize.calibration import Calibration, check_fits, read_calibration, weights_hash, write_calibration
from latentc.quantize.gate import Verdict, finite, measured, refusal
from latentc.quantize.plan import Choice, choice
from latentc.quantize.precision import check_precision
from latentc.quantize.quality import allowed
from latentc.quantize.report import csv_of, page_of, rows_of
from latentc.spec import Spec
from latentc.spec.sections import Quantize
from latentc.weights import Array, Expr
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
    force: bool = False,
    tell: Stage = lambda stage: None,
    warn: Warn = lambda text: None,
    **options: Any,
) -> Manifest:
    """Compile a spec with `optimize.quantize` into the bundle `folder`; `lowered` as the spec was lowered.

    `calibration`: a file written by `latentc calibrate`; by default the networks are calibrated here. `force`: keep a
    bundle that exceeds the spec's limits, and `warn` about it. `options`: those of `bundle_from_lowered`. Raises
    DiagnosticError: E0801 to E0806, and those of reading a calibration and writing a bundle.
    """
    asked = spec.optimize.quantize
    assert asked is not None
    flat = {f"{network}.{path}": expr for network, own in weights.items() for path, expr in own.items()}
    seen = _calibration(lowered, spec, flat, asked, calibration, tell)
    found = choice(lowered, spec, flat, seen, asked, _stages(tell))
    final = optimised(lowered, spec, quantization=found.quantization)
    tensors = {path: Array(array) for path, array in found.quantization.tensors.items()}
    check_range(lowered, final, spec, {**flat, **tensors}, tell, warn, seen)
    if not force and not found.quality.within(asked.budget):
        raise refusal(Verdict(found.quality, "ONNX Runtime on the CPU"), asked, spec, found)

    def finish(target: Path, manifest: Manifest) -> Manifest:
        def in_form(form: str, path: Path) -> Manifest:
            own = options | {"form": form, "by_reference": not manifest.plans, "made_from": "", "progress": None}
            return bundle_from_lowered(final, spec, weights, path, measured=found.quantization.tensors, **own)

        check_runs(target, manifest, final, in_form, tell, warn)
        with tempfile.TemporaryDirectory(prefix="latentc-") as beside:

            def baseline() -> Path:
                plain = Path(beside) / "unquantised"
                own = options | {"by_reference": not manifest.plans, "made_from": "", "progress": None}
                bundle_from_lowered(optimised(lowered, spec), spec, weights, plain, **own)
                return plain

            verdict = measured(target, spec, asked, seen, found, baseline, tell)
        if not verdict.holds(asked):
            error = refusal(verdict, asked, spec, found)
            if not force:
                raise error
            warn(f"{error.diagnostics[0].message}: {verdict.text(asked)}")
        for note in verdict.notes:
            warn(note)
        _write_files(target, seen, found, verdict, asked)
        return replace(manifest, quantization=_section(found, verdict, asked))

    return bundle_from_lowered(
        final, spec, weights, folder, progress=tell, measured=found.quantization.tensors, finish=finish, **options
    )


def check_range(
    lowered: Lowered,
    final: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    tell: Stage,
    warn: Warn,
    seen: Calibration | None = None,
) -> None:
    """`check_precision`, with a warning if it was skipped."""
    if spec.target.precision == "fp16":
        tell("checking ranges")
    if skipped := check_precision(lowered, final, spec, weights, seen.feeds if seen else None):
        warn(f"whether values fit fp16 was not checked: {skipped}")


def _calibration(
    lowered: Lowered,
    spec: Spec,
    weights: Mapping[str, Expr],
    asked: Quantize,
    file: Path | None,
    tell: Stage,
) -> Calibration:
    if file is None:
        return calibrate(lowered, spec, weights, asked, _stages(tell))
    tell("reading the calibration")
    found = read_calibration(file)
    check_fits(found, file, spec, asked, weights_hash(weights))
    return found


def _stages(tell: Stage) -> Callable[[int, int, str], None]:
    return lambda done, total, what: tell(f"{what} {done + 1}/{total}" if 1 < total > done else what)


def _write_files(target: Path, seen: Calibration, found: Choice, verdict: Verdict, asked: Quantize) -> None:
    """Write the files a bundle keeps beside its engines: plan, calibration and report."""
    layers = {path: asdict(how) for path, how in found.quantization.plan.items()}
    write_text(target / PLAN, json.dumps({"layers": layers}, indent=1) + "\n")
    write_calibration(target / CALIBRATION, seen)
    rows = rows_of(found, seen, asked)
    write_text(target / FOLDER / "report.csv", csv_of(rows))
    write_text(target / FOLDER / "report.html", page_of(rows, found, seen, asked, _facts(seen, found, verdict, asked)))


def _facts(seen: Calibration, found: Choice, verdict: Verdict, asked: Quantize) -> dict[str, str]:
    about, wanted = seen.about, asked.calibration
    counts = f"{len(found.quantization.plan)} of {len(found.layers)}"
    smooth = "" if asked.smooth is None else f", SmoothQuant with alpha {asked.smooth:g}"
    facts = {
        "layers quantised": f"{counts}{smooth}",
        "quality": f"{verdict.quality.text()} ({allowed(asked.budget, verdict.quality)}), by {verdict.judged}",
        "every layer quantised": f"{found.everything.text()}, by ONNX Runtime on the CPU",
        "speed": "not measured"
        if verdict.speedup is None
        else f"{verdict.speedup:.2f} × as fast as unquantised at batch {verdict.batch}"
        f" (at least {asked.min_speedup:g} ×)",
        "calibration": f"{about['samples']} samples of up to {about['classes']} classes from seed {about['seed']}, "
        f"{about['steps']} calls of each method; scales by {wanted.range}",
        "weights": f"sha256 {about['weights']}",
    }
    return facts | ({"notes": "; ".join(verdict.notes)} if verdict.notes else {})


def _section(found: Choice, verdict: Verdict, asked: Quantize) -> Quantization:
    quality = verdict.quality
    return Quantization(
        scheme=asked.scheme,
        layers=len(found.quantization.plan),
        of=len(found.layers),
        plan=PLAN,
        psnr=finite(quality.psnr),
        perplexity=finite(quality.perplexity),
        agreement=finite(quality.agreement),
        judged=verdict.judged,
        speedup=finite(verdict.speedup),
        batch=verdict.batch,
        forced=not verdict.holds(asked),
        notes=verdict.notes,
    )


__all__ = ["CALIBRATION", "FOLDER", "PLAN", "check_range", "quantised_bundle"]
