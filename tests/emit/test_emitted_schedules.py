"""schedule.py of emitted projects: other steps and spacings give what a project emitted with them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emitted import emitted
from forked import python
from safetensors.torch import save_file

from latentc.emit import project_from_lowered
from latentc.lower import lower
from latentc.spec import load_spec
from latentc_runtime.sources import Given

DIT = ["backbone.width=16", "backbone.depth=1", "backbone.block.mixer.heads=2"]
DIT += ["data={kind: npz, classes: 5, shape: [4, 8, 8]}", "objective.process.steps=100"]
EDM = [*DIT[:-1], "objective={kind: diffusion, process: {kind: edm}, predicts: preconditioned}"]
SIT = [*DIT[:-1], "backbone.depth=1"]
CHURN = "{kind: heun, churn: {amount: 10, max: 50}, steps: %d}"
CASES: dict[str, tuple[str, list[str], str, str, dict[str, Any]]] = {
    "heun": (
        "dit",
        EDM,
        "{kind: heun, steps: 3}",
        "{kind: heun, steps: 5, spacing: {kind: karras, rho: 5}}",
        {"steps": 5, "rho": 5.0},
    ),
    "churn": ("dit", EDM, CHURN % 3, CHURN.replace("10", "20") % 4, {"steps": 4, "S_churn": 20.0}),
    "ddpm": ("dit", DIT, "{kind: ddpm, steps: 3}", "{kind: ddpm, steps: 6}", {"steps": 6}),
    "ddim": (
        "dit",
        DIT,
        "{kind: ddim, steps: 3, eta: 1}",
        "{kind: ddim, steps: 5, eta: 0.5}",
        {"steps": 5, "eta": 0.5},
    ),
    "deis": ("dit", DIT, "{kind: deis, steps: 4}", "{kind: deis, steps: 7}", {"steps": 7}),
    "deis of data": ("dit", EDM, "{kind: deis, steps: 4}", "{kind: deis, steps: 7}", {"steps": 7}),
    "predictor_corrector": (
        "dit",
        [*DIT[:-1], "objective={kind: diffusion, process: {kind: vp}}"],
        "{kind: predictor_corrector, steps: 30}",
        "{kind: predictor_corrector, steps: 40, snr: 0.2, corrector_steps: 2}",
        {"steps": 40, "snr": 0.2, "corrector_steps": 2},
    ),
    "unipc": ("dit", DIT, "{kind: unipc, steps: 4}", "{kind: unipc, steps: 7}", {"steps": 7}),
    "euler_maruyama": (
        "sit",
        SIT,
        "{kind: euler_maruyama, steps: 4}",
        "{kind: euler_maruyama, steps: 6, last_size: 0.1}",
        {"steps": 6, "last_size": 0.1},
    ),
}


def project_at(name: str, overrides: list[str], sampler: str) -> tuple[Any, Any]:
    spec = load_spec(name, overrides=[*overrides, f"sampler={sampler}"])
    return lower(spec, to_emit=True), spec


def inputs_of(program: Any, rows: int) -> list[torch.Tensor]:
    """Inputs of two samples of class 1, the scale of guidance 2, and normals."""
    given = Given(np.arange(2, dtype=np.uint64), {"class": np.ones(2, np.int64)}, {}, {"guidance": np.full(2, 2.0)})
    found = program.inputs(given).values()
    arrays = [np.stack([*map(a[1], range(rows))]) if isinstance(a, tuple) else a for a in found]
    return [torch.tensor(a, dtype=torch.float32 if a.dtype.kind == "f" else None) for a in arrays]


@pytest.mark.parametrize("case", CASES)
def test_other_arguments_are_another_project(case: str, tmp_path: Path) -> None:
    name, overrides, sampler, other, settings = CASES[case]
    results = []
    for text, given in ((sampler, settings), (other, {}), (sampler, {})):
        folder = tmp_path / str(len(results))
        lowered, spec = project_at(name, overrides, text)
        with emitted(lowered, spec, folder) as project, torch.no_grad():
            torch.manual_seed(0)
            model = project.model.build().eval()
            for parameter in model.parameters():
                parameter.normal_(std=0.1)
            (program,) = project.sampler.PROGRAMS["sample"].values()
            parts = [part for part in program.schedule(**given) if isinstance(part, dict)]
            rows = sum(len(part["t"]) for part in parts if "noise" in part)
            results.append(program.sample(model, *inputs_of(program, rows), **given))
    assert torch.isfinite(results[0]).all()
    assert torch.equal(results[0], results[1])
    assert results[2].shape == results[0].shape and not torch.equal(results[0], results[2])


def test_flags_of_sample(tmp_path: Path) -> None:
    """Stochastic steps draw the noise of their number of rows; what no schedule has is refused without a traceback."""
    made = {}
    for steps in (3, 5):
        lowered, spec = project_at("dit", DIT, f"{{kind: ddim, steps: {steps}, eta: 1}}")
        project_from_lowered(lowered, spec, tmp_path / str(steps))
        flags = ["--steps", "5"] if steps == 3 else []
        with emitted(lowered, spec, tmp_path / "weights") as project:
            torch.manual_seed(0)
            save_file(project.model.build().state_dict(), tmp_path / "w.safetensors")
        command = ["sample.py", "--weights", "../w.safetensors", "--class", "0-1", "--per-class", "1", *flags]
        done = python(tmp_path / str(steps), *command, "--raw", "out.npz")
        assert done.returncode == 0, done.stderr
        made[steps] = np.load(tmp_path / str(steps) / "out.npz")["samples"]
    assert np.array_equal(made[3], made[5])
    for flags, said in (
        (["--steps", "200"], "out of range"),
        (["--eta", "nan"], "not finite"),
        (["--rho", "5"], "--rho"),
    ):
        done = python(tmp_path / "3", *command, *flags)
        assert done.returncode in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


def test_coefficients_that_the_text_leaves_out(tmp_path: Path) -> None:
    """With one step a solver of order 2 is of order 1, and its text has no earlier estimates: more steps need them."""
    lowered, spec = project_at("dit", DIT, "{kind: dpm_solver_pp, steps: 1}")
    with emitted(lowered, spec, tmp_path) as project:
        (program,) = project.sampler.PROGRAMS["sample"].values()
        with pytest.raises(SystemExit, match="is not always 0: emit the project again"):
            program.sample(project.model.build(), *inputs_of(program, 0), steps=5)
