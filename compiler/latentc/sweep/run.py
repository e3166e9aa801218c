"""`sweep`: the trials of a spec's settings, run beside each other, into a folder that the next run continues."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentc.components import packages
from latentc.components.objective import Objective
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.metrics import figure_named, is_frechet
from latentc.export.folder import locked
from latentc.files.named import make_folder, write_text
from latentc.measure.plots import need_matplotlib
from latentc.spec import Spec, data_from_spec, load_spec, resolved_yaml, spec_from_text
from latentc.spec.load import base_of
from latentc.spec.write import yaml_from_data
from latentc.spec.yaml import load_yaml
from latentc.sweep.axes import Axis
from latentc.sweep.plot import write_plot
from latentc.sweep.report import Row, Swept, ranked, ranking
from latentc.sweep.study import Study, need_optuna
from latentc.sweep.trials import Job, Judging, job_of, outcome_in
from latentc.sweep.workers import workers_of

Said = Callable[[int, int, str], None]  # finished trials, all, a line on the last one


@dataclass(frozen=True)
class Options:
    """How to sweep: `trials` at most, of lists all by default; `workers` as `--workers` takes them."""

    judging: Judging
    trials: int | None = None
    workers: str | None = None


def sweep(
    source: str | Path | None,
    spec: Spec,
    fixed: Sequence[str],
    axes: Sequence[Axis],
    root: Path,
    options: Options,
    compared: Callable[[], None],
    said: Said,
) -> Swept:
    """Runs the trials of `axes` and writes results.csv, results.txt, sweep.svg, sweep.png and best.yaml into `root`.

    `source` with the settings `fixed` is `spec`; without a source, `spec` is written there as base.yaml. `compared()`
    finds out before anything is trained whether samples can be judged; trials find what it reads in the cache. Raises
    DiagnosticError: E0412, E0502, E0706, E0717, E0718, E0741, and what `compared` raises.
    """
    need_matplotlib()
    need_optuna()
    text = resolved_yaml(spec)
    _check_values(text, axes)
    compared()
    _claim(root)
    with locked(root / "trials") as alone:
        if not alone and os.name == "posix":  # elsewhere nothing can be locked
            raise DiagnosticError.of("E0717", f"another sweep is writing to {root}", help="wait for it, or choose -o")
        better = _better(options.judging.metrics[0])
        if source is None:
            source, fixed = root / "base.yaml", ()
            write_text(source, text)
        judging = options.judging
        about = f"{text} {fixed} {judging}"
        study = Study(root, axes, about, better, options.trials, judging.seed)
        always = isinstance(spec.objective, Objective) and bool(spec.objective.reward_settings)
        given = [str(path.absolute()) for path in packages.given()]

        def job(chosen: dict[str, str]) -> Job:
            return job_of(root.absolute(), str(source), text, fixed, chosen, judging, given, always)

        def results() -> Swept:
            jobs = {one.folder: (chosen, one) for chosen in study.held().values() for one in [job(chosen)]}
            rows = [
                Row(chosen, outcome, Path(folder), Path(one.training))
                for folder, (chosen, one) in jobs.items()
                if (outcome := outcome_in(Path(folder))) is not None
            ]
            found = ranked(rows, judging.metrics[0], better)
            metric = _metric(found, judging.metrics[0])
            return Swept(spec.name, root, tuple(axes), metric, better, found, study.total)

        def finished(number: int, chosen: dict[str, str]) -> None:
            outcome = outcome_in(Path(job(chosen).folder))
            if outcome is not None:
                study.finish(number, ranking(outcome, judging.metrics[0]))
                words = ", ".join(f"{path.rpartition('.')[2]} {value}" for path, value in chosen.items())
                figures = ", ".join(f"{name} {value:.4g}" for name, value in outcome.figures.items())
                swept = results()
                write_text(root / "results.csv", swept.csv())
                said(len(swept.rows), study.total, f"{words}: {figures or f'{outcome.status}: {outcome.message}'}")

        _run(study, job, finished, options)
        swept = results()
    write_text(root / "results.csv", swept.csv())
    write_text(root / "results.txt", swept.text())
    write_plot(swept, root)
    if swept.best is None:
        raise swept.none_done()
    _write_best(root / "best.yaml", source, spec, [*fixed, *_texts(swept.best)], swept)
    return swept


def _run(
    study: Study,
    job: Callable[[dict[str, str]], Job],
    finished: Callable[[int, dict[str, str]], None],
    options: Options,
) -> None:
    """Runs every trial that has no outcome yet, as many beside each other as there are workers."""
    again = [(n, chosen) for n, chosen in study.held().items() if outcome_in(Path(job(chosen).folder)) is None]
    running: dict[Future[None], list[tuple[int, dict[str, str]]]] = {}
    folders: dict[str, Future[None]] = {}
    with workers_of(options.workers, options.judging.device) as (count, submit):
        while True:
            while len(running) < count and (trial := again.pop(0) if again else study.next()) is not None:
                one = job(trial[1])
                if outcome_in(Path(one.folder)) is not None:
                    finished(*trial)
                elif one.folder in folders:  # proposed twice: it runs once
                    running[folders[one.folder]].append(trial)
                else:
                    folders[one.folder] = future = submit(one.text())
                    running[future] = [trial]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                future.result()
                for trial in running.pop(future):
                    finished(*trial)
                folders = {folder: other for folder, other in folders.items() if other is not future}


def _check_values(text: str, axes: Sequence[Axis]) -> None:
    """DiagnosticError of the last value of a setting whose values are all refused, each set alone."""
    for axis in axes:
        fault: DiagnosticError | None = None
        for value in axis.values or (f"{axis.low:g}", f"{axis.high:g}"):
            try:
                spec_from_text(text, "spec", None, [f"{axis.path}={value}"])
                break
            except DiagnosticError as error:
                fault = error  # the last one, whose `--set` is the text that diagnostics show
        else:
            assert fault is not None
            raise fault


def _claim(root: Path) -> None:
    """Makes the sweep's folder. DiagnosticError E0412, E0502."""
    if root.exists() and not (root / "trials").is_dir() and (not root.is_dir() or any(root.iterdir())):
        message = f"{root} exists and is not a folder of a sweep"
        raise DiagnosticError.of("E0502", message, help="choose another place, or remove it yourself")
    make_folder(root / "trials")


def _better(metric: str) -> Any:
    figure = figure_named(metric)
    assert figure is not None
    return figure.better


def _metric(rows: Sequence[Row], asked: str) -> str:
    """The name in results of the figure that ranks: `fd` is that of the features used."""
    names = [name for row in rows for name in row.outcome.figures]
    return next((name for name in names if name == asked or (asked == "fd" and is_frechet(name))), asked)


def _texts(row: Row) -> list[str]:
    return [f"{path}={value}" for path, value in row.chosen.items()]


def _write_best(path: Path, source: str | Path, spec: Spec, overrides: Sequence[str], swept: Swept) -> None:
    """Writes a spec that extends the given one with the settings of the best trial."""
    wanted = load_spec(source, None, overrides)
    assert swept.best is not None
    figures = ", ".join(f"{name} {value:.4g}" for name, value in swept.best.outcome.figures.items())
    head = f"# The best of {len(swept.rows)} trials of `latentc sweep`: {figures}.\n"
    data: dict[str, Any] = {"latentc": 1, "extends": base_of(spec, source, path.parent)}
    for text in overrides:
        keys, _, value = text.partition("=")
        *parents, last = (key.strip() for key in keys.split("."))
        place = data
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = load_yaml(value, str(path)).data
    write_text(path, head + yaml_from_data(data))
    with contextlib.suppress(DiagnosticError):
        if data_from_spec(load_spec(path)) == data_from_spec(wanted):
            return
    # Settings inside lists, or mappings in place of others, are no keys that a spec could add.
    write_text(path, head + resolved_yaml(wanted))
