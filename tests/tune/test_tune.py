"""Tuning from the spec to the folder: what it writes compiles as is, and what was searched is what the engine does."""

from __future__ import annotations

import csv
import math
import sys
import types
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from tiny_model import HEAD, write_random_weights

from latentc import api, components
from latentc.checkpoint import network_weights
from latentc.components.samplers.base import ArraySampler
from latentc.diagnostics import DiagnosticError
from latentc.evaluate.bounds import Bound, bound_from_text
from latentc.evaluate.sources import labels_of
from latentc.lower import lower
from latentc.measure.metrics import BEST, frechet_distance, psnr
from latentc.spec import load_spec
from latentc.tune import plot
from latentc.tune import run as tune_run
from latentc.tune.budget import Goal, Measured, front
from latentc.tune.candidates import COUNTS, Candidate, grid
from latentc.tune.compiled import Compiling
from latentc.tune.denoiser import open_denoiser
from latentc.tune.found import Found
from latentc.tune.quality import UserJudge
from latentc.tune.report import Tuned
from latentc.tune.screen import Screened, open_screen, spread
from latentc.weights import read_safetensors
from latentc_runtime import load

pytest.importorskip("matplotlib")

REST = """\
target: {max_batch: 8}
variants: {short: {sampler: {steps: 6}}}
"""
OBJECTIVES = {
    "diffusion": ("{kind: diffusion, process: {kind: discrete, schedule: cosine}, predicts: velocity}", "ddim"),
    "learned variance": ("{kind: diffusion, predicts: noise, variance: learned_range}", "ddim"),
    "flow": ("{kind: flow}", "euler"),
    "edm": ("{kind: diffusion, process: {kind: edm}, predicts: preconditioned}", "heun"),
    "ve": ("{kind: diffusion, process: {kind: ve}, predicts: scaled_score}", "ddim"),
}


SMALL = """\
networks:
  small:
    kind: patch_transformer
    width: 8
    depth: 1
    patch: 4
    positions: {kind: sincos_2d}
    block:
      mixer: {kind: attention, heads: 2}
      feed_forward: {kind: gelu_mlp, ratio: 2}
      norm: {kind: layer_norm}
      condition: {kind: adaln_zero}
"""


def made(
    folder: Path, objective: str = "diffusion", sampler: str = "", depth: int = 1, further: str = ""
) -> tuple[Path, Path]:
    """A spec and its weights."""
    written, kind = OBJECTIVES[objective]
    own = sampler or f"{{kind: {kind}, steps: 12, guidance: {{scale: 1.5}}}}"
    spec, weights = folder / "tiny.yaml", folder / "tiny.safetensors"
    head = HEAD.replace("depth: 1", f"depth: {depth}")
    spec.write_text(f"{head}objective: {written}\nsampler: {own}\n{REST}{further}")
    write_random_weights(spec, weights, 0.2)
    return spec, weights


def tuned(spec: Path, weights: Path, folder: Path, **options: Any) -> Any:
    given = {"budget": ["error=0.5"], "evaluations": (2, 3, 4), "samples": 16, **options}
    return api.tune(spec, weights, folder, **given)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Timings of one call, and no plots but for the tests that look at them."""
    monkeypatch.setattr("latentc.tune.compiled.SECONDS", 0.0)
    if "plots" not in request.fixturenames:
        monkeypatch.setattr("latentc.tune.run.write_plot", lambda tuned, folder: None)


@pytest.fixture
def plots() -> None:
    """The test's plots are drawn."""


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_samplers_over_the_network_are_what_the_compiled_sampler_does(tmp_path: Path, objective: str) -> None:
    """Every kind of candidate: the numpy sampler over the step engine against the whole sampler in one engine."""
    file, weights = made(tmp_path, objective)
    spec = load_spec(file)
    lowered = lower(spec)
    own = spec.sampler
    assert isinstance(own, ArraySampler)
    tensors = network_weights(spec, lowered, weights)
    seeds, labels = np.arange(100, 110), np.arange(10)  # more than one batch
    denoiser = open_denoiser(spec, tensors)
    given = denoiser.given(100, 10)
    tried = [candidate.sampler for candidate in grid(own, denoiser.target, [5])]
    times = tried[-1].grid(denoiser.target).times[:-1]  # type: ignore[attr-defined]
    tried.append(tried[-1].with_timesteps(np.linspace(times[0], 0.9 * times[-1], 5)))
    tried.append(tried[1].guided_in((0.3, 0.7)))
    assert tried[-1].runs(denoiser.target) < tried[1].runs(denoiser.target) == 10
    for i, sampler in enumerate(tried):
        candidate, bundle = tmp_path / f"{i}.yaml", tmp_path / f"{i}"
        assert Candidate(sampler).write(candidate, "tiny.yaml", own).sampler == sampler
        api.compile(candidate, weights, bundle)
        whole = load(bundle, "cpu").sample(labels, seeds)
        ours = denoiser.samples(sampler, given)
        assert np.max(np.abs(ours - whole)) < 2e-4 * np.max(np.abs(whole)), sampler
    # control: a sampler of another kind is another thing
    assert np.max(np.abs(denoiser.samples(tried[0], given) - whole)) > 1e-2 * np.max(np.abs(whole))


@pytest.mark.parametrize("objective", ["diffusion", "edm"])  # it differs by the kind of sampler alone
def test_the_folder(tmp_path: Path, plots: None, objective: str) -> None:
    spec, weights = made(tmp_path, objective)
    told: list[tuple[int, int, str]] = []
    found = tuned(spec, weights, tmp_path / "out" / "tuned", progress=lambda *step: told.append(step))
    folder = tmp_path / "out" / "tuned"
    assert {p.name for p in folder.iterdir()} == {"tuned.yaml", "candidates.csv", "pareto.svg", "pareto.png"}
    assert [p.name for p in folder.parent.iterdir()] == ["tuned"]
    assert "extends: ../../tiny.yaml\n" in (folder / "tuned.yaml").read_text()
    assert told[-1][0] == told[-1][1] and told[-1][2] == "done"
    api.compile(folder / "tuned.yaml", weights, tmp_path / "bundle")
    assert load(tmp_path / "bundle", "cpu").manifest.programs[0].steps == found.chosen.candidate.sampler.steps
    rows = list(csv.DictReader((folder / "candidates.csv").open()))
    assert [row["chosen"] for row in rows].count("yes") == 1
    assert {"spec", "grid", "timesteps"} <= {row["found"] for row in rows}
    assert all(float(row["error"]) >= 0 for row in rows if row["gflop"])
    assert (folder / "pareto.svg").read_text().startswith("<?xml")
    assert found.text().count("→") == 1 and "chosen for error=0.5" in found.text()
    assert sum(row["chosen"] for row in found.data()["candidates"]) == 1


def test_runs_are_equal_but_for_times(tmp_path: Path) -> None:
    spec, weights = made(tmp_path)
    for name in ("a", "b"):
        tuned(spec, weights, tmp_path / name, evaluations=(3,))
    first, second = ((tmp_path / name / "tuned.yaml").read_text() for name in ("a", "b"))
    assert first == second
    tables = [list(csv.DictReader((tmp_path / name / "candidates.csv").open())) for name in ("a", "b")]
    for rows in tables:
        for row in rows:
            del row["seconds"]
    assert tables[0] == tables[1]
    tuned(spec, weights, tmp_path / "a", seed=5, evaluations=(3,))  # an older folder of results is replaced
    third = list(csv.DictReader((tmp_path / "a" / "candidates.csv").open()))
    assert third[0]["error"] != tables[0][0]["error"]


def test_what_is_no_file_as_it_stands_is_written_beside(tmp_path: Path) -> None:
    spec, weights = made(tmp_path)
    found = tuned(
        spec, weights, tmp_path / "tuned", variant="short", overrides=["sampler.guidance.scale=2.5"], evaluations=(3,)
    )
    assert found.own.evaluations == 6
    written = load_spec(tmp_path / "tuned" / "tuned.yaml")
    assert written.sampler == found.chosen.candidate.sampler
    assert written.sampler.guidance is not None and written.sampler.guidance.scale == 2.5  # type: ignore[attr-defined]
    assert (tmp_path / "tuned" / "base.yaml").is_file()


def test_cached_blocks_and_small_networks_are_tried(tmp_path: Path) -> None:
    spec, weights = made(tmp_path, depth=3, further=SMALL)
    found = tuned(spec, weights, tmp_path / "tuned", evaluations=(6,))
    whole = {m.candidate.found: m for m in found.measured if not m.candidate.optimize}["timesteps"]
    reused = [m for m in found.measured if m.candidate.optimize]
    assert {m.candidate.found for m in reused} == {"cache", "stitch"}
    assert {"blocks 1-2 every 2", "small until 0.5"} <= {m.candidate.name().partition("searched ")[2] for m in reused}
    for m in reused:
        assert m.gflop < whole.gflop and m.quality["error"] != whole.quality["error"]
    best = min(reused, key=lambda m: m.gflop)
    found = tuned(spec, weights, tmp_path / "tuned", evaluations=(6,), budget=[f"error={best.quality['error'] * 1.01}"])
    written = load_spec(tmp_path / "tuned" / "tuned.yaml")
    assert found.chosen.candidate.optimize and (written.optimize.cache or written.optimize.stitch)
    api.compile(tmp_path / "tuned" / "tuned.yaml", weights, tmp_path / "bundle")


def test_no_candidate_fits(tmp_path: Path, plots: None) -> None:
    spec, weights = made(tmp_path)
    with pytest.raises(DiagnosticError) as caught:
        tuned(spec, weights, tmp_path / "tuned", budget=["error=1e-9", "evaluations=3"], evaluations=(2,))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "E0716" and "error=1e-09, evaluations=3" in diagnostic.message
    assert any("the best error is" in note for note in diagnostic.notes)
    assert {p.name for p in (tmp_path / "tuned").iterdir()} == {"candidates.csv", "pareto.svg", "pareto.png"}


@pytest.mark.parametrize("where", ["denoising.open_screen", "run.write_plot"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    spec, weights = made(tmp_path)
    before = set(tmp_path.iterdir())

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"latentc.tune.{where}", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(spec, weights, tmp_path / "tuned", evaluations=(2,))
    assert set(tmp_path.iterdir()) == before


def test_a_search_that_has_no_time_says_so(tmp_path: Path) -> None:
    spec, weights = made(tmp_path)
    found = tuned(spec, weights, tmp_path / "tuned", seconds=0.0)
    assert found.stopped and found.screened == () and found.chosen is found.own
    assert "the search ran out of time" in found.text()


def test_time_bounds_compiling_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that compiling alone moves: of 15 seconds the second candidate ends at 20, and is the last."""
    spec, weights = made(tmp_path)
    clock = [0.0]

    measured = Compiling.measured

    def slow(*args: Any) -> Measured:
        clock[0] += 10.0
        return measured(*args)

    monkeypatch.setattr(tune_run, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(Compiling, "measured", slow)
    options: dict[str, Any] = {"budget": ["evaluations=12"], "evaluations": (2,)}
    found = tuned(spec, weights, tmp_path / "tuned", seconds=15.0, **options)
    assert len(found.measured) == 2 and found.own in found.measured
    assert not found.stopped and found.left == found.data()["left"] > 0
    assert f"no time to compile {found.left} more" in found.text()
    assert "no time to compile" not in tuned(spec, weights, tmp_path / "all", **options).text()


def test_little_time_takes_samples_before_candidates() -> None:
    """Of 256 samples, as many as half of the time left is for: exactly, by the spec's own and by a few others."""
    tried = tuple(Screened(row(1, 1, n).candidate, n, n, 1.0) for n in (2, 4, 8, 16))
    own = point("ddim", 50, 1.0, 0.0).candidate.sampler
    judged = partial(tune_run._judged, 256, own, Found(tried, (), None, None, 0.01))
    assert [judged(left) for left in (math.inf, 1000.0, 180.0, 1.0, -5.0)] == [256, 256, 50, 4, 4]
    assert tune_run._judged(256, own, Found((), ()), 0.0) == 256  # no evaluation was timed


def test_half_the_search_is_left_for_timesteps(tmp_path: Path) -> None:
    """Solvers that come too late for it are tried last."""
    spec, weights = made(tmp_path)
    tensors = network_weights(load_spec(spec), lower(load_spec(spec)), weights, None, None, ["main"])
    denoiser = open_denoiser(load_spec(spec), tensors)
    given, told = denoiser.given(0, 4), list[str]()
    own = load_spec(spec).sampler
    assert isinstance(own, ArraySampler)
    left = lambda: 10.0 - len(told)  # noqa: E731
    screen = open_screen(own, denoiser, given, lambda: False, lambda i, n, what: told.append(what.split()[0]), left)
    found = screen.run((2, 4))
    stages = [(stage, len(list(group))) for stage, group in groupby(told)]
    assert stages[0] == ("solvers", 6) and stages[1][0] == "timesteps" and told[-1] == "solvers"
    tried = [s.candidate for s in found if s.candidate.found == "grid"]
    assert len(tried) == len(grid(own, denoiser.target, (2, 4)))


def test_a_search_begins_with_counts_of_all_sizes() -> None:
    assert spread((2, 3, 4, 5, 6, 7, 8, 10, 12, 15))[:4] == [7, 4, 12, 3] and sorted(spread(COUNTS)) == list(COUNTS)
    assert spread(()) == []


@pytest.mark.parametrize(
    ("budget", "code", "said"),
    [
        ("error", "E0715", "is not a budget"),
        ("error=x", "E0715", "is not a budget"),
        ("error=-1", "E0715", "is not a budget"),
        ("eror=1", "E0715", "did you mean `error`"),
        ("charm=0.9", "E0715", "measured are evaluations, seconds, error, psnr"),
    ],
)
def test_budgets_that_make_no_sense(tmp_path: Path, budget: str, code: str, said: str) -> None:
    spec, weights = made(tmp_path)
    with pytest.raises(DiagnosticError, match=said) as caught:
        tuned(spec, weights, tmp_path / "tuned", budget=[budget])
    assert caught.value.diagnostics[0].code == code
    assert not (tmp_path / "tuned").exists()


def test_samplers_with_noise_have_no_error_of_their_own(tmp_path: Path) -> None:
    spec, weights = made(tmp_path, sampler="{kind: ddpm, steps: 9}")
    with pytest.raises(DiagnosticError, match="no reference trajectory"):
        tuned(spec, weights, tmp_path / "tuned", budget=["error=1x"])
    found = tuned(spec, weights, tmp_path / "tuned", budget=[], evaluations=(8,))
    assert found.goal.bounds == (Bound("error", 0.05),)
    assert found.own.candidate.sampler.kind == "ddpm"


def test_token_samplers_have_no_steps_to_search() -> None:
    with pytest.raises(DiagnosticError) as caught:
        api.tune("digits_llamagen", "missing.safetensors", "nowhere")
    assert caught.value.diagnostics[0].code in ("E0708", "E0401")


def test_without_matplotlib_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, weights = made(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(DiagnosticError) as caught:
        tuned(spec, weights, tmp_path / "tuned")
    assert caught.value.diagnostics[0].code == "E0706" and "latentc[plots]" in str(caught.value)


def test_seeds_at_the_end_of_their_range(tmp_path: Path) -> None:
    spec, weights = made(tmp_path)
    tuned(spec, weights, tmp_path / "tuned", seed=(1 << 64) - 1, evaluations=(2,))
    for seed in (-1, 1 << 64):
        with pytest.raises(DiagnosticError) as caught:
            tuned(spec, weights, tmp_path / "tuned", seed=seed)
        assert caught.value.diagnostics[0].code == "E0608"


def test_a_folder_of_something_else_stays(tmp_path: Path) -> None:
    spec, weights = made(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DiagnosticError) as caught:
        tuned(spec, weights, tmp_path / "mine")
    assert caught.value.diagnostics[0].code == "E0502"
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


# ---- metrics

METRIC = """\
import beside

def judge(samples, classes):
    return {"darkness": -float(samples.mean()), "spread": (float(samples.std()), "higher")}

def bare(samples, classes):
    return 0.5

def taken(samples, classes):
    return {"error": 1.0}

def broken(samples, classes):
    return 1 / 0
"""


def test_a_metric_of_the_users(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text(METRIC)
    (tmp_path / "beside.py").write_text("")
    spec, weights = made(tmp_path)
    file = tmp_path / "metric.py"
    found = tuned(spec, weights, tmp_path / "tuned", budget=["spread=0.1x"], metric=f"{file}:judge", evaluations=(2,))
    assert found.goal.primary == "spread" and {"spread", "psnr"} == found.goal.higher
    assert found.chosen.quality["spread"] >= 0.1 * found.own.quality["spread"]
    for name, said in {"bare": "returned float", "taken": "returned error", "broken": "ZeroDivisionError"}.items():
        with pytest.raises(DiagnosticError, match=said) as caught:
            tuned(spec, weights, tmp_path / "other", metric=f"{file}:{name}")
        assert caught.value.diagnostics[0].code == "E0714"


def test_metrics_that_cannot_be_found(tmp_path: Path) -> None:
    (tmp_path / "metric.py").write_text("def judge(samples, classes): ...\n")
    (tmp_path / "bad.py").write_text("1 / 0\n")
    for place, code in {
        "metric.py": "E0714",
        "missing.py:judge": "E0401",
        "metric.py:jugde": "E0714",
        "bad.py:judge": "E0714",
    }.items():
        with pytest.raises(DiagnosticError) as caught:
            UserJudge(str(tmp_path / place))
        assert caught.value.diagnostics[0].code == code
    with pytest.raises(DiagnosticError, match="did you mean `judge`"):
        UserJudge(str(tmp_path / "metric.py:jugde"))


def test_figures_of_evaluate_are_a_budget(tmp_path: Path, plots: None) -> None:
    """By default the Fréchet distance to the held-out digits; those that are named, or that a budget names, as well."""
    spec, weights = made(tmp_path)
    judged = {"metric": "accuracy", "budget": ["fd=50x", "accuracy=0"]}
    found = tuned(spec, weights, tmp_path / "tuned", **judged, evaluations=(2,))
    assert {"fd_digits", "accuracy"} <= set(found.own.quality) and "recall" not in found.own.quality
    assert found.goal.primary == "fd_digits" and found.goal.higher >= {"accuracy", "psnr"}
    assert found.own.quality["fd_digits"] > 1 and 0 <= found.own.quality["accuracy"] <= 1
    with pytest.raises(DiagnosticError, match="did you mean `recall`"):
        tuned(spec, weights, tmp_path / "other", metric="recal")
    with pytest.raises(DiagnosticError, match="E0722"):
        tuned(spec, weights, tmp_path / "other", reference=str(tmp_path / "tuned"))


def test_the_distance_of_gaussians_is_known() -> None:
    white = np.random.default_rng(0).standard_normal((4000, 2))
    white = (white - white.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(white.T))).T
    assert frechet_distance(white, white * [3.0, 1.0] + [0.0, 2.0]) == pytest.approx(4.0 + 4.0)


def test_psnr() -> None:
    reference = np.array([0.0, 2.0])
    assert psnr(reference + 0.2, reference) == pytest.approx(20.0)
    assert psnr(reference, reference) == BEST


# ---- choosing


def row(gflop: float, error: float, evaluations: int, seconds: float = 1.0, score: float = 0.0) -> Measured:
    sampler = load_spec("digits_dit").sampler
    assert isinstance(sampler, ArraySampler)
    return Measured(Candidate(sampler), evaluations, gflop, seconds, {"error": error, "score": score})


def test_choosing() -> None:
    rows = [row(1, 0.5, 2, 0.1, 10), row(2, 0.1, 4, 0.2, 30), row(4, 0.05, 8, 0.4, 20), row(9, 0.2, 50, 2.0, 25)]
    own = rows[-1]

    def pick(*texts: str, primary: str = "error") -> Measured | None:
        goal = Goal(tuple(map(bound_from_text, texts)), primary, frozenset({"score"}))
        return goal.chosen(rows, own)

    assert pick("error=0.1") is rows[1]
    assert pick("error=1x") is rows[1]
    assert pick("error=0.06") is rows[2]
    assert pick("evaluations=8") is rows[2]
    assert pick("evaluations=8", primary="score") is rows[1]
    assert pick("evaluations=0.1x") is rows[1]
    assert pick("seconds=0.15") is rows[0]
    assert pick("score=1x", primary="score") is rows[1]
    assert pick("score=15", "error=0.08") is rows[2]
    assert pick("score=100") is None


def test_the_front() -> None:
    assert front([(3, 1.0), (1, 5.0), (2, 6.0), (2, 2.0), (3, 1.0), (4, 1.5)]) == [1, 3, 0]
    assert front([]) == []


REUSED = {"cache": {"blocks": [1, 27], "every": 3}, "stitch": {"network": "a_network_of_another_size", "until": 0.25}}


def test_the_legend_covers_no_point(tmp_path: Path) -> None:
    """It stands below all panels and their labels, within the picture."""
    own = point("ddim", 50, 1.0, 0.0)
    several = tuple(point("dpm_solver_pp", n, n / 50, 1 / n) for n in (2, 5, 10, 20))
    for bounds in ((Bound("error", 0.2),), (Bound("error", 0.2), Bound("psnr", 20.0))):
        goal = Goal(bounds, "error", frozenset({"psnr"}))
        long = replace(several[2], candidate=Candidate(several[2].candidate.sampler, optimize=REUSED))
        found = Tuned("tiny", "cpu", tmp_path, 1, 16, (), (*several, own, long), own, long, goal, 0.01, False)
        figure = plot.drawn(found)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box = legend.get_window_extent()
        assert len(figure.axes) == len(bounds)
        for axes in figure.axes:
            assert box.y1 <= axes.get_tightbbox().y0 and axes.get_window_extent().height > 0.5 * figure.bbox.height
        assert box.y0 >= 0 and box.x0 >= 0 and box.x1 <= figure.bbox.x1


def point(kind: str, steps: int, seconds: float, error: float) -> Measured:
    sampler = components.load("samplers")[kind].model_validate({"kind": kind, "steps": steps})
    return Measured(Candidate(sampler), steps, float(steps), seconds, {"error": error, "psnr": 30.0})  # type: ignore[arg-type]


def test_conditions_of_any_form(tmp_path: Path) -> None:
    """DP3: two arrays through an encoder, no label."""
    small = ("networks.main.widths=[16,32,64]", "networks.main.groups=8", "networks.encoder.features=16")
    bundle = tiny_bundle("dp3", tmp_path / "bundle", (*small, "sampler.steps=4"))
    spec = load_spec(bundle / "spec.yaml")
    weights = {name: read_safetensors(tmp_path / f"bundle.{name}.safetensors") for name in ("main", "encoder")}
    denoiser = open_denoiser(spec, weights)
    assert isinstance(spec.sampler, ArraySampler)
    given = denoiser.given(5, 6)
    ours = denoiser.samples(spec.sampler, given)
    pipe = load(bundle, "cpu")
    whole = next(iter(pipe.run(pipe.usual_request(6, 5)).values()))
    assert ours.shape == whole.shape == (6, 16, 26)
    assert np.max(np.abs(ours - whole)) < 1e-4 * np.max(np.abs(whole))
    assert np.max(np.abs(denoiser.samples(spec.sampler, denoiser.given(6, 6)) - whole)) > 1e-2 * np.max(np.abs(whole))
    assert labels_of(given, denoiser.lowered.conditions) is None


def test_classifiers_are_refused() -> None:
    """Candidates would sample without it."""
    spec = load_spec("adm_g")
    assert isinstance(spec.sampler, ArraySampler)
    with pytest.raises(DiagnosticError, match="does not support guidance by `classifier`"):
        tune_run._kind(spec)
