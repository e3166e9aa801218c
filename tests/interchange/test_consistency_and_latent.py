"""Consistency models and latent diffusion of diffusers: the same images, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
from test_export_diffusers import same_weights, settings
from tiny_pipelines import consistency, images_of, latent, noises, ours, unet, vae, vq

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec


def in_steps(bundle: Path, classes: list[int] | None) -> np.ndarray:
    """Images in 0 to 1 of two samples, from the noise of every step."""
    images = api.sample(bundle, classes, noise=noises(bundle, 2), count=None if classes else 2)
    return np.asarray((images / 2 + 0.5).clip(0, 1))


STEPS: dict[str, tuple[list[int] | None, list[str], dict[str, Any]]] = {
    "one": (None, [], {}),
    "three": ([2, 6], ["sampler.steps=3"], {"num_inference_steps": 3}),
    "listed": ([2, 6], ["sampler.steps=2", "sampler.spacing.at=[0, 22]"], {"timesteps": [22, 0]}),
}


@pytest.mark.parametrize("kind", STEPS)
def test_consistency_models_make_the_same_images(kind: str, tmp_path: Path) -> None:
    """One step by default, evenly many levels of the grid, or levels that are listed as the paper's `ts`."""
    classes, changes, call = STEPS[kind]
    pipe = consistency(tmp_path / "theirs", num_class_embeds=None if classes is None else 7)
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    assert found.notes == () and "extends: cm\n" in found.spec.read_text()
    api.compile(found.spec, None, tmp_path / "bundle", overrides=changes)
    expected = images_of(pipe, 2, classes, **call)
    assert expected.std() > 0.03
    assert np.abs(in_steps(tmp_path / "bundle", classes) - expected).max() < 1e-4


def test_a_consistency_model_there_and_back(tmp_path: Path) -> None:
    before = consistency(tmp_path / "before", levels=18, num_class_embeds=7)
    api.import_checkpoint(tmp_path / "before", tmp_path / "imported")
    made = api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "after")
    assert (made.pipeline, made.notes) == ("ConsistencyModelPipeline", ())
    after = diffusers.ConsistencyModelPipeline.from_pretrained(tmp_path / "after")
    same_weights(before.unet, after.unet)
    assert settings(before.scheduler) == settings(after.scheduler)
    listed = ["sampler.spacing.at=[0, 9]", "sampler.steps=2"]
    with pytest.raises(DiagnosticError, match=r"timesteps=\[9, 0\]"):
        api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "other", overrides=listed)


def test_other_schedulers_of_a_consistency_model_are_refused(tmp_path: Path) -> None:
    pipe = consistency(tmp_path / "theirs")
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "theirs/scheduler")
    with pytest.raises(DiagnosticError, match="supported classes: CMStochasticIterativeScheduler"):
        api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    pipe.scheduler.save_pretrained(tmp_path / "denoiser/scheduler")
    diffusers.DDPMPipeline(unet(out_channels=3), diffusers.DDPMScheduler()).save_pretrained(tmp_path / "denoiser")
    pipe.scheduler.save_pretrained(tmp_path / "denoiser/scheduler")
    with pytest.raises(DiagnosticError, match="the scheduler CMStochasticIterativeScheduler has no equivalent"):
        api.import_checkpoint(tmp_path / "denoiser", tmp_path / "own")
    noisy = diffusers.CMStochasticIterativeScheduler(s_noise=1.003)
    noisy.save_pretrained(tmp_path / "theirs/scheduler")
    with pytest.raises(DiagnosticError, match=r"s_noise is 1\.003"):
        api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")


def test_latent_diffusion_makes_the_same_images(tmp_path: Path) -> None:
    """The decoder chooses rows of the codebook; the pipeline scales the state of every scheduler."""
    pipe = latent(tmp_path / "theirs", diffusers.EulerDiscreteScheduler())
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    assert found.notes == ()
    stage = load_spec(tmp_path / "own/first_stage.yaml").networks["main"].bottleneck
    assert (stage.kind, load_spec(found.spec).data.first_stage.scale) == ("late_codebook", 0.5)
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=4"])
    expected = images_of(pipe, 2, num_inference_steps=4)
    assert expected.std() > 0.05
    assert np.abs(ours(tmp_path / "bundle", None, (4, 4, 4), 2) - expected).max() < 1e-4


def test_latent_diffusion_there_and_back(tmp_path: Path) -> None:
    before = latent(tmp_path / "before")
    api.import_checkpoint(tmp_path / "before", tmp_path / "imported")
    made = api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "after")
    assert (made.pipeline, made.notes) == ("LDMPipeline", ())
    after = diffusers.LDMPipeline.from_pretrained(tmp_path / "after")
    same_weights(before.unet, after.unet)
    same_weights(before.vqvae, after.vqvae)
    assert settings(before.scheduler) == settings(after.scheduler)
    assert after.vqvae.config.scaling_factor == 0.5
    api.compile(tmp_path / "imported/spec.yaml", None, tmp_path / "bundle", overrides=["sampler.steps=2"])
    expected = images_of(after, 2, num_inference_steps=2)
    assert np.abs(ours(tmp_path / "bundle", None, (4, 4, 4), 2) - expected).max() < 1e-4
    (tmp_path / "before").rename(tmp_path / "gone")
    alone = api.export_diffusers(tmp_path / "bundle", tmp_path / "alone")
    assert alone.pipeline is None and "no LDMPipeline, which needs an autoencoder" in "".join(alone.notes)


def test_a_gaussian_autoencoder_of_latent_diffusion(tmp_path: Path) -> None:
    pipe = latent(tmp_path / "theirs")
    pipe = diffusers.LDMPipeline(vae(), pipe.unet, pipe.scheduler)
    pipe.save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "own")
    made = api.export_diffusers(found.spec, tmp_path / "after")
    assert made.pipeline == "LDMPipeline"
    same_weights(diffusers.LDMPipeline.from_pretrained(tmp_path / "after").vqvae, pipe.vqvae)


def test_spatial_norms_of_a_decoder_are_refused(tmp_path: Path) -> None:
    vq().save_pretrained(tmp_path / "vq")
    config = tmp_path / "vq/config.json"
    config.write_text(config.read_text().replace('"norm_type": "group"', '"norm_type": "spatial"'))
    with pytest.raises(DiagnosticError, match="norm_type is 'spatial': norms of the decoder that the codes scale"):
        api.import_checkpoint(tmp_path / "vq", tmp_path / "own")
