"""Pipelines of diffusers become specs whose bundles make the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from tiny_pipelines import looped, ours, pipeline, theirs

from latentc import api

SCHEDULERS: dict[str, Any] = {
    "ddim": diffusers.DDIMScheduler(clip_sample=False),
    "ddim-clipped": diffusers.DDIMScheduler(clip_sample_range=2.0),
    "ddim-leading-offset": diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    ),
    "ddim-v-trailing": diffusers.DDIMScheduler(
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        clip_sample=False,
        beta_schedule="squaredcos_cap_v2",
    ),
    "dpm-solver-pp": diffusers.DPMSolverMultistepScheduler(),
    "dpm-solver-pp-3-leading": diffusers.DPMSolverMultistepScheduler(
        solver_order=3, solver_type="heun", timestep_spacing="leading", steps_offset=1, final_sigmas_type="sigma_min"
    ),
    "euler": diffusers.EulerDiscreteScheduler(),
    "euler-leading": diffusers.EulerDiscreteScheduler(timestep_spacing="leading", steps_offset=1),
    "euler-karras": diffusers.EulerDiscreteScheduler(use_karras_sigmas=True),
    "heun": diffusers.HeunDiscreteScheduler(timestep_spacing="trailing"),
    "unipc": diffusers.UniPCMultistepScheduler(solver_order=3),
    "deis": diffusers.DEISMultistepScheduler(lower_order_final=False),
}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A pipeline's folder, of which tests replace the scheduler."""
    folder = tmp_path_factory.mktemp("pipeline") / "dit"
    return folder, pipeline(folder)


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_images_are_those_of_the_pipeline(kind: str, transformer: tuple[Path, Any], tmp_path: Path) -> None:
    folder, pipe = transformer
    scheduler = SCHEDULERS[kind]
    scheduler.save_pretrained(folder / "scheduler")
    pipe.scheduler = scheduler
    found = api.import_checkpoint(folder, tmp_path / "imported")
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=5"])
    made = ours(tmp_path / "bundle", [3, 999], (4, 4, 4))
    expected = (looped if kind.startswith(("euler", "heun")) else theirs)(pipe, [3, 999], 5)
    assert made.std() > 0.05
    assert np.abs(made - expected).max() < 1e-4
