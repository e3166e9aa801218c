"""Systems of all families on the same images: trained, compiled, judged and timed, one after the other."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from latentc.api.compiling import compile
from latentc.api.evaluating import evaluate
from latentc.api.networks import train
from latentc.api.running import bench
from latentc.diagnostics import DiagnosticError
from latentc.diagnostics.faults import needed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from latentc.league.entries import Entry, Stage
    from latentc.league.images import Images
    from latentc.league.results import Engine, League, Standing, Times

Said = Callable[[int, int, str], None]  # finished trainings, all, a line on the last one
TRIAL, SURE = 16, 3.0  # steps of the first trial; seconds by which a longer one must exceed it to tell a step's time
BATCHES, SECONDS = (1, 16), 2.0  # that are timed, and for how long each
SAMPLES = 512  # images whose latents give a first stage's mean and standard deviation, and those it reconstructs
LOST = "lost.txt"  # what a first stage loses, beside its bundle


def league(
    data: Path | str,
    folder: Path | str,
    systems: Sequence[str] = (),
    budget: float = 300.0,
    seeds: int = 1,
    count: int = 1000,
    int8: bool = False,
    progress: Said | None = None,
) -> League:
    """Train the `systems` (all by default) on the images at `data` for `budget` processor seconds each, and rank them.

    Everything goes into `folder`: images of 32 × 32 pixels with some held out, the classifier that judges samples, a
    folder for each system and seed, results.txt, results.csv, results.json, league.svg and league.png. Run again, it
    goes on with what is missing. `count` samples of each system are judged. All engines are timed at batch 1 and 16 at
    the end, so that the machine is the same for all. `int8`: also the engines with int8 weights and activations are
    judged and timed. A system that fails is a row that says why. Raises DiagnosticError:
    E0401, E0412, E0422 to E0424, E0502, E0706, E0717.
    """
    from latentc.export.folder import locked
    from latentc.files.named import make_folder
    from latentc.league.classifier import trained
    from latentc.league.entries import chosen
    from latentc.league.images import prepared
    from latentc.measure.plots import need_adjust_text, need_matplotlib

    entries, root, said = chosen(systems), Path(folder), progress or (lambda done, total, line: None)
    needed("torch", "training", 'pip install "latentc[league]"')
    need_matplotlib()
    need_adjust_text()
    claimed = root / "systems"
    if root.exists() and not claimed.is_dir() and (not root.is_dir() or any(root.iterdir())):
        message = f"{root} exists and is not a folder of a league"
        raise DiagnosticError.of("E0502", message, help="choose another place, or remove it yourself")
    make_folder(claimed)
    with locked(claimed) as alone:
        if not alone and os.name == "posix":
            raise DiagnosticError.of("E0717", f"another league is writing to {root}", help="wait for it, or choose -o")
        _check_goes_on(root, data, budget, count)
        images = prepared(data, root)
        features, accuracy = trained(images)
        said(0, len(entries) * seeds, f"a classifier of the images is right on {accuracy:.3f} of those held out")
        run = _Run(root, images, str(features), budget, count, int8)
        total = len(entries) * seeds
        for seed in range(seeds):
            for entry in entries:
                row = run.standing(entry, seed)
                said(seed * len(entries) + entries.index(entry) + 1, total, _line(row))
        return run.written(Path(data).name)


def _check_goes_on(root: Path, data: Path | str, budget: float, count: int) -> None:
    """Keeps the terms of a new league in its folder. DiagnosticError E0502 if it was begun on others."""
    import json

    from latentc.files.named import write_text

    terms = {"data": str(Path(data).absolute()), "budget": budget, "count": count}
    file = root / "terms.json"
    if not file.is_file():
        write_text(file, json.dumps(terms, indent=1) + "\n")
        return
    for name, begun in json.loads(file.read_text(encoding="utf-8")).items():
        if begun != terms[name]:
            message = f"{root} holds a league begun with {name} {begun}, not {terms[name]}"
            raise DiagnosticError.of("E0502", message, help="give the same again, or choose another place with -o")


def _line(row: Standing) -> str:
    if row.engine is None:
        return f"{row.system}: {row.message}"
    figures = ", ".join(f"{name} {value:.3f}" for name, value in row.engine.figures.items())
    return f"{row.system}: {figures}"


class _Run:
    """The stages of an entry. A result is written once, so what has one is not run again."""

    def __init__(self, root: Path, images: Images, features: str, budget: float, count: int, int8: bool) -> None:
        self.root, self.images, self.features = root, images, features
        self.budget, self.count, self.int8 = budget, count, int8

    def standing(self, entry: Entry, seed: int) -> Standing:
        """The row of a system, from its file, or newly made as far as it is not there."""
        import json

        from latentc.league.results import FAILED, Standing, standing_in
        from latentc_runtime.codec import encode
        from latentc_runtime.hashes import write_whole

        home = self.root / "systems" / f"{entry.name}-{seed}"
        held = standing_in(home / "result.json")
        try:
            row = self._completed(held, entry, seed, home)
        except DiagnosticError as error:
            first = error.diagnostics[0]
            message = f"{first.message} [{first.code}]"
            row = Standing(entry.name, entry.family, entry.reads, seed, FAILED, message)
        if row != held:
            home.mkdir(parents=True, exist_ok=True)
            write_whole(home / "result.json", json.dumps(encode(row), indent=1).encode())
        return row

    def _completed(self, held: Standing | None, entry: Entry, seed: int, home: Path) -> Standing:
        """The row with what it lacks: all of it, or the engine in int8."""
        from latentc.league.entries import overrides
        from latentc.league.results import DONE, Standing

        done = held is not None and held.status == DONE
        if held is not None and done and (not self.int8 or held.int8 is not None or held.int8_message):
            return held
        stage = None if entry.stage is None else self.stage(entry.stage)
        settings = overrides(entry, self.images, stage, seed)
        weights, steps, seconds = self.trained(entry, settings, home)
        if held is None or not done:
            head = (entry.name, entry.family, entry.reads, seed, DONE, "")
            parameters, work = _costs(entry.spec, settings)
            made = self.engine(entry, settings, weights, home / "bundle")
            held = Standing(*head, parameters, steps, seconds, work, made)
        if self.int8:
            small = (*settings, "optimize.quantize={scheme: int8}")
            try:
                held = replace(held, int8=self.engine(entry, small, weights, home / "int8"))
            except DiagnosticError as error:
                held = replace(held, int8_message=error.diagnostics[0].message)
        return held

    def trained(self, entry: Entry, settings: tuple[str, ...], home: Path) -> tuple[Path, int, float]:
        """(weights, steps, processor seconds) of a training that takes the budget."""
        weights = home / "project" / "runs" / "train" / "weights.safetensors"
        took = home / "seconds.txt"
        if not (weights.is_file() and took.is_file()):
            steps = max(TRIAL, int(self.budget / self._seconds_per_step(entry, settings, home / "trial")))
            seconds = self._timed(entry, settings, home / "project", steps)
            took.write_text(f"{steps} {seconds}\n")
        steps_text, seconds_text = took.read_text().split()
        return weights, int(steps_text), float(seconds_text)

    def _seconds_per_step(self, entry: Entry, settings: tuple[str, ...], trial: Path) -> float:
        """Processor seconds of a step: how much longer a training of more steps takes."""
        if entry.stage is not None:  # fills the cache of what the first stage encodes
            self._timed(entry, settings, trial, 1)
        steps, first = TRIAL, self._timed(entry, settings, trial, TRIAL)
        while True:
            steps *= 4
            longer = self._timed(entry, settings, trial, steps) - first
            if longer > min(SURE, self.budget):
                shutil.rmtree(trial, ignore_errors=True)
                return longer / (steps - TRIAL)

    def _timed(self, entry: Entry, settings: tuple[str, ...], project: Path, steps: int) -> float:
        """Processor seconds of a training, with those of starting it."""
        shutil.rmtree(project, ignore_errors=True)
        project.parent.mkdir(parents=True, exist_ok=True)
        before = os.times()
        log = project.with_name(f"{project.name}.log")
        train(
            entry.spec, project, [], None, (*settings, *_shortened(entry.spec, steps), f"train.steps={steps}"), log=log
        )
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    def engine(self, entry: Entry, settings: tuple[str, ...], weights: Path, bundle: Path) -> Engine:
        """The compiled system, judged."""
        from latentc.league.results import FIGURES, Engine

        compile(entry.spec, weights, bundle, None, settings, force=True, run=False)
        found = evaluate(
            bundle,
            self.images.held_out,
            FIGURES,
            [self.features],
            training=self.images.training,
            count=self.count,
            seed=1_000_000,
            device="cpu",
        )
        figures = {name: float(value) for name, value in found.runs[0].result.figures.items()}
        return Engine(figures, _bytes_of(bundle))

    @functools.cache  # noqa: B019 - lives as long as the league
    def stage(self, reads: str) -> Stage:
        """The first stage that makes `reads` of pixels, trained for the budget from seed 0."""
        from latentc.league.entries import LATENTS, Stage, overrides, stage_entry
        from latentc.spec import load_spec, resolved_yaml

        entry, home = stage_entry(reads), (self.root / "stages" / reads).absolute()
        settings = overrides(entry, self.images, None, 0)
        weights, _, _ = self.trained(entry, settings, home)
        spec = home / "stage.yaml"
        spec.write_text(resolved_yaml(load_spec(entry.spec, None, settings)), encoding="utf-8")
        bundle = home / "bundle"
        compile(entry.spec, weights, bundle, None, settings, run=False)
        (home / LOST).write_text(f"{_lost(bundle, self.images)}\n")
        if reads != LATENTS:
            return Stage(spec, weights)
        mean, deviation = _moments(bundle, self.images)
        return Stage(spec, weights, mean, deviation)

    def written(self, name: str) -> League:
        """All rows in the folder with times of their engines, as a table, as CSV, as JSON and as a picture."""
        import json

        from latentc.files.named import write_text
        from latentc.league.results import League, standing_in, write_plot

        files = sorted((self.root / "systems").glob("*/result.json"))
        rows = [row for file in files if (row := standing_in(file)) is not None]
        found = League(name, self.budget, self.count, rows, self.times(rows), self.real(), self.lost())
        write_text(self.root / "results.txt", found.text())
        write_text(self.root / "results.csv", found.csv())
        write_text(self.root / "results.json", json.dumps(found.data(), indent=1) + "\n")
        if found.ranked():
            write_plot(found, self.root)
        return found

    def times(self, rows: Sequence[Standing]) -> dict[str, Times]:
        """Milliseconds per image of each system's engines from its first seed, timed one after the other now."""
        from latentc.league.results import Times

        first: dict[str, Standing] = {}
        for row in sorted(rows, key=lambda row: row.seed):
            if row.engine is not None:
                first.setdefault(row.system, row)
        found = {}
        for name, row in first.items():
            home = self.root / "systems" / f"{name}-{row.seed}"
            found[name] = Times(_timed(home / "bundle"), {} if row.int8 is None else _timed(home / "int8"))
        return found

    def lost(self) -> Mapping[str, float]:
        """The share of the variance of held-out images that each first stage loses."""
        files = sorted((self.root / "stages").glob(f"*/{LOST}"))
        return {file.parent.name: float(file.read_text()) for file in files}

    def real(self) -> Mapping[str, float]:
        """Figures of training images in place of samples: the most that a system can reach."""
        import io

        import numpy as np

        from latentc.league.results import FIGURES
        from latentc_runtime.hashes import write_whole

        file = self.root / "some.npz"
        if not file.is_file():
            with np.load(self.images.training) as arrays:
                rows = np.random.default_rng(1).permutation(len(arrays["arr_1"]))[: self.count]
                content = io.BytesIO()
                np.savez_compressed(content, arr_0=arrays["arr_0"][rows], arr_1=arrays["arr_1"][rows])
            write_whole(file, content.getvalue())
        wanted = [name for name in FIGURES if name != "copies"]
        found = evaluate(file, self.images.held_out, wanted, [self.features], device="cpu")
        return {name: float(value) for name, value in found.runs[0].result.figures.items()}


def _timed(bundle: Path) -> dict[str, float]:
    """Milliseconds per image of a bundle's sampler, by batch."""
    cases = bench(bundle, BATCHES, seconds=SECONDS).cases
    return {str(case.batch): 1000 * case.engine.median / case.batch for case in cases}


def _shortened(spec: str, steps: int) -> tuple[str, ...]:
    """Settings that fit a short training: a warm-up within a tenth of the steps, weights averaged over a tenth of them.

    A longer average would still consist of the initial weights for the most part.
    """
    from latentc.spec import load_spec

    train = load_spec(spec).train
    settings = []
    usual = getattr(train.schedule, "warmup", 0)
    if isinstance(usual, int) and usual > steps // 10:
        settings.append(f"train.schedule.warmup={steps // 10}")
    if isinstance(train.ema, float) and train.ema > 1 - 10 / steps:
        settings.append(f"train.ema={max(0.0, 1 - 10 / steps):.6f}")
    return tuple(settings)


def _costs(spec: str, settings: tuple[str, ...]) -> tuple[int, int]:
    """(parameters, floating-point operations per image) of the sampler."""
    from latentc.ir.report import report
    from latentc.lower import lower
    from latentc.spec import load_spec

    lowered = lower(load_spec(spec, None, settings))
    found = report(lowered.module, lowered.programs[0].entry)
    return found.parameters, found.flops


def _lost(bundle: Path, images: Images) -> float:
    """Squared error of reconstructions of held-out images as a share of their variance about the mean image."""
    import numpy as np

    from latentc_runtime import load

    pixels = _pixels(images.held_out, SAMPLES)
    made = load(bundle, "cpu").sample(conditions={"x": pixels}, program="reconstruct")
    return float(np.square(made - pixels).mean() / pixels.var(axis=0).mean())


def _moments(bundle: Path, images: Images) -> tuple[float, float]:
    """Mean and standard deviation of latents drawn for some images."""
    import numpy as np

    from latentc_runtime import load

    codes = load(bundle, "cpu").sample(conditions={"x": _pixels(images.training, SAMPLES)}, program="encode")
    mean, log_variance = np.split(codes, 2, axis=1)
    return float(mean.mean()), float(np.sqrt(mean.var() + np.exp(log_variance).mean()))


def _pixels(file: Path, count: int) -> NDArray[np.float32]:
    """Some of a file's images, f32[N, C, H, W] in [-1, 1]."""
    import numpy as np

    with np.load(file) as arrays:
        rows = np.random.default_rng(0).permutation(len(arrays["arr_1"]))[:count]
        return arrays["arr_0"][rows].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1


def _bytes_of(bundle: Path) -> int:
    """Bytes of a bundle without its calibration, which can be larger than the weights, though no engine reads it."""
    from latentc.quantize.compile import FOLDER

    files = (file for file in bundle.rglob("*") if file.is_file() and bundle / FOLDER not in file.parents)
    return sum(file.stat().st_size for file in files)
