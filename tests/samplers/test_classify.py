"""The diffusion classifier: its program against the errors in numpy, rounds that share noise, exact likelihoods."""

from __future__ import annotations

from pathlib import Path
from statistics import NormalDist
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from bundles import tiny_bundle
from random_weights import weights_of

from latentc import api
from latentc.api.classifying import rounds_from_text
from latentc.cli import run
from latentc.components.samplers.base import parameterization_of
from latentc.diagnostics import DiagnosticError
from latentc.ir.interpret import Interpreter
from latentc.lower import lower
from latentc.spec import load_spec
from latentc.systems.diffusion_classifier.classify import spread_out
from latentc_runtime import BundleError
from latentc_runtime.classify import Round, classify
from latentc_runtime.sources import Condition

RNG = np.random.default_rng(11)
TINY = ("backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2", "sampler.steps=2")
PROCESSES = {
    "discrete": (),
    "flow": ("objective={kind: flow}", "sampler.kind=euler", "sampler.spacing=null"),
    "edm": (
        "objective={kind: diffusion, process: {kind: edm}, predicts: preconditioned}",
        *("sampler.kind=heun", "sampler.spacing=null"),
    ),
}


@pytest.mark.parametrize("kind", ["probability_flow", "predictor_corrector"])
def test_a_sampler_with_programs_of_its_own_has_this_one_too(kind: str) -> None:
    sampler = f"sampler={{kind: {kind}, steps: 2, likelihood: {{steps: 2}}}}"
    spec = load_spec("digits_edm", None, [sampler, "programs=[{kind: classify}]"])
    names = [program.name for program in lower(spec).programs]
    assert sorted(names) == ["classify", "log_likelihood", "sample"]


CASES = [("noise", "squared", None), ("prediction", "squared", None), ("noise", "absolute", 1), ("noise", "huber", 2)]
DISTANCES = {
    "squared": lambda d: d**2,
    "absolute": abs,
    "huber": lambda d: np.where(abs(d) < 1, d**2 / 2, abs(d) - 0.5),
}


@pytest.mark.parametrize(("error", "norm", "grid"), CASES)
@pytest.mark.parametrize("process", PROCESSES)
def test_the_program_is_the_mean_error_of_its_trials(process: str, error: str, norm: str, grid: int | None) -> None:
    grids = 1 if grid is None else 3
    classifying = f"programs=[{{kind: classify, trials: 4, error: {error}, norm: {norm}, grids: {grids}}}]"
    lowered = lower(load_spec("digits_dit", None, [*TINY, *PROCESSES[process], classifying]))
    program = lowered.program("classify", 4)
    oracle = Interpreter(lowered.module, weights_of(lowered, 0.3, RNG))
    x, y, noise = RNG.standard_normal((3, 1, 8, 8)), np.array([1, 5, 9]), RNG.standard_normal((4, 3, 1, 8, 8))
    given = {"x": x, "y": y, "noise": noise, "grid": np.full((3, 1), grid or 0)}
    names = [value.name for value in lowered.module.entry(program.entry).inputs]
    assert ("grid" in names) == (grid is not None)
    (found,) = oracle.run(program.entry, *(given[name] for name in names))
    forward = lowered.networks["main"].methods["forward"].function
    spec = load_spec("digits_dit", None, [*TINY, *PROCESSES[process]])
    target = parameterization_of(spec.objective)
    assert target is not None
    wanted = np.zeros(3)
    offset = 0 if grid is None else [1, 0, 2][grid]  # the grid in the middle is the first
    for k, z in enumerate(noise):
        part = (k * grids + offset + 0.5) / (4 * grids)
        if process == "discrete":
            t = int(part * 1000)
            alpha, sigma = (float(v) for v in (target.process.point(t).alpha, target.process.point(t).sigma))
            scale, told, truth, noisiness = 1.0, t, alpha * z - sigma * x, alpha
        elif process == "flow":
            alpha, sigma = part, 1 - part
            scale, told, truth, noisiness = 1.0, part, x - z, part
        else:
            sigma = float(np.exp(-1.2 + 1.2 * NormalDist().inv_cdf(part)))
            half = target.process.sigma_data
            alpha, scale, told = 1.0, 1 / np.sqrt(sigma**2 + half**2), np.log(sigma) / 4
            c_skip, c_out = half**2 / (sigma**2 + half**2), sigma * half / np.sqrt(sigma**2 + half**2)
            truth, noisiness = (x - c_skip * (x + sigma * z)) / c_out, c_out / sigma
        x_t = alpha * x + sigma * z
        out = oracle.run(forward, scale * x_t, np.full(3, float(told)), y, prefix="main")[0]
        factor = noisiness if error == "noise" else 1.0
        wanted += np.mean(DISTANCES[norm](factor * (out - truth)), axis=(1, 2, 3)) / 4
    assert np.allclose(found, wanted, rtol=1e-9)


def test_grids_are_taken_from_the_middle_on_far_from_each_other() -> None:
    assert spread_out(1) == [0] and spread_out(10)[:4] == [5, 0, 2, 7]
    assert sorted(spread_out(25)) == list(range(25))


class Fake:
    """A pipeline whose program's error is the distance of the class from what the sample says, plus shared noise."""

    def __init__(self, name: str = "classify") -> None:
        self.asked: list[tuple[int, int, int]] = []
        label = Condition("class", "label", classes=5)
        state = Condition("x", "array", (2,), "f32")
        entry = SimpleNamespace(name=name, steps=3, inputs=(), chunk=None)
        self.manifest: Any = SimpleNamespace(
            programs=[entry], conditions_of=lambda _: (state, label), settings_of=lambda _: (), conditions=(label,)
        )

    def program(self, name: str) -> Any:
        return self.manifest.programs[0]

    def run(self, request: Any, batch: int | None) -> dict[str, np.ndarray]:
        given = request.given
        seeds, y, x = given.seeds, given.conditions["class"], given.conditions["x"]
        self.asked += [(int(x[i, 1]), int(y[i]), int(s)) for i, s in enumerate(seeds)]
        noise = np.random.default_rng(0).permutation(np.unique(seeds).size)[np.unique(seeds, return_inverse=True)[1]]
        return {"error": (x[:, 0] - y) ** 2 + noise}


def test_rounds_drop_classes_and_share_noise() -> None:
    pipe: Any = Fake()
    samples = np.array([[2.1, 0], [4.0, 1]])
    found = classify(pipe, samples, [Round(1, 3), Round(2, 1)])
    assert found.labels.tolist() == [2, 4]
    assert found.runs.tolist() == [[1, 3, 3, 3, 1], [1, 1, 3, 3, 3]]
    assert found.evaluations == 3 * found.runs.sum()
    by_sample = {i: {} for i in (0, 1)}
    for i, y, s in pipe.asked:
        by_sample[i].setdefault(s, []).append(y)
    assert [sorted(map(len, runs.values())) for runs in by_sample.values()] == [[3, 3, 5], [3, 3, 5]]
    assert not set(by_sample[0]) & set(by_sample[1])


@pytest.mark.parametrize("shape", [(3, 4), (1,)])
def test_an_array_called_grid_is_the_callers(shape: tuple[int, ...]) -> None:
    pipe, given = Fake(), np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    state, label = pipe.manifest.conditions_of(None)
    own, seen, run = Condition("grid", "array", shape, "f32"), [], pipe.run
    pipe.manifest.conditions_of = lambda _: (state, label, own)
    pipe.manifest.conditions = (label, own)
    pipe.run = lambda request, batch: (seen.append(request.given.conditions["grid"]), run(request, batch))[1]
    classify(pipe, np.array([[2.1, 0]]), [Round(1)], conditions={"grid": given})
    assert all(np.array_equal(one, given) for one in seen[0]) and len(seen[0]) == 5


def test_candidates() -> None:
    pipe: Any = Fake()
    found = classify(pipe, np.array([[2.1, 0]]), classes=[0, 4])
    assert found.labels.tolist() == [4] and np.isinf(found.errors[0, [1, 2, 3]]).all()


@pytest.mark.parametrize(
    "asked", [{"classes": [5]}, {"classes": [-1]}, {"classes": [1.5]}, {"classes": []}, {"seed": -1}]
)
def test_candidates_and_seeds_out_of_range(asked: dict[str, Any]) -> None:
    pipe: Any = Fake()
    with pytest.raises(BundleError, match="E0608"):
        classify(pipe, np.array([[2.1, 0]]), **asked)


def test_a_flow_classifies_by_its_likelihood() -> None:
    pipe: Any = Fake("log_likelihood")
    found = classify(pipe, np.array([[0.0, 0]]), [Round(5, 1)])
    assert found.labels.tolist() == [4] and found.runs.max() == 1  # the greatest likelihood


def test_the_engine_classifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    bundle = tiny_bundle(
        "digits_dit", tmp_path / "bundle", (*TINY, "programs=[{kind: classify, trials: 2, grids: 2}]"), max_batch=None
    )
    x, y = RNG.standard_normal((3, 1, 8, 8)).astype(np.float32), np.array([1, 2, 3])
    np.savez(tmp_path / "x.npz", x=x, y=y)
    found, truth = api.classify(bundle, tmp_path / "x.npz", "1:2,1", output=tmp_path / "out.npz")
    assert truth is not None and truth.tolist() == [1, 2, 3]
    once = int(found.runs[0].argmin())  # dropped after the first run, whose seed is 0
    errors = api.sample(bundle, [once], program="classify", given={"x": x[0]}, seed=0)
    assert found.runs[0, once] == 1 and found.errors[0, once] == pytest.approx(errors[0], rel=1e-5)
    twice = int(found.runs[0].argmax())  # the second run is at the other grid, its seed has the run's number
    runs = [(0, 0), (1, 1 << 40)]
    errors = [api.sample(bundle, [twice], program="classify", given={"x": x[0], "grid": [k]}, seed=s) for k, s in runs]
    assert found.errors[0, twice] == pytest.approx(np.mean(errors), rel=1e-5)
    with np.load(tmp_path / "out.npz") as file:
        assert file["labels"].tolist() == found.labels.tolist() and file["runs"].sum() == 3 * (10 + 2)
    with pytest.raises(DiagnosticError, match="`tench` is not a class"):
        api.classify(bundle, x, classes=["tench"])
    assert run(["classify", str(bundle), str(tmp_path / "x.npz")]) == 0
    assert "of 3 samples, 60 evaluations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["programs=[classify]", "conditioning={time: {kind: timestep}}", "sampler.guidance=null"],
            "classification needs a network that takes the class",
        ),
        (
            [
                "programs=[{kind: classify, grids: 2}]",
                "conditioning.grid={kind: vector}",
                "data.fields.grid={shape: [2]}",
            ],
            "the name of the program's input",
        ),
    ],
)
def test_what_is_refused(overrides: list[str], words: str) -> None:
    with pytest.raises(DiagnosticError) as refused:
        load_spec("digits_dit", None, [*TINY, *overrides])
    assert words in str(refused.value.diagnostics[0].message)


def test_rounds_that_are_none() -> None:
    assert rounds_from_text("1:5, 4") == [(1, 5), (4, None)]
    with pytest.raises(DiagnosticError, match="`a` is not a round"):
        rounds_from_text("1,a")


@pytest.mark.parametrize(("field", "condition"), [("grid", "more"), ("more", "grid")])
def test_nothing_else_has_the_name_of_the_input_that_numbers_grids(field: str, condition: str) -> None:
    data = f"data={{kind: npz, path: x.npz, classes: 10, shape: [1, 8, 8], fields: {{{field}: {{shape: [3]}}}}}}"
    given = [*TINY, data, f"conditioning.{condition}={{kind: vector, field: {field}}}"]
    lower(load_spec("digits_dit", None, [*given, "programs=[{kind: classify, trials: 2}]"]))
    with pytest.raises(DiagnosticError, match="the name of the program's input that numbers its grids"):
        load_spec("digits_dit", None, [*given, "programs=[{kind: classify, trials: 2, grids: 3}]"])
