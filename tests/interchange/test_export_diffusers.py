"""Specs and bundles become folders that diffusers loads, with equal weights and images."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from tiny_model import write_random_weights
from tiny_pipelines import ours, pipeline, same_weights, settings, theirs, unet, vae, vq

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec


def test_a_pipeline_there_and_back(tmp_path: Path) -> None:
    """import → export → from_pretrained: the same weights, settings and images."""
    scheduler = diffusers.DPMSolverMultistepScheduler(solver_order=3, beta_schedule="scaled_linear")
    before = pipeline(tmp_path / "before", scheduler, names=False)
    api.import_checkpoint(tmp_path / "before", tmp_path / "imported")
    made = api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "after")
    assert made.pipeline == "DiTPipeline"
    assert [note for note in made.notes if "guidance_scale=4" not in note] == []
    after = diffusers.DiTPipeline.from_pretrained(tmp_path / "after")
    for part in ("transformer", "vae"):
        same_weights(getattr(before, part), getattr(after, part))
        assert settings(getattr(before, part)) == settings(getattr(after, part))
    assert type(after.scheduler) is type(before.scheduler)
    assert np.array_equal(theirs(after, [1, 2], 4), theirs(before, [1, 2], 4))
    assert settings(after.scheduler) == settings(before.scheduler)


def test_a_bundle_becomes_a_pipeline(tmp_path: Path) -> None:
    """The images of the pipeline are those of the bundle; its encoder comes from the file that the spec names."""
    pipeline(tmp_path / "before", names=False)
    api.import_checkpoint(tmp_path / "before", tmp_path / "imported")
    api.compile(tmp_path / "imported/spec.yaml", None, tmp_path / "bundle", overrides=["sampler.steps=4"])
    made = api.export_diffusers(tmp_path / "bundle", tmp_path / "after")
    after = diffusers.DiTPipeline.from_pretrained(tmp_path / "after")
    assert np.abs(theirs(after, [5, 6], 4) - ours(tmp_path / "bundle", [5, 6], (4, 4, 4))).max() < 1e-4
    (tmp_path / "before").rename(tmp_path / "gone")
    alone = api.export_diffusers(tmp_path / "bundle", tmp_path / "alone")
    assert (made.pipeline, alone.pipeline) == ("DiTPipeline", None)
    assert any("first_stage=FILE" in note for note in alone.notes)
    found = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "alone", subfolder="transformer")
    same_weights(found, after.transformer)


def test_a_u_net_there_and_back(tmp_path: Path) -> None:
    """DDIMPipeline's images are those of the imported spec; ADM's order of query, key and value rows is undone."""
    before = diffusers.DDIMPipeline(unet(out_channels=3), diffusers.DDIMScheduler())
    before.save_pretrained(tmp_path / "before")
    api.import_checkpoint(tmp_path / "before", tmp_path / "imported")
    spec = tmp_path / "imported/spec.yaml"
    api.compile(spec, None, tmp_path / "bundle", overrides=["sampler.steps=5"])
    noise = torch.Generator().manual_seed(0)
    before.set_progress_bar_config(disable=True)
    images = before(2, noise, num_inference_steps=5, output_type="np").images.transpose(0, 3, 1, 2)
    assert np.abs(ours(tmp_path / "bundle", None, (3, 8, 8), 2) - images).max() < 1e-4
    made = api.export_diffusers(spec, tmp_path / "after")
    assert made.pipeline == "DDPMPipeline"
    same_weights(diffusers.DDPMPipeline.from_pretrained(tmp_path / "after").unet, before.unet)


@pytest.mark.parametrize("order", ["heads", "channels"])
def test_rows_of_queries_in_another_order(order: str, tmp_path: Path) -> None:
    """A class-conditional U-Net with official weights computes the same in diffusers."""
    net = unet(num_class_embeds=7)
    net.save_pretrained(tmp_path / "unet")
    api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")
    overrides = [f"backbone.block.qkv={order}"]
    spec = tmp_path / "imported/spec.yaml"
    made = api.export_diffusers(spec, tmp_path / "after", overrides=overrides)
    assert "no DDPMPipeline, whose network takes no condition: this one takes class" in made.notes
    again = diffusers.UNet2DModel.from_pretrained(tmp_path / "after", subfolder="unet")
    x, t, y = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32), [3.0, 700.0], [0, 6]
    inputs = {"x": x, "t": np.array(t, np.float32), "y": np.array(y)}
    expected = api.forward(spec, None, inputs, overrides=overrides)
    found = again(torch.from_numpy(x), torch.tensor(t), torch.tensor(y)).sample.detach().numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("padding", [0, 1])
def test_a_u_net_whose_levels_are_joined_by_convolutions(padding: int, tmp_path: Path) -> None:
    """DDPM's U-Net in diffusers, whose convolutions of stride 2 pad behind alone (0) or on both sides (1)."""
    net = unet(
        **{"downsample_type": "conv", "upsample_type": "conv", "downsample_padding": padding, "out_channels": 3},
        **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
        **{"resnet_time_scale_shift": "default", "attn_norm_num_groups": None},
    )
    net.save_pretrained(tmp_path / "unet")
    api.import_checkpoint(tmp_path / "unet", tmp_path / "imported")
    x, t = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32), [3.0, 700.0]
    found = api.forward(tmp_path / "imported/spec.yaml", None, {"x": x, "t": np.array(t, np.float32)})
    wanted = net(torch.from_numpy(x), torch.tensor(t)).sample.detach().numpy()
    assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    api.export_diffusers(tmp_path / "imported/spec.yaml", tmp_path / "after")
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path / "after").unet
    same_weights(again, net)
    assert again.config.downsample_padding == padding


def test_a_dit_of_pixels_is_a_model_and_a_scheduler(tmp_path: Path) -> None:
    """Without a first stage there is no pipeline; the timestep's frequencies are the authors', with a warning."""
    write_random_weights("digits_dit", tmp_path / "w.safetensors", 0.05)
    made = api.export_diffusers("digits_dit", tmp_path / "out", tmp_path / "w.safetensors")
    said = "\n".join(made.notes)
    assert made.pipeline is None and "needs an autoencoder" in said and "endpoint is False" in said
    net = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    diffusers.DDIMScheduler.from_pretrained(tmp_path / "out", subfolder="scheduler")
    x, t, y = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32), [3.0, 700.0], [0, 9]
    inputs = {"x": x, "t": np.array(t, np.float32), "y": np.array(y)}
    side = load_spec("digits_dit").data.shape[1]
    assert side == 8
    exact = ["conditioning.time.endpoint=true"]
    expected = api.forward("digits_dit", tmp_path / "w.safetensors", inputs, overrides=exact)
    found = net(torch.from_numpy(x), torch.tensor(t), torch.tensor(y)).sample.detach().numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_autoencoders_there_and_back(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    for name, before in {"vae": vae(), "vq": vq()}.items():
        before.save_pretrained(tmp_path / name)
        api.import_checkpoint(tmp_path / name, tmp_path / f"{name}-imported")
        spec = tmp_path / f"{name}-imported/spec.yaml"
        expected = before(torch.from_numpy(x)).sample.detach().numpy()
        assert np.abs(api.forward(spec, None, {"x": x}) - expected).max() < 1e-4 * np.abs(expected).max()
        api.export_diffusers(spec, tmp_path / f"{name}-after")
        after = type(before).from_pretrained(tmp_path / f"{name}-after")
        same_weights(before, after)
        lost = {"sample_size", "scaling_factor", "force_upcast"}
        assert {k: v for k, v in settings(before).items() if k not in lost} == {
            k: v for k, v in settings(after).items() if k not in lost
        }


def test_a_codebook_of_directions_is_one_of_unit_rows(tmp_path: Path) -> None:
    vq().save_pretrained(tmp_path / "vq")
    api.import_checkpoint(tmp_path / "vq", tmp_path / "imported")
    spec, directions = tmp_path / "imported/spec.yaml", ["backbone.bottleneck.normalize=true"]
    api.export_diffusers(spec, tmp_path / "after", overrides=directions)
    after = diffusers.VQModel.from_pretrained(tmp_path / "after")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    expected = api.forward(spec, None, {"x": x}, overrides=directions)
    found = after(torch.from_numpy(x)).sample.detach().numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(api.forward(spec, None, {"x": x}) - expected).max() > 1e-2


def test_rows_that_average_latents_are_refused(tmp_path: Path) -> None:
    vq().save_pretrained(tmp_path / "vq")
    api.import_checkpoint(tmp_path / "vq", tmp_path / "imported")
    spec, own = tmp_path / "imported/spec.yaml", tmp_path / "averages.yaml"
    own.write_text(spec.read_text().replace("normalize: false", "normalize: false, decay: 0.9"))
    assert "decay" in own.read_text()
    write_random_weights(own, tmp_path / "averages.safetensors", 0.05)
    with pytest.raises(DiagnosticError, match="rows of its codebook average latents"):
        api.export_diffusers(own, tmp_path / "after", tmp_path / "averages.safetensors")
