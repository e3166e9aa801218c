"""Text-to-image pipelines of diffusers become specs that draw the same images for the same features of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from test_export_diffusers import same_weights, settings
from tiny_pipelines import flux, ours, pixart, sd3, vae

from latentc import api
from latentc.diagnostics import DiagnosticError
from latentc.spec import load_spec

SHAPE = (4, 8, 8)


def features(length: int, channels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of two texts [2, L, C], and a mask of their tokens."""
    drawn = torch.randn((2, length, channels), generator=torch.Generator().manual_seed(seed))
    return drawn, torch.arange(length) < torch.tensor([[length - 2], [3]])


def theirs(pipe: Any, steps: int, guidance: float, **given: Any) -> np.ndarray:
    """Images [2, C, H, W] in 0 to 1 of a text-to-image pipeline for given features."""
    pipe.set_progress_bar_config(disable=True)
    side = SHAPE[1] * 2
    made = pipe(
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(0),
        height=side,
        width=side,
        output_type="np",
        **given,
    )
    return np.asarray(made.images.transpose(0, 3, 1, 2))


PIXART = {
    "Alpha": (120, {}),
    # positions twice as close, as in 1024 × 1024 images; another path and no variance
    "Sigma": (300, {"interpolation_scale": 2, "out_channels": 4}),
}


@pytest.mark.parametrize("which", PIXART)
def test_pixart_draws_the_same_images(which: str, tmp_path: Path) -> None:
    length, changed = PIXART[which]
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_schedule="linear")
    kind = getattr(diffusers, f"PixArt{which}Pipeline")
    pipe = kind(None, None, vae(), pixart(**changed), scheduler)
    pipe.save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    assert [note for note in found.notes if "caption_null" not in note] == []
    assert "--given caption=FILE --given caption_null=FILE" in found.commands[2]
    overrides = [f"data.fields.{name}.shape=[7, 12]" for name in ("caption", "caption_null")]
    overrides += [f"data.fields.{name}_mask.shape=[7]" for name in ("caption", "caption_null")]
    assert load_spec(found.spec).data.fields["caption"].shape == (length, 12)
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=5", *overrides])
    (told, mask), (null, null_mask) = features(7, 12, 1), features(7, 12, 2)
    given = {"caption": {"value": told.numpy(), "mask": mask.numpy()}}
    given["caption_null"] = {"value": null.numpy(), "mask": null_mask.numpy()}
    texts = {"prompt_embeds": told, "prompt_attention_mask": mask.long(), "negative_prompt": None}
    texts |= {"negative_prompt_embeds": null, "negative_prompt_attention_mask": null_mask.long()}
    drawn = {}
    for guidance in (4.5, 1.0):
        expected = theirs(pipe, 5, guidance, use_resolution_binning=False, **texts)
        drawn[guidance] = ours(tmp_path / "bundle", None, SHAPE, 2, given, guidance)
        assert np.abs(drawn[guidance] - expected).max() < 1e-4
    assert drawn[4.5].std() > 0.05 and np.abs(drawn[4.5] - drawn[1.0]).max() > 0.02
    made = api.export_diffusers(found.spec, tmp_path / "back")
    assert made.pipeline is None and any("text encoders" in note for note in made.notes)
    again = diffusers.PixArtTransformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer")
    same_weights(again, pipe.transformer)
    written = {"interpolation_scale": changed.get("interpolation_scale", 1), "use_additional_conditions": False}
    assert settings(again) == {**settings(pipe.transformer), **written}


def test_pixart_with_its_text_encoder(tmp_path: Path) -> None:
    """Tokens are encoded by T5 in the program; guidance contrasts with a text that only ends."""
    sizes = {"vocab_size": 40, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_layers": 2, "num_heads": 3}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu")
    torch.manual_seed(1)
    text = transformers.T5EncoderModel(config).eval()
    pipe = diffusers.PixArtAlphaPipeline(
        None, text, vae(), pixart(), diffusers.DPMSolverMultistepScheduler(beta_schedule="linear")
    )
    pipe.save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "without")
    assert found.notes == ("tokenizer has no tokenizer.json, so requests pass tokens instead of texts",)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "red": 3, "a": 7, "bird": 9, "sings": 22, "birds": 30}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    (tmp_path / "theirs/tokenizer").mkdir()
    tokenizer.save(str(tmp_path / "theirs/tokenizer/tokenizer.json"))
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    assert found.notes == ()
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=4"])
    tokens = np.zeros((2, 120), np.int64)
    tokens[0, :5], tokens[1, :3] = [7, 3, 9, 22, 1], [30, 2, 1]  # with an unknown word
    empty = np.zeros((2, 120), np.int64)
    empty[:, 0] = 1
    texts: dict[str, Any] = {"negative_prompt": None}
    for name, given in (("", tokens), ("negative_", empty)):
        mask = torch.from_numpy((given != 0).astype(np.int64))
        with torch.no_grad():
            texts[f"{name}prompt_embeds"] = text(torch.from_numpy(given), attention_mask=mask)[0]
        texts[f"{name}prompt_attention_mask"] = mask
    expected = theirs(pipe, 4, 4.5, use_resolution_binning=False, **texts)
    asked: tuple[Any, ...] = ({"value": tokens, "mask": tokens != 0}, ["a red bird sings", "birds fly"])
    for given in asked:
        made = ours(tmp_path / "bundle", None, SHAPE, 2, {"caption": given})
        assert np.abs(made - expected).max() < 1e-4


def spans(null: bool) -> list[str]:
    """Overrides for texts of 7 tokens."""
    return [f"data.fields.caption{end}.shape=[7, 12]" for end in (("", "_null") if null else ("",))]


SD3 = {
    "static": {"shift": 3.0},
    "dynamic": {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64},
}


@pytest.mark.parametrize("kind", SD3)
def test_stable_diffusion_3_draws_the_same_images(kind: str, tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**SD3[kind])
    parts = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2", "_3")}
    autoencoder = vae(shift_factor=0.2, use_quant_conv=False, use_post_quant_conv=False)
    pipe = diffusers.StableDiffusion3Pipeline(transformer=sd3(), scheduler=scheduler, vae=autoencoder, **parts)
    pipe.save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    assert any("requests pass caption, caption_null, pooled, pooled_null" in note for note in found.notes)
    api.compile(found.spec, None, tmp_path / "bundle", overrides=["sampler.steps=5", *spans(True)])
    (told, _), (null, _) = features(7, 12, 1), features(7, 12, 2)
    pooled, none = torch.randn((2, 2, 6), generator=torch.Generator().manual_seed(3))
    texts = {"prompt_embeds": told, "negative_prompt_embeds": null}
    texts |= {"pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": none}
    given = {"caption": told, "caption_null": null, "pooled": pooled, "pooled_null": none}
    given = {name: value.numpy() for name, value in given.items()}
    drawn = {}
    for guidance in (7.0, 1.0):
        expected = theirs(pipe, 5, guidance, **texts)
        drawn[guidance] = ours(tmp_path / "bundle", None, SHAPE, 2, given, guidance)
        assert np.abs(drawn[guidance] - expected).max() < 1e-4
    assert drawn[7.0].std() > 0.05 and np.abs(drawn[7.0] - drawn[1.0]).max() > 0.02
    made = api.export_diffusers(found.spec, tmp_path / "back")
    again = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer")
    same_weights(again, pipe.transformer)
    assert settings(again) == settings(pipe.transformer)
    after = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "back", subfolder="scheduler")
    assert any("text encoders" in note for note in made.notes)
    pipe.transformer, pipe.scheduler = again, after
    assert np.abs(theirs(pipe, 5, 7.0, **texts) - drawn[7.0]).max() < 1e-4


@pytest.mark.parametrize("guided", [True, False])
def test_flux_draws_the_same_images(guided: bool, tmp_path: Path) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    parts = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2")}
    net = flux(guidance_embeds=guided)
    pipe = diffusers.FluxPipeline(transformer=net, scheduler=scheduler, vae=vae(shift_factor=0.2), **parts)
    pipe.save_pretrained(tmp_path / "theirs")
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    overrides = ["sampler.steps=5", "data.shape=[4, 8, 8]", *spans(False)]
    api.compile(found.spec, None, tmp_path / "bundle", overrides=overrides)
    (told, _), pooled = features(7, 12, 1), torch.randn((2, 6), generator=torch.Generator().manual_seed(3))
    given = {"caption": told.numpy(), "pooled": pooled.numpy()}
    drawn = []
    for guidance in (3.5, 1.0):
        expected = theirs(pipe, 5, guidance, prompt_embeds=told, pooled_prompt_embeds=pooled)
        drawn.append(ours(tmp_path / "bundle", None, SHAPE, 2, given, guidance if guided else None))
        assert np.abs(drawn[-1] - expected).max() < 1e-4
    assert drawn[0].std() > 0.05 and (np.abs(drawn[0] - drawn[1]).max() > 0.001) == guided
    made = api.export_diffusers(found.spec, tmp_path / "back")
    again = diffusers.FluxTransformer2DModel.from_pretrained(tmp_path / "back", subfolder="transformer")
    same_weights(again, net)
    assert settings(again) == settings(net) and any("text encoders" in note for note in made.notes)
    after = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(tmp_path / "back", subfolder="scheduler")
    assert settings(after) == settings(scheduler)


def test_the_shift_of_an_image_of_the_default_size(tmp_path: Path) -> None:
    """FLUX.1 dev's scheduler shifts by the number of tokens."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    parts = {f"{part}{n}": None for part in ("text_encoder", "tokenizer") for n in ("", "_2")}
    diffusers.FluxPipeline(transformer=flux(), scheduler=scheduler, vae=vae(), **parts).save_pretrained(tmp_path / "in")
    spec = load_spec(api.import_checkpoint(tmp_path / "in", tmp_path / "out").spec)
    scheduler.set_timesteps(28, sigmas=np.linspace(1.0, 1 / 28, 28), mu=1.15)
    times = spec.sampler.table(spec.objective.parameterization()).columns["t"]
    assert np.abs(times - scheduler.timesteps.numpy() / 1000).max() < 1e-6
    diffusers.DDIMScheduler().save_pretrained(tmp_path / "in/scheduler")
    with pytest.raises(
        DiagnosticError, match="the scheduler DDIMScheduler has no equivalent; supported classes: FlowMatchEuler"
    ):
        api.import_checkpoint(tmp_path / "in", tmp_path / "other")


def test_the_class_under_which_pixart_was_published(tmp_path: Path) -> None:
    """Larger images need conditions that latentc lacks, and are refused."""
    pixart().save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    config = json.loads(file.read_text())
    old = {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "use_linear_projection": False}
    file.write_text(json.dumps({**config, **old}))
    found = api.import_checkpoint(tmp_path / "theirs", tmp_path / "imported")
    assert found.system == "PixArtTransformer2DModel of diffusers" and len(found.notes) == 1
    file.write_text(json.dumps({**config, **old, "use_additional_conditions": True, "caption_channels": None}))
    with pytest.raises(DiagnosticError) as error:
        api.import_checkpoint(tmp_path / "theirs", tmp_path / "other")
    assert "resolution and aspect ratio" in str(error.value) and "caption_channels is None" in str(error.value)
